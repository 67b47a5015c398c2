#!/bin/sh
# Compiles the golden consumer in every way that could change a bit and compares the hashes it prints
# with golden.txt.
#
#   tests/golden_consumer/check.sh            every compiler that is there; exit 1 on a difference
#   tests/golden_consumer/check.sh --update   rewrites golden.txt: with a new kNumericsVersion only
#
# CXX, CLANGXX and NVCC name the compilers (default g++, clang++, nvcc); one that is absent is skipped,
# except CXX. NVCC_FLAGS adds to nvcc's (-arch=native, say).
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cxx=${CXX:-g++}
clangxx=${CLANGXX:-clang++}
nvcc=${NVCC:-nvcc}
failed=0
compared=0

# check NAME SOURCE COMPILER FLAG..: compiles, runs, compares.
check() {
  name=$1 source=$2
  shift 2
  if ! "$@" -I"$root" "$here/$source" -o "$work/consumer" >"$work/log" 2>&1; then
    echo "FAIL $name: does not compile"
    cat "$work/log"
    failed=1
    return
  fi
  if ! "$work/consumer" >"$work/all"; then
    echo "FAIL $name: does not run"
    failed=1
    return
  fi
  grep -v '^device ' "$work/all" >"$work/host"
  compare "$name" "$work/host"
  if sed -n '1p; s/^device //p' "$work/all" >"$work/device" && grep -q '^device ' "$work/all"; then
    compare "$name on the device" "$work/device"
  fi
}

compare() {
  compared=$((compared + 1))
  if diff "$here/golden.txt" "$2" >"$work/difference"; then
    echo "ok   $1"
  else
    echo "FAIL $1: other bits than golden.txt (< golden, > here)"
    cat "$work/difference"
    failed=1
  fi
}

command -v "$cxx" >/dev/null || { echo "FAIL: no $cxx"; exit 1; }
if [ "${1:-}" = --update ]; then
  "$cxx" -std=c++20 -O2 -ffp-contract=off -I"$root" "$here/consumer.cpp" -o "$work/consumer" &&
    "$work/consumer" >"$here/golden.txt" || exit 1
fi

check "$cxx -O3 -march=native" consumer.cpp "$cxx" -std=c++20 -O3 -march=native
check "$cxx -O0" consumer.cpp "$cxx" -std=c++20 -O0
if [ "$(uname -m)" = x86_64 ] && grep -qw avx2 /proc/cpuinfo; then
  check "$cxx -O3 -march=x86-64-v3 -ffp-contract=fast" consumer.cpp \
    "$cxx" -std=c++20 -O3 -march=x86-64-v3 -ffp-contract=fast
fi
if command -v "$clangxx" >/dev/null; then
  check "$clangxx -O3 -march=native -ffp-contract=fast" consumer.cpp \
    "$clangxx" -std=c++20 -O3 -march=native -ffp-contract=fast
else
  echo "skip $clangxx: not here"
fi
if command -v "$nvcc" >/dev/null; then
  # shellcheck disable=SC2086
  check "$nvcc" consumer.cu "$nvcc" -std=c++20 ${NVCC_FLAGS:-}
else
  echo "skip $nvcc: not here"
fi

if [ $failed -ne 0 ]; then
  echo "The headers gave other bits than golden.txt holds. If that is meant, raise kNumericsVersion and run check.sh --update."
  exit 1
fi
echo "$compared builds, all equal to golden.txt"
