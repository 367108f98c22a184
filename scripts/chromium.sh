#!/bin/sh
# Prints the path of a Chromium for the browser tests; root gets Debian's where there is none.
# Exit code 1 and nothing printed: there is none and it cannot be installed here.
set -u

find_it() {
  for name in "${RESIGHT_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    if [ -n "$name" ] && command -v "$name"; then return 0; fi
  done
  return 1
}

find_it && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing Chromium for the browser tests …" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1
  find_it && exit 0
fi
exit 1
