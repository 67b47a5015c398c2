#!/bin/sh
# The NEON level without an Arm machine: cross-compiles the rooms' property tests and the golden bits
# (Debian: g++-aarch64-linux-gnu, qemu-user, libgtest-dev) and runs them under emulation.
#   tests/neon_qemu.sh          HALFBYTE_TEST_CASES (default 600) cases of each kind
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cxx=aarch64-linux-gnu-g++
gtest=/usr/src/googletest/googletest
# Highway's headers know every processor; they are Debian's for this one, so they come by a link of
# their own and not with /usr/include.
mkdir "$work/include"
ln -s /usr/include/hwy "$work/include/hwy"
flags="-std=c++20 -O2 -ffp-contract=off -fopenmp -I. -I$work/include -I$gtest/include
  -DHALFBYTE_HAS_CPU_NEON=1 -DHALFBYTE_SOURCE_DIR=\"$PWD\""
level="-march=armv8-a+crypto -DHALFBYTE_LEVEL=neon -DHWY_COMPILE_ONLY_STATIC -DHWY_DISABLE_PCLMUL_AES"

compile() {  # compile SOURCE FLAG..
  source=$1
  shift
  echo "$source"
  "$cxx" $flags "$@" -c "$source" -o "$work/$(basename "$source").o"
}
for source in halfbyte/base/tensor_view.cpp halfbyte/base/cpu_level.cpp \
  halfbyte/base/float_environment.cpp halfbyte/base/cuda_device.cpp halfbyte/simd/threads.cpp \
  halfbyte/ops/common/arguments.cpp halfbyte/ops/common/dispatch.cpp \
  halfbyte/ops/common/quantize_target.cpp halfbyte/ops/common/testing.cpp \
  halfbyte/ops/common/testing_activation.cpp halfbyte/ops/common/testing_cases.cpp \
  halfbyte/ops/common/testing_random.cpp halfbyte/ops/common/testing_groups.cpp halfbyte/ops/*/*_ref.cpp \
  halfbyte/ops/gemm/gemm.cpp halfbyte/ops/gemm/gemm_arguments.cpp halfbyte/ops/gemm/gemm_input.cpp \
  halfbyte/ops/gemm/gemm_prepare.cpp halfbyte/ops/gemm/gemm_run.cpp halfbyte/ops/gemm/gemm_silu_mul.cpp \
  halfbyte/ops/gemm/gemm_silu_mul_rows.cpp halfbyte/ops/gemm/gemm_silu_mul_testing.cpp \
  halfbyte/ops/gemm/gemm_testing.cpp \
  halfbyte/ops/quantize/quantize.cpp halfbyte/ops/rmsnorm/rmsnorm.cpp \
  halfbyte/ops/rope/rope.cpp halfbyte/ops/silu_mul/silu_mul.cpp \
  halfbyte/ops/*/*_property_test.cpp tests/golden_bits/*.cpp; do
  compile "$source"
done
for source in halfbyte/ops/*/*_cpu.cpp; do compile "$source" $level; done
compile "$gtest/src/gtest-all.cc" "-I$gtest"
compile "$gtest/src/gtest_main.cc"
"$cxx" -fopenmp -static "$work"/*.o -o "$work/tests"
HALFBYTE_TEST_CASES=${HALFBYTE_TEST_CASES:-600} qemu-aarch64 "$work/tests" --gtest_brief=1
