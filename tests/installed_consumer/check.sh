#!/bin/sh
# Installs BUILD_DIR into a folder, moves that folder, and uses it as a stranger would: every public
# header alone, a C and a C++ program by find_package, the C program by pkg-config.
#   check.sh BUILD_DIR
set -eu
build=$(realpath "${1:?usage: check.sh BUILD_DIR}")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "installed_consumer: $*" >&2; exit 1; }

cmake --install "$build" --prefix "$work/first" >"$work/install.log" ||
  fail "cmake --install: $(tail -5 "$work/install.log")"
mv "$work/first" "$work/moved"
prefix=$work/moved
if grep -rIl -e "$work/first" -e "$build" "$prefix" >"$work/absolute"; then
  fail "files with an absolute path in them: $(cat "$work/absolute")"
fi

headers=$(cd "$prefix/include" && find . -name '*.h' | sed 's|^\./||' | sort)
[ "$(echo "$headers" | wc -l)" -ge 15 ] || fail "only these headers are installed: $headers"
for header in $headers; do
  echo "#include <$header>" >"$work/alone.cpp"
  g++ -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I"$prefix/include" "$work/alone.cpp" ||
    fail "$header does not compile alone"
done
echo '#include <halfbyte/halfbyte.h>' >"$work/alone.c"
gcc -std=c11 -pedantic -fsyntax-only -Wall -Wextra -Werror -I"$prefix/include" "$work/alone.c" ||
  fail "halfbyte.h is not C11"

version=$(sed -n 's/^Version: //p' "$(find "$prefix" -name halfbyte.pc)")
cat >"$work/expected" <<END
halfbyte $version
scales 2c 2c
codes de cd 9b 10 43 55 66 77
error quantize: x: expected a tensor, got none
END
check_output() {
  "$@" >"$work/output" || fail "$1 exits with $?"
  diff "$work/expected" "$work/output" || fail "$1 prints something else"
}

configure() {
  cmake -S "$here" -B "$work/$1" -DCMAKE_PREFIX_PATH="$prefix" -DCONSUMER_WANTS="${2:-}" \
    >"$work/$1.log" 2>&1
}
configure consumer || fail "find_package: $(cat "$work/consumer.log")"
cmake --build "$work/consumer" >"$work/build.log" 2>&1 || fail "$(cat "$work/build.log")"
check_output "$work/consumer/consumer_c"
check_output "$work/consumer/consumer_cpp"
if [ -z "$(find "$prefix" -name 'halfbyteTargets.cmake' -exec grep -l 'halfbyte::cuda' {} +)" ]; then
  configure wants_cuda cuda && fail "component cuda is found without CUDA"
  grep -q "built without CUDA" "$work/wants_cuda.log" || fail "$(cat "$work/wants_cuda.log")"
else
  configure wants_cuda cuda || fail "$(cat "$work/wants_cuda.log")"
fi

library_folder=$(dirname "$(find "$prefix" -name libhalfbyte.so)")
export PKG_CONFIG_PATH=$library_folder/pkgconfig
# shellcheck disable=SC2046  # the flags are words
gcc -std=c11 -pedantic -Wall -Wextra -Werror "$here/consumer.c" -o "$work/by_pkg_config" \
  $(pkg-config --cflags --libs halfbyte)
LD_LIBRARY_PATH=$library_folder check_output "$work/by_pkg_config"
g++ -std=c++17 -x c++ -fsyntax-only -Wall -Wextra -Werror -I"$prefix/include" \
  "$here/consumer.c" 2>"$work/as_cpp.log" || fail "consumer.c as C++: $(cat "$work/as_cpp.log")"
if [ -e "$prefix/bin/halfbyte" ]; then
  "$prefix/bin/halfbyte" --help >/dev/null || fail "bin/halfbyte does not start"
fi
echo "installed_consumer: ok ($(echo "$headers" | wc -l) headers)"
