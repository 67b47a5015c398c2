// What the threads of a CTA do together. CTAs here are one-dimensional with a power of two of
// threads, 32 to 1024.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/row_sum.h"

namespace halfbyte::simt {

inline constexpr int kMaxWarps = 32;

// Shared memory of the collectives of one CTA.
struct CollectiveScratch {
  float sums[kMaxWarps];
  std::uint32_t maxima[kMaxWarps];
  float broadcast;
};

// The balanced tree over the CTA's values, thread 0 leftmost, lowest bit first. Every thread gets
// the sum. An exchange with the lane across a bit adds the two subtrees of that level; addition
// commutes, so both lanes hold the same bits.
__device__ inline float block_tree_sum(float value, CollectiveScratch& scratch) {
  for (int bit = 1; bit < 32; bit *= 2) {
    value = numerics::add_rn(value, __shfl_xor_sync(~0u, value, bit));
  }
  const int warps = static_cast<int>(blockDim.x / 32);
  if (warps == 1) return value;
  __syncthreads();  // the previous use of scratch is over
  if (threadIdx.x % 32 == 0) scratch.sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch.sums[threadIdx.x % warps];
  for (int bit = 1; bit < warps; bit *= 2) {
    value = numerics::add_rn(value, __shfl_xor_sync(~0u, value, bit));
  }
  return value;
}

// The largest of the CTA's values, in every thread.
__device__ inline std::uint32_t block_max(std::uint32_t value, CollectiveScratch& scratch) {
  value = __reduce_max_sync(~0u, value);
  const int warps = static_cast<int>(blockDim.x / 32);
  if (warps == 1) return value;
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch.maxima[threadIdx.x / 32] = value;
  __syncthreads();
  return __reduce_max_sync(~0u, scratch.maxima[threadIdx.x % warps]);
}

// The canonical sum of `leaves` leaf sums, leaf(i) being the i-th. A chunk of blockDim.x leaves is
// a subtree; the subtrees add up in thread 0 in the order of numerics::TreeSum.
template <class Leaf>
__device__ float canonical_row_sum(std::int64_t leaves, CollectiveScratch& scratch,
                                   const Leaf& leaf) {
  numerics::TreeSum sum;
  for (std::int64_t first = 0; first < leaves; first += blockDim.x) {
    const std::int64_t i = first + threadIdx.x;
    const float subtree = block_tree_sum(i < leaves ? leaf(i) : 0.0f, scratch);
    if (threadIdx.x == 0) sum.add(subtree);
  }
  if (threadIdx.x == 0) scratch.broadcast = sum.total();
  __syncthreads();
  const float total = scratch.broadcast;
  __syncthreads();
  return total;
}

}  // namespace halfbyte::simt
