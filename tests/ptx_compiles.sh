#!/bin/sh
# Compiles the CUDA sources to PTX for the architectures that no machine of ours has (sm_100 and
# sm_120 families) and looks for the hardware's FP4 conversion in it wherever FP4 codes are made: a
# plain sm_100 target silently emulates it.
set -eu
cd "$(dirname "$0")/.."
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || { echo "no nvcc here: PTX not compiled"; exit 0; }
ptx=$(mktemp)
trap 'rm -f "$ptx"' EXIT
count=0
for arch in 100f 120f; do
  for source in halfbyte/ops/*/*_cuda_bf16.cu; do
    "$nvcc" -std=c++20 --fmad=false -I. -DHALFBYTE_WITH_CUDA=1 -DHALFBYTE_CUDA_ARCHS="\"$arch\"" \
      -arch=compute_$arch -ptx -o "$ptx" "$source"
    count=$((count + 1))
    case $source in */quantize_cuda* | */rmsnorm_cuda* | */silu_mul_cuda*)
      if ! grep -q 'cvt\.rn\.satfinite\.e2m1x2\.f32' "$ptx"; then
        echo "$source for sm_$arch: no cvt.rn.satfinite.e2m1x2.f32 in its PTX" >&2
        exit 1
      fi ;;
    esac
  done
done
echo "PTX: $count compilations for sm_100f and sm_120f, FP4 conversions in hardware"
