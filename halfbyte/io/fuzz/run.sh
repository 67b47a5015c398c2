#!/bin/sh
# Builds the fuzzers of the safetensors header and of the index with clang and runs them:
#   run.sh [SECONDS of both together, default 30]
# Works on copies of corpus/ and index_corpus/. Exit status 0 means no finding; a crashing input is
# kept in the folder named at the end. CXX names another clang++.
set -eu
seconds=$((${1:-30} / 2))
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cxx=${CXX:-clang++}
case $("$cxx" --version 2>/dev/null) in
  *clang*) ;;
  *) echo "run.sh: libFuzzer needs clang; '$cxx' is not one (set CXX)" >&2; exit 2 ;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/halfbyte-fuzz.XXXXXX")
io=$root/halfbyte/io

# fuzz NAME CORPUS SOURCES..
fuzz() {
  name=$1 corpus=$2
  shift 2
  "$cxx" -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    -I"$root" "$here/$name.cpp" "$@" -o "$work/$name"
  cp -r "$here/$corpus" "$work/$corpus"
  # The committed files first, each once: a regression fails with its own name.
  "$work/$name" -error_exitcode=1 -artifact_prefix="$work/" "$work/$corpus"/* \
    >"$work/$name.corpus.log" 2>&1 || {
    tail -40 "$work/$name.corpus.log" >&2
    echo "run.sh: $name: a committed input fails; everything is in $work" >&2
    exit 1
  }
  if "$work/$name" -max_total_time="$seconds" -max_len=4096 -timeout=5 -rss_limit_mb=2048 \
    -dict="$here/safetensors.dict" -artifact_prefix="$work/" -print_final_stats=1 "$work/$corpus" \
    >"$work/$name.log" 2>&1; then
    grep -E '^(stat::number_of_executed_units|Done)' "$work/$name.log" | sed "s/^/$name: /" || true
  else
    tail -40 "$work/$name.log" >&2
    echo "run.sh: $name: a finding; the input and the log are in $work" >&2
    exit 1
  fi
}

fuzz safetensors_fuzz corpus "$io/safetensors_header.cpp" "$io/safetensors_dtype.cpp" \
  "$io/safetensors_reader.cpp" "$io/utf8.cpp" "$root/halfbyte/base/tensor_view.cpp"
fuzz index_fuzz index_corpus "$io/safetensors_index.cpp" "$io/utf8.cpp"
rm -rf "$work"
