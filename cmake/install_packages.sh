#!/bin/sh
# Installs the Debian packages that the build needs and this machine lacks (cmake/packages.txt);
# where it may not, prints the one line to run and stops.
#   cmake/install_packages.sh [PACKAGE PROBE]..     those in the list, and these
set -eu
cd "$(dirname "$0")/.."

here() {  # here PROBE: a command, or a header
  case $1 in
    */*) [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ] ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
  esac
}

missing=""
list=$(grep -v '^#' cmake/packages.txt; [ $# = 0 ] || printf '%s %s\n' "$@")
while read -r package probe; do
  here "$probe" || missing="$missing $package"
done <<EOF
$list
EOF
[ -n "$missing" ] || exit 0

install="apt-get install -y --no-install-recommends$missing"
give_up() {
  echo "$1 Run this, then try again:" >&2
  echo "  sudo apt-get update && sudo $install" >&2
  exit 1
}
command -v apt-get >/dev/null 2>&1 || give_up "Missing here, by their Debian names:$missing."
if [ "$(id -u)" = 0 ]; then
  sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  sudo="sudo -n"
else
  give_up "Packages are missing, and this user may not install them."
fi
echo "Installing:$missing"
# Package lists may be absent or old on a fresh machine.
as_root="$sudo env DEBIAN_FRONTEND=noninteractive"
{ $as_root apt-get update -qq && $as_root $install -qq >/dev/null; } || give_up "apt-get failed."
