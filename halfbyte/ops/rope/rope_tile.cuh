// RoPE eight pairs a thread, by 16-byte accesses. rope_cuda.cuh has the kernel for all other
// tensors. The elements are asked for before the position, on which the factors wait.
//
//   position -> in range? -> cos, sin [8] -> heads: (a, b) [8] -> (a', b') [8]
#pragma once

#include <algorithm>

#include "halfbyte/ops/rope/rope_kernels.h"
#include "halfbyte/simt/launch.cuh"
#include "halfbyte/simt/packed.cuh"
#include "halfbyte/simt/row_tile.cuh"

namespace halfbyte::ops::cuda {

inline constexpr int kRopePairs = 8, kRopeThreads = 128;

// A thread's 16 elements of a head: where its a's and b's lie, eight neighbours each. Interleaved
// pairs are two such neighbours, in which a's and b's alternate.
struct RopePieces {
  std::int64_t low, high;
};

template <class T>
__device__ __forceinline__ simt::Packed<T> load_pieces(const T* head, const RopePieces& at) {
  constexpr int kHalf = simt::Packed<T>::kWords / 2;
  simt::Packed<T> leaf;
#pragma unroll
  for (int i = 0; i < kHalf; i += 4) {
    const uint4 low = reinterpret_cast<const uint4*>(head + at.low)[i / 4];
    const uint4 high = reinterpret_cast<const uint4*>(head + at.high)[i / 4];
    leaf.words[i] = low.x, leaf.words[i + 1] = low.y;
    leaf.words[i + 2] = low.z, leaf.words[i + 3] = low.w;
    leaf.words[kHalf + i] = high.x, leaf.words[kHalf + i + 1] = high.y;
    leaf.words[kHalf + i + 2] = high.z, leaf.words[kHalf + i + 3] = high.w;
  }
  return leaf;
}
template <class T>
__device__ __forceinline__ void store_pieces(const simt::Packed<T>& leaf, T* head,
                                             const RopePieces& at) {
  constexpr int kHalf = simt::Packed<T>::kWords / 2;
#pragma unroll
  for (int i = 0; i < kHalf; i += 4) {
    reinterpret_cast<uint4*>(head + at.low)[i / 4] =
        make_uint4(leaf.words[i], leaf.words[i + 1], leaf.words[i + 2], leaf.words[i + 3]);
    reinterpret_cast<uint4*>(head + at.high)[i / 4] =
        make_uint4(leaf.words[kHalf + i], leaf.words[kHalf + i + 1], leaf.words[kHalf + i + 2],
                   leaf.words[kHalf + i + 3]);
  }
}

template <class T, bool kInterleaved>
__device__ __forceinline__ void rotate_leaf(simt::Packed<T>& leaf, const float (&cos)[kRopePairs],
                                            const float (&sin)[kRopePairs]) {
  float values[simt::kLeaf];
  unpack(leaf, values);
#pragma unroll
  for (int i = 0; i < kRopePairs; ++i) {
    float& a = values[kInterleaved ? 2 * i : i];
    float& b = values[kInterleaved ? 2 * i + 1 : kRopePairs + i];
    const float first = numerics::sub_rn(numerics::mul_rn(a, cos[i]), numerics::mul_rn(b, sin[i]));
    b = numerics::add_rn(numerics::mul_rn(a, sin[i]), numerics::mul_rn(b, cos[i]));
    a = first;
  }
  pack(values, leaf);
}

// blockIdx.x: a token; blockIdx.y, threadIdx.y and on: heads; threadIdx.x: the eight pairs. What is
// not rotated is copied after, where y is not x.
template <class T, bool kInterleaved>
__global__ void __launch_bounds__(kRopeThreads)
    rope_tile_kernel(const __grid_constant__ RopeProblem problem, bool programmatic) {
  simt::wait_for_previous_kernel(programmatic);
  const std::int64_t token = blockIdx.x;
  const int heads = static_cast<int>(problem.heads);
  const int chunks = static_cast<int>(problem.rope_dim) / (2 * kRopePairs);
  const T* x = static_cast<const T*>(problem.x.data) + token * problem.x.token_stride;
  T* y = static_cast<T*>(problem.y.data) + token * problem.y.token_stride;
  for (int chunk = threadIdx.x; chunk < chunks; chunk += blockDim.x) {
    const std::int64_t begin = problem.rope_offset;
    const RopePieces at =
        kInterleaved ? RopePieces{begin + chunk * 16, begin + chunk * 16 + 8}
                     : RopePieces{begin + chunk * 8, begin + problem.rope_dim / 2 + chunk * 8};
    int head = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
    simt::Packed<T> leaf;
    if (head < heads) leaf = load_pieces(x + head * problem.x.head_stride, at);
    const std::int64_t position = problem.position(token);
    const bool in_range = position >= 0 && position < problem.table_rows;
    float cos[kRopePairs], sin[kRopePairs];
    if (in_range) {
      const float4* from_cos =
          reinterpret_cast<const float4*>(problem.cos + position * problem.cos_stride) + chunk * 2;
      const float4* from_sin =
          reinterpret_cast<const float4*>(problem.sin + position * problem.sin_stride) + chunk * 2;
#pragma unroll
      for (int i = 0; i < kRopePairs; i += 4) {
        const float4 c = from_cos[i / 4], s = from_sin[i / 4];
        cos[i] = c.x, cos[i + 1] = c.y, cos[i + 2] = c.z, cos[i + 3] = c.w;
        sin[i] = s.x, sin[i + 1] = s.y, sin[i + 2] = s.z, sin[i + 3] = s.w;
      }
#pragma unroll
      for (int i = 0; i < kRopePairs; ++i) sin[i] = problem.inverse ? -sin[i] : sin[i];
    }
    while (head < heads) {
      if (in_range) rotate_leaf<T, kInterleaved>(leaf, cos, sin);
      if (in_range || !problem.in_place) {
        store_pieces(leaf, y + head * problem.y.head_stride, at);
      }
      head += static_cast<int>(gridDim.y * blockDim.y);
      if (head < heads) leaf = load_pieces(x + head * problem.x.head_stride, at);
    }
  }
  if (!problem.in_place && blockIdx.y == 0) {  // the elements beside them, eight at a time
    const int before = static_cast<int>(problem.rope_offset) / 8;
    const int skipped = static_cast<int>(problem.rope_dim) / 8;
    const int others = static_cast<int>(problem.head_dim) / 8 - skipped;
    const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
    const int threads = static_cast<int>(blockDim.x * blockDim.y);
    for (int i = thread; i < heads * others; i += threads) {
      const std::int64_t head = i / others;
      const int piece = i % others;
      const std::int64_t element = (piece < before ? piece : piece + skipped) * 8;
      const uint4* from =
          reinterpret_cast<const uint4*>(x + head * problem.x.head_stride + element);
      uint4* to = reinterpret_cast<uint4*>(y + head * problem.y.head_stride + element);
#pragma unroll
      for (int k = 0; k < static_cast<int>(sizeof(T)) / 2; ++k) to[k] = from[k];
    }
  }
  simt::release_next_kernel(programmatic);
}

inline bool takes_rope_tiles(const RopeProblem& problem) {
  const std::int64_t bytes = base::dtype_bytes(problem.dtype);
  const auto aligned = [](const void* data) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  };
  const auto rows_fit = [&](const RopeRows& rows) {
    return aligned(rows.data) && rows.token_stride * bytes % 16 == 0 &&
           rows.head_stride * bytes % 16 == 0;
  };
  return rows_fit(problem.x) && rows_fit(problem.y) && aligned(problem.cos) &&
         aligned(problem.sin) && problem.cos_stride % 4 == 0 && problem.sin_stride % 4 == 0 &&
         problem.rope_dim > 0 && problem.rope_dim % (2 * kRopePairs) == 0 &&
         problem.rope_offset % 8 == 0 && problem.head_dim % 8 == 0 &&
         problem.tokens < std::int64_t{1} << 31 &&
         problem.heads * problem.head_dim < std::int64_t{1} << 30;
}

template <class T>
base::Status launch_rope_tiles(const RopeProblem& problem, const simt::LaunchOptions& options) {
  if (problem.tokens == 0 || problem.heads == 0) return {};
  constexpr unsigned kMostGridRows = 65535;
  unsigned x = 1;
  while (x < kRopeThreads && x < problem.rope_dim / (2 * kRopePairs)) x *= 2;
  const auto heads = static_cast<unsigned>(problem.heads);
  const unsigned y = std::min(kRopeThreads / x, heads);
  // Few tokens: a head a thread; many: a CTA a token, which has its factors once.
  const bool few = problem.tokens <= 2 * std::int64_t{options.device.multiprocessors};
  const dim3 grid(static_cast<unsigned>(problem.tokens),
                  few ? std::min((heads + y - 1) / y, kMostGridRows) : 1),
      block(x, y);
  return problem.style == RopeStyle::kGptj
             ? simt::launch<rope_tile_kernel<T, true>>("rope_tile_kernel", grid, block, options,
                                                       problem, options.programmatic)
             : simt::launch<rope_tile_kernel<T, false>>("rope_tile_kernel", grid, block, options,
                                                        problem, options.programmatic);
}

}  // namespace halfbyte::ops::cuda
