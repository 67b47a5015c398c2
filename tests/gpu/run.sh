#!/bin/bash
# Everything that a GPU has to show, in one command: builds with CUDA, runs the C++ tests on the
# device, the same tests through sm_80's PTX, and compute-sanitizer on small shapes; prints a table.
#
#   tests/gpu/run.sh [OUT]      logs and the table go to OUT (default build-gpu/report)
#
# HALFBYTE_HWY_DEB: a libhwy-dev package to unpack where Highway is not installed.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-build-gpu/report}
mkdir -p "$out"
cmake_flags=(-G Ninja -DCMAKE_BUILD_TYPE=Release -DHALFBYTE_CUDA=ON)
if [ -n "${HALFBYTE_HWY_DEB:-}" ]; then
  dpkg -x "$HALFBYTE_HWY_DEB" /tmp/halfbyte-hwy
  cmake_flags+=(-DHALFBYTE_HWY_INCLUDE=/tmp/halfbyte-hwy/usr/include)
fi
rows=()
note() { rows+=("$(printf '%-34s %s' "$1" "$2")"); }

build() {  # build DIR ARCHS [TARGETS [FLAGS]]
  local start=$SECONDS
  if cmake -S . -B "$1" "${cmake_flags[@]}" -DHALFBYTE_CUDA_ARCHS="$2" -DCMAKE_CUDA_FLAGS="${4:-}" >"$out/$1.log" 2>&1 &&
    cmake --build "$1" -j "$(nproc)" --target ${3:-all} >>"$out/$1.log" 2>&1; then
    note "build $2" "$((SECONDS - start)) s, $(nproc) cores"
  else
    note "build $2" FAILED
    tail -n 40 "$out/$1.log"
  fi
}

run_tests() {  # run_tests NAME DIR REGEX
  ctest --test-dir "$2" -R "$3" -j 8 --output-on-failure >"$out/$1.log" 2>&1
  note "$1" "$(grep -E 'tests passed|No tests' "$out/$1.log" | head -1)"
  grep -A 20 -E '\*\*\*(Failed|Timeout)' "$out/$1.log" | head -80
}

sanitize() {  # sanitize TOOL PROGRAM [DIR]: its CUDA cases, few and small
  HALFBYTE_TEST_CASES=60 timeout 250 compute-sanitizer --tool "$1" --error-exitcode 1 \
    "${3:-build-gpu}/tests/$2" --gtest_filter='*Cuda*' >"$out/$1-$2.log" 2>&1
}

build build-gpu 90a
run_tests tests-sm_90a build-gpu .
# The package's tests, where this machine's python3 has torch; CUDA tensors included.
if python3 -c 'import torch, pytest' 2>/dev/null; then
  HALFBYTE_LIBRARY=build-gpu/lib/libhalfbyte.so PYTHONPATH=bindings/python \
    timeout 300 python3 -m pytest -q -p no:cacheprovider bindings/python/tests >"$out/python.log" 2>&1
  note "python tests" "$(tail -n 1 "$out/python.log")"
  grep -E '^(FAILED|ERROR|E  )' "$out/python.log" | head -30
fi
build build-gpu-sm80 80
run_tests cuda-tests-through-sm_80-ptx build-gpu-sm80 Cuda
# A build without a kernel for this device: an error that lists what there is, never zeros. (On a
# device of the sm_120 family take another architecture.)
build build-gpu-other 120f
build-gpu-other/bin/halfbyte bench rmsnorm_quantize --backend cuda --shapes 4x64 >"$out/other.log" 2>&1
note "no kernel for this device" "exit $?: $(tail -n 1 "$out/other.log")"

# racecheck does not follow a barrier that one lane arrives at for a warp (gemm_cuda_decode.cuh).
build build-gpu-racecheck 90a 'gemm_test gemm_silu_mul_test' -DHALFBYTE_RACECHECK
for tool in memcheck racecheck initcheck; do
  for program in gemm_test gemm_silu_mul_test quantize_test rmsnorm_test rope_test silu_mul_test; do
    dir=build-gpu
    [[ "$tool $program" == "racecheck gemm"* ]] && dir=build-gpu-racecheck
    sanitize "$tool" "$program" "$dir" &
  done
  wait
done
for tool in memcheck racecheck initcheck; do
  for program in gemm_test gemm_silu_mul_test quantize_test rmsnorm_test rope_test silu_mul_test; do
    log="$out/$tool-$program.log"
    note "$tool $program" "$(grep -E 'SUMMARY' "$log" | tail -1 | tr -d '=')$(grep -E '^\[  (PASSED|FAILED)' "$log" | head -1)"
  done
done

{
  echo "device: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1), $(date -u +%F)"
  printf '%s\n' "${rows[@]}"
} | tee "$out/table.txt"
