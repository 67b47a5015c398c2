#!/bin/sh
# Builds the safetensors fuzzer with clang and runs it: run.sh [SECONDS, default 30]
# Works on a copy of corpus/. Exit status 0 means no finding; a crashing input is kept in the
# folder named at the end. CXX names another clang++.
set -eu
seconds=${1:-30}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cxx=${CXX:-clang++}
case $("$cxx" --version 2>/dev/null) in
  *clang*) ;;
  *) echo "run.sh: libFuzzer needs clang; '$cxx' is not one (set CXX)" >&2; exit 2 ;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/halfbyte-fuzz.XXXXXX")
io=$root/halfbyte/io
"$cxx" -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
  -I"$root" "$here/safetensors_fuzz.cpp" "$io/safetensors_header.cpp" "$io/safetensors_dtype.cpp" \
  "$io/safetensors_reader.cpp" "$io/utf8.cpp" "$root/halfbyte/base/tensor_view.cpp" \
  -o "$work/safetensors_fuzz"
cp -r "$here/corpus" "$work/corpus"
# The committed files first, each once: a regression fails with its own name.
"$work/safetensors_fuzz" -error_exitcode=1 -artifact_prefix="$work/" "$work"/corpus/* >"$work/corpus.log" 2>&1 || {
  tail -40 "$work/corpus.log" >&2
  echo "run.sh: a committed input fails; everything is in $work" >&2
  exit 1
}
if "$work/safetensors_fuzz" -max_total_time="$seconds" -max_len=4096 -timeout=5 -rss_limit_mb=2048 \
  -dict="$here/safetensors.dict" -artifact_prefix="$work/" -print_final_stats=1 "$work/corpus" \
  >"$work/fuzz.log" 2>&1; then
  grep -E '^(stat::number_of_executed_units|Done)' "$work/fuzz.log" || true
  rm -rf "$work"
else
  tail -40 "$work/fuzz.log" >&2
  echo "run.sh: a finding; the input and the log are in $work" >&2
  exit 1
fi
