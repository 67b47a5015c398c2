#!/bin/sh
# Installs the Debian packages that the build needs and this machine lacks (cmake/packages.txt);
# where it may not, prints the one line to run and stops.
set -eu
cd "$(dirname "$0")/.."

missing=""
for package in $(cat cmake/packages.txt); do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

# Not a Debian system, or the tools come from elsewhere: CMake will name what it cannot find.
command -v apt-get >/dev/null 2>&1 || { echo "no apt-get here; needed:$missing" >&2; exit 0; }

install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
  sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  sudo="sudo -n"
else
  echo "Packages are missing. Run this, then try again:" >&2
  echo "  sudo apt-get update && sudo $install" >&2
  exit 1
fi
echo "Installing:$missing"
# Package lists may be absent or old on a fresh machine.
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
