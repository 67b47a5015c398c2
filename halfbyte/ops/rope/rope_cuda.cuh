// The room's CUDA launcher, and its general kernel, one CTA a token; one .cu a type instantiates
// them. Aligned tensors take the kernel of rope_tile.cuh.
//
//   position -> in range? -> a pair a thread, over the token's heads -> y
//                                 the elements beside them: copied, if y is not x
#pragma once

#include <algorithm>

#include "halfbyte/ops/rope/rope_kernels.h"
#include "halfbyte/ops/rope/rope_tile.cuh"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {

template <class T>
__device__ T* head_of(const RopeRows& rows, std::int64_t token, std::int64_t head) {
  return static_cast<T*>(rows.data) + token * rows.token_stride + head * rows.head_stride;
}

// Copies elements [begin, end) of every head of a token.
template <class T>
__device__ void copy_elements(const RopeProblem& problem, std::int64_t token, std::int64_t begin,
                              std::int64_t end) {
  const std::int64_t count = end - begin;
  for (std::int64_t i = threadIdx.x; i < problem.heads * count; i += blockDim.x) {
    const std::int64_t head = i / count, k = begin + i % count;
    head_of<T>(problem.y, token, head)[k] = head_of<T>(problem.x, token, head)[k];
  }
}

// A position out of range leaves its token as it is: the host cannot have seen it.
template <class T>
__global__ void rope_kernel(const RopeProblem problem) {
  const std::int64_t half = problem.rope_dim / 2;
  const std::int64_t begin = problem.rope_offset, end = begin + problem.rope_dim;
  for (std::int64_t token = blockIdx.x; token < problem.tokens; token += gridDim.x) {
    const std::int64_t position = problem.position(token);
    if (position < 0 || position >= problem.table_rows) {
      if (!problem.in_place) copy_elements<T>(problem, token, 0, problem.head_dim);
      continue;
    }
    const float* cos = problem.cos + position * problem.cos_stride;
    const float* sin = problem.sin + position * problem.sin_stride;
    for (std::int64_t i = threadIdx.x; i < problem.heads * half; i += blockDim.x) {
      const std::int64_t head = i / half, pair = i % half;
      const std::int64_t a = begin + rope_first(problem.style, pair);
      const std::int64_t b = begin + rope_second(problem.style, pair, problem.rope_dim);
      const T* x = head_of<T>(problem.x, token, head);
      const RopePair<T> rotated = rope_rotate<T>(numerics::to_float(x[a]), numerics::to_float(x[b]),
                                                 cos[pair], sin[pair], problem.inverse);
      T* y = head_of<T>(problem.y, token, head);
      y[a] = rotated.a;
      y[b] = rotated.b;
    }
    if (!problem.in_place) {
      if (begin > 0) copy_elements<T>(problem, token, 0, begin);
      if (end < problem.head_dim) copy_elements<T>(problem, token, end, problem.head_dim);
    }
  }
}

template <class T>
base::Status launch_rope(const RopeProblem& problem, const simt::LaunchOptions& options) {
  if (takes_rope_tiles(problem)) return launch_rope_tiles<T>(problem, options);
  constexpr std::int64_t kMaxThreads = 256, kMaxCtas = (std::int64_t{1} << 31) - 1;
  const std::int64_t pairs = problem.heads * (problem.rope_dim / 2);
  const auto threads = static_cast<int>(std::min(kMaxThreads, (pairs + 31) / 32 * 32));
  const auto ctas = static_cast<int>(std::min(kMaxCtas, problem.tokens));
  if (ctas == 0 || threads == 0) return {};
  rope_kernel<T><<<ctas, threads, 0, options.stream>>>(problem);
  return simt::launch_status("rope_kernel");
}

// Instantiated in rope_cuda_<type>.cu.
#define HALFBYTE_ROPE_LAUNCHER(prefix, T) \
  prefix template base::Status launch_rope<T>(const RopeProblem&, const simt::LaunchOptions&);

}  // namespace halfbyte::ops::cuda
