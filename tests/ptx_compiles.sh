#!/bin/sh
# Compiles the CUDA sources to PTX for the architectures that no machine of ours has (sm_100 and
# sm_120 families) and checks that each compiles. The hardware FP4 conversion is not used yet: once
# a kernel asks for it, this is where its instruction is looked for, since a plain sm_100 target
# silently emulates it.
set -eu
cd "$(dirname "$0")/.."
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || { echo "no nvcc here: PTX not compiled"; exit 0; }
count=0
for arch in 100f 120f; do
  for source in halfbyte/ops/*/*_cuda_bf16.cu; do
    "$nvcc" -std=c++20 --fmad=false -I. -DHALFBYTE_WITH_CUDA=1 -DHALFBYTE_CUDA_ARCHS="\"$arch\"" \
      -arch=compute_$arch -ptx -o /dev/null "$source"
    count=$((count + 1))
  done
done
echo "PTX: $count compilations for sm_100f and sm_120f"
