#!/bin/sh
# Makes sure that `faketime` is there for the test of wrong clocks; root gets Debian's.
# Where it is not and cannot be installed, that one test fails and says what to install.
set -u

command -v faketime >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing faketime for the test of wrong clocks …" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends faketime; } >/dev/null 2>&1
fi
exit 0
