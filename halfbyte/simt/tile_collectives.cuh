// What the warps that share a row do together: in a warp, over a CTA. The
// sums are those of numerics/row_sum.h, in its order.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/row_sum.h"

namespace halfbyte::simt {

// The trees over the 32 leaves each of values[0 .. N), by a warp: lane i has that of i % N. The
// first levels exchange halves: a lane keeps the value of its parity and gives the other, so that N
// values cost little more than one.
template <int N>
__device__ __forceinline__ float warp_group_sums(float (&values)[N], int lane) {
  static_assert(N == 1 || N == 2 || N == 4);
  int bit = 1;
#pragma unroll
  for (int count = N; count > 1; count /= 2, bit *= 2) {
    const bool upper = (lane & bit) != 0;
#pragma unroll
    for (int i = 0; i < count / 2; ++i) {
      const float keep = upper ? values[2 * i + 1] : values[2 * i];
      const float give = upper ? values[2 * i] : values[2 * i + 1];
      values[i] = numerics::add_rn(keep, __shfl_xor_sync(~0u, give, bit));
    }
  }
  float sum = values[0];
#pragma unroll
  for (; bit < 32; bit *= 2) sum = numerics::add_rn(sum, __shfl_xor_sync(~0u, sum, bit));
  return sum;
}

// The tree over the leaves of a warp, in every lane; values[j] belong to 32 leaves before those of
// values[j + 1].
template <int N>
__device__ __forceinline__ float warp_tree_sum(float (&values)[N], int lane) {
  float sum = warp_group_sums(values, lane);
#pragma unroll
  for (int j = 1; j < N; j *= 2) sum = numerics::add_rn(sum, __shfl_xor_sync(~0u, sum, j));
  return sum;
}

// Over what a row lies: a warp, a CTA, or several CTAs that exchange nothing: kSplit, where each
// has its part; kShared, where each reads all of the row and writes a part.
enum class TileScope { kWarp, kCta, kSplit, kShared };

// Shared memory of the collectives of a CTA, one value a warp; two of each, so that one barrier a
// use is enough. What is after the last warp is zero.
struct TileScratch {
  alignas(16) float sums[2][32];
  alignas(16) std::uint32_t maxima[2][32];

  __device__ __forceinline__ void pad(int warps, int lane) {
    if (lane < warps) return;
    sums[0][lane] = sums[1][lane] = 0.0f;
    maxima[0][lane] = maxima[1][lane] = 0;
  }
};

// The tree over the values of up to 16 warps, in every thread: adding them there takes less time
// than exchanging them.
__device__ __forceinline__ float tree_of_warps(const float (&sums)[32], int warps) {
  const auto tree_of_4 = [&](int i) {
    const float4 four = reinterpret_cast<const float4*>(sums)[i];
    return numerics::add_rn(numerics::add_rn(four.x, four.y), numerics::add_rn(four.z, four.w));
  };
  if (warps <= 8) return numerics::add_rn(tree_of_4(0), tree_of_4(1));
  return numerics::add_rn(numerics::add_rn(tree_of_4(0), tree_of_4(1)),
                          numerics::add_rn(tree_of_4(2), tree_of_4(3)));
}

}  // namespace halfbyte::simt
