#!/bin/sh
# SPDX-License-Identifier: MIT
# setup.sh VENV: install the Debian packages that are missing, and mkharness into VENV.
# Run by `make setup`. Does only what is not done yet; safe to run again after any failure.
set -eu

venv=$1
python=${PYTHON:-/usr/bin/python3}

# One list for this and for `mkh doctor`, which tries them: a package a line, `NAME: what for`.
packages=$(sed -n 's/^\([a-z0-9.+-]*\): .*/\1/p' "$(dirname "$0")/needs.txt" | tr '\n' ' ')

stop() {
	printf 'setup: %s\n' "$1" >&2
	shift
	for line; do printf '  %s\n' "$line" >&2; done
	exit 1
}

# begin WHAT ... finish: a step with the seconds that it took.
begin() {
	printf '... %s\n' "$1"
	step=$1 started=$(date +%s)
}
finish() {
	printf 'done %s (%d s)\n' "$step" $(($(date +%s) - started))
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
	stop "this computer does not run Debian; mkharness needs apt and these packages:" "$packages"

missing=
for package in $packages; do
	dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
		missing="$missing $package"
done

if [ "$missing" ]; then
	install="apt-get update && apt-get install -y --no-install-recommends$missing"
	if [ "$(id -u)" -eq 0 ]; then
		as_root=env
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		as_root="sudo -n env"
	else
		stop "Debian packages are missing and this is not root. Run this, then make again:" \
			"sudo sh -c '$install'"
	fi
	begin "Setup: Debian packages$missing"
	# The lists may be empty, or older than the mirror's packages: install, else update and install.
	attempt() {
		$as_root DEBIAN_FRONTEND=noninteractive apt-get -q "$@" >>"$log" 2>&1
	}
	# shellcheck disable=SC2086
	attempt install -y --no-install-recommends $missing || {
		attempt update || echo "apt-get update failed" >>"$log"
		attempt install -y --no-install-recommends $missing || {
			tail -n 15 "$log" >&2
			stop "apt-get could not install the packages (its last words are above)." \
				"Check the network and /etc/apt, then run make again, or install them by:" "$install"
		}
	}
	finish
fi

# A virtual environment that was moved, or whose Python is gone, starts no more.
"$venv/bin/python" -c '' 2>/dev/null && "$venv/bin/pip" --version >/dev/null 2>&1 || {
	begin "Setup: $venv"
	rm -rf "$venv"
	"$python" -m venv "$venv" || stop "$python cannot create $venv" "Set PYTHON to a Python 3.11 or newer."
	finish
}
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
	stop "$venv has $("$venv/bin/python" -V), mkharness needs 3.11" "rm -r $venv; make setup PYTHON=/path/to/python3"

begin "Setup: Python packages into $venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -e '.[dev]' >"$log" 2>&1 || {
	grep -v '^WARNING: Location' "$log" | tail -n 5 >&2
	stop "pip could not install the Python packages (its last words are above)." \
		"Check the network (pip's own proxy and index settings are used), then run make again."
}
finish
