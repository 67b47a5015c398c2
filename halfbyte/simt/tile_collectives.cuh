// What the warps that share a row do together: in a warp, over a CTA, over a cluster of CTAs. The
// sums are those of numerics/row_sum.h, in its order.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/row_sum.h"

namespace halfbyte::simt {

// The tree over the leaves of a warp, in every lane; values[j] belong to 32 leaves before those of
// values[j + 1]. The first levels exchange halves: a lane keeps the value of its parity and gives
// the other, so that N values cost little more than one.
template <int N>
__device__ __forceinline__ float warp_tree_sum(float (&values)[N], int lane) {
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
#pragma unroll
  for (int j = 1; j < N; j *= 2) sum = numerics::add_rn(sum, __shfl_xor_sync(~0u, sum, j));
  return sum;
}

}  // namespace halfbyte::simt
