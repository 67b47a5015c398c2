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

// Over what a row lies.
enum class TileScope { kWarp, kCta, kCluster };

// Warps that may share a row: of one CTA, or of eight.
template <TileScope kScope>
inline constexpr int kMostRowWarps = kScope == TileScope::kCluster ? 128 : 16;

// Shared memory of the collectives of a CTA, one value a warp of the row; two of each, so that one
// barrier a use is enough. What is after the last warp is zero.
template <int kMostWarps>
struct TileScratch {
  alignas(16) float sums[2][kMostWarps];
  alignas(16) std::uint32_t maxima[2][kMostWarps];

  __device__ __forceinline__ void pad(int warps) {
    for (int i = warps + static_cast<int>(threadIdx.x); i < kMostWarps; i += blockDim.x) {
      sums[0][i] = sums[1][i] = 0.0f;
      maxima[0][i] = maxima[1][i] = 0;
    }
  }
};

// The tree over the values of the warps, in every thread. Adding what few there are in every thread
// takes less time than exchanging them.
template <int kMostWarps>
__device__ __forceinline__ float tree_of_warps(const float (&sums)[kMostWarps], int warps,
                                               int lane) {
  const auto tree_of_4 = [&](int i) {
    const float4 four = reinterpret_cast<const float4*>(sums)[i];
    return numerics::add_rn(numerics::add_rn(four.x, four.y), numerics::add_rn(four.z, four.w));
  };
  if (warps <= 8) return numerics::add_rn(tree_of_4(0), tree_of_4(1));
  if (kMostWarps == 16 || warps <= 16) {
    return numerics::add_rn(numerics::add_rn(tree_of_4(0), tree_of_4(1)),
                            numerics::add_rn(tree_of_4(2), tree_of_4(3)));
  }
  float value = kMostWarps == 128 ? tree_of_4(lane) : 0.0f;
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
    value = numerics::add_rn(value, __shfl_xor_sync(~0u, value, bit));
  }
  return value;
}

// The largest of the values of the warps, in every thread.
template <int kMostWarps>
__device__ __forceinline__ std::uint32_t max_of_warps(const std::uint32_t (&maxima)[kMostWarps],
                                                      int lane) {
  if constexpr (kMostWarps == 16) return __reduce_max_sync(~0u, maxima[lane % 16]);
  const uint4 four = reinterpret_cast<const uint4*>(maxima)[lane % (kMostWarps / 4)];
  return __reduce_max_sync(~0u, max(max(four.x, four.y), max(four.z, four.w)));
}

// The CTAs of a cluster, one behind the other along a row.
struct TileCluster {
  int ctas = 1, rank = 0;

#if __CUDA_ARCH__ >= 900
  __device__ __forceinline__ void begin() {
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(ctas));
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    arrive();  // all are there to be written to, once the first wait() returns
  }
  __device__ __forceinline__ void arrive() const {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  }
  __device__ __forceinline__ void wait() const {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  }
  // Lane i gives a word of this warp to the i-th CTA, at the same place.
  __device__ __forceinline__ void give(const void* place, std::uint32_t word, int lane) const {
    if (lane >= ctas) return;
    std::uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(address)
        : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(place))), "r"(lane));
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
  }
#else
  __device__ void begin() {}
  __device__ void arrive() const {}
  __device__ void wait() const {}
  __device__ void give(const void*, std::uint32_t, int) const {}
#endif
};

}  // namespace halfbyte::simt
