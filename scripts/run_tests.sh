#!/bin/sh
# Runs pytest, a process for each core, with the arguments given; says before and after if the
# browser tests cannot run. Which tests share a process is in tests/conftest.py.
set -u
cd "$(dirname "$0")/.."

notice=""
if chromium=$(scripts/chromium.sh); then
  export RESIGHT_CHROMIUM="$chromium"
else
  notice="
  ######################################################################
  #  BROWSER TESTS ARE SKIPPED: no Chromium was found.                  #
  #  Install one (Debian: apt-get install chromium), or name it in      #
  #  RESIGHT_CHROMIUM. RESIGHT_REQUIRE_BROWSER=1 makes this a failure.  #
  ######################################################################
"
fi

# A folder of its own: the one that all runs of a user share is closed by each of them to others,
# and so to the PostgreSQL of this run.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

[ -n "$notice" ] && echo "$notice" >&2
"${VENV:-.venv}/bin/python" -m pytest -n auto --basetemp "$scratch/run" "$@"
status=$?
[ -n "$notice" ] && echo "$notice" >&2
exit $status
