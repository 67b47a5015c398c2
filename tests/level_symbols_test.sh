#!/bin/sh
# A *_cpu.cpp is compiled once a CPU level. A weak symbol in such an object (an inline function that
# was not inlined) could be linked in place of the baseline's copy and crash older processors, so
# there may be none outside the level's own namespace.
#   level_symbols_test.sh OBJECT..
set -eu
status=0
for object in "$@"; do
  weak=$(nm -C "$object" | grep -E ' [WVu] ' | grep -vE '::(v3|v4|neon)::' || true)
  if [ -n "$weak" ]; then
    echo "$object has weak symbols outside its level:" >&2
    echo "$weak" >&2
    status=1
  fi
done
[ $status = 0 ] && echo "level symbols: $# objects, none weak"
exit $status
