#!/bin/sh
# Makes the virtual environment and installs into it, once per change of what is to be installed.
# usage: scripts/environment.sh base|models|dev      (PYTHON and VENV name other paths)
set -eu
cd "$(dirname "$0")/.."

want=$1
python=${PYTHON:-python3}
venv=${VENV:-.venv}
case $want in
  base)   satisfied_by="base models dev"; extras="" ;;
  models) satisfied_by="models dev";      extras="[models]" ;;
  dev)    satisfied_by="dev";             extras="[models,dev]" ;;
  *) echo "usage: $0 base|models|dev" >&2; exit 2 ;;
esac

# The place is part of the key: a virtual environment that was moved has scripts that point elsewhere.
key="$(cat pyproject.toml constraints.txt | cksum) $PWD"
for set in $satisfied_by; do
  if [ "$(cat "$venv/.installed-$set" 2>/dev/null || true)" = "$key" ] && [ -x "$venv/bin/resight" ]; then
    exit 0
  fi
done

if ! command -v "$python" >/dev/null 2>&1; then
  echo "Resight needs Python 3.11 or newer, and there is no '$python' here. Install it, or run: make PYTHON=/path/to/python3.11 …" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "Resight needs Python 3.11 or newer, but '$python' is $("$python" -V 2>&1). Run: make PYTHON=/path/to/python3.11 …" >&2
  exit 1
fi

if [ -f "$venv/.place" ] && [ "$(cat "$venv/.place")" != "$PWD" ]; then
  echo "The folder was moved since $venv was made: making it anew."
  rm -rf "$venv"
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  rm -rf "$venv"
  if ! "$python" -m venv "$venv"; then
    echo "'$python -m venv' failed (see above). On Debian and Ubuntu, install the package python3-venv, then run make again." >&2
    exit 1
  fi
fi
printf '%s\n' "$PWD" > "$venv/.place"

echo "Installing Resight$extras into $venv (a few minutes the first time) …"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable ".$extras"
printf '%s\n' "$key" > "$venv/.installed-$want"
