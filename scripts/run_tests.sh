#!/bin/sh
# Runs pytest, a process for each core, with the arguments given; says before and after if the
# browser tests cannot run.
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

[ -n "$notice" ] && echo "$notice" >&2
"${VENV:-.venv}/bin/python" -m pytest -n auto --dist loadgroup "$@"
status=$?
[ -n "$notice" ] && echo "$notice" >&2
exit $status
