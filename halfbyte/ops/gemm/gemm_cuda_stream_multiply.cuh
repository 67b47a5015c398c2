// The sums of parts of K, a warp each: from its ring of weights and A's fragments to shared memory.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_shared.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

// A warp's stages of pairs of units, and where its lanes are.
template <StreamKind kKind>
struct StreamRing {
  static constexpr int kUnitBytes = unit_bytes(format_of(kKind));
  static constexpr int kStageBytes = 2 * kUnitBytes;
  static constexpr int kStride = kStreamWarps * kStageBytes;  // from a stage to the next
  std::uint32_t first, both, slot;  // stages in shared memory; their sum; the one in use

  __device__ __forceinline__ explicit StreamRing(const void* smem)
      : first(smem_address(smem) + threadIdx.x / 32 * kStageBytes),
        both(2 * first + kStride),
        slot(first) {}
  // Until the pair in `slot` is there, for all lanes.
  __device__ __forceinline__ void wait() const {
    wait_copies<kStreamStages - 1>();
    __syncwarp();
  }
  // Once all lanes have read it: issue(slot) fills it again.
  template <class Issue>
  __device__ __forceinline__ void release(const Issue& issue) {
    __syncwarp();
    issue(slot);
    static_assert(kStreamStages == 2);
    slot = both - slot;
  }
};

// The tree above the sums of 2^kBase slices, in parts of at most kPartSlices: add(i, more) takes
// those that end at slice i, and returns the sum of all nodes that end there; without `more`
// slices, of the whole part.
template <int kBase, int kPartSlices, int kTiles>
struct PartTree {
  static constexpr int kLevels = (kPartSlices == 16 ? 4 : 3) - kBase;
  static_assert(kPartSlices == 16 || kPartSlices == 8);
  float4 waiting[kLevels > 0 ? kLevels : 1][kTiles];

  __device__ __forceinline__ void add(int slice, bool last, float4 (&sum)[kTiles]) {
    bool carry = true;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      const bool right = (slice >> (level + kBase) & 1) != 0;
      if (right && (carry || last)) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) sum[i] = add4(waiting[level][i], sum[i]);
      }
      if (!right && carry) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) waiting[level][i] = sum[i];
        carry = false;
      }
    }
  }
};

// Adds the sum of the next pair of slices (`left` of the part are there: one may be missing) to
// `sum`, or sets it; at: bytes from the first slice's fragments to the pair's.
template <StreamKind kKind, int kTiles, class Issue>
__device__ __forceinline__ void multiply_pair(StreamRing<kKind>& ring,
                                              const StreamActivations<kTiles>& a, int slice,
                                              std::uint32_t at, int left, int blocks,
                                              const Issue& issue, float4 (&sum)[kTiles]) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  StreamUnit<format_of(kKind)> units[2];
  ring.wait();
  units[0].load(ring.slot, lane);
  units[1].load(ring.slot + ring.kUnitBytes, lane);
  ring.release(issue);
  const bool two = left > 1;  // or the second one is not there
  const int second = two ? slice + 1 : slice;
  float4 sums[2][kTiles];
  multiply<kKind, kTiles>(units, a, {slice, second}, {at, two ? at + 4 * a.pair_bytes : at},
                          {min(blocks - slice * 4, 4), min(blocks - second * 4, 4)}, sums);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) sum[i] = two ? add4(sums[0][i], sums[1][i]) : sums[0][i];
}

// The sum of a part, `slices` of the round's from `from` on; issue(at): the next pair to a stage.
template <StreamKind kKind, int kPartSlices, int kTiles, class Issue>
__device__ __forceinline__ void multiply_part(StreamRing<kKind>& ring,
                                              const StreamActivations<kTiles>& a, int from,
                                              int slices, int blocks, const Issue& issue,
                                              float4 (&sum)[kTiles]) {
  PartTree<2, kPartSlices, kTiles> tree;
  std::uint32_t at = static_cast<std::uint32_t>(from) * 4 * a.pair_bytes;
#pragma unroll 1
  for (int s = 0; s < slices; s += 4) {
    const int slice = from + s;
    multiply_pair<kKind>(ring, a, slice, at, slices - s, blocks, issue, sum);
    at += 8 * a.pair_bytes;
    if (s + 2 < slices) {
      float4 right[kTiles];
      multiply_pair<kKind>(ring, a, slice + 2, at, slices - s - 2, blocks, issue, right);
      at += 8 * a.pair_bytes;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) sum[i] = add4(sum[i], right[i]);
    }
    tree.add(s, s + 4 >= slices, sum);
  }
}

// The same where slices share columns, of which there is an even number.
template <StreamKind kKind, int kPartSlices, int kShared, class Issue>
__device__ __forceinline__ void multiply_part(StreamRing<kKind>& ring,
                                              const SharedActivations<kShared>& a, int from,
                                              int slices, int /*blocks*/, const Issue& issue,
                                              float4 (&sum)[1]) {
  constexpr int kBase = kShared == 8 ? 3 : kShared == 4 ? 2 : 1;
  const int lane = static_cast<int>(threadIdx.x & 31);
  PartTree<kBase, kPartSlices, 1> tree;
#pragma unroll 1
  for (int group = 0; group < slices; group += kShared) {
    const int there = min(slices - group, kShared);
    float4 sums[8];
#pragma unroll
    for (float4& of : sums) of = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    SharedScales<kShared> scales;
    std::uint32_t at = a.fragments + (from + group) * 4 * a.pair_bytes;
#pragma unroll 1
    for (int s = 0; s < there; s += 2) {
      std::uint32_t codes[2][8];
      ring.wait();
      load_codes(ring.slot, lane, codes[0]);
      load_codes(ring.slot + ring.kUnitBytes, lane, codes[1]);
      scales.load(ring.slot, s, a);
      ring.release(issue);
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        const bool own = a.column_slice == s + u;
        add_products(codes[u], own ? at : a.zeros, own ? a.pair_bytes : 0, sums);
        at += 4 * a.pair_bytes;
      }
    }
    sum[0] = group_sum<kKind, kShared>(sums, scales, a, from + group, there);
    tree.add(group, group + kShared >= slices, sum);
  }
}

template <int kTiles>
__device__ __forceinline__ void put_part(const float4 (&sum)[kTiles], int rows, float* to) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  to += lane / 4;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int m = 8 * i + 2 * (lane % 4);
    if (m < rows) {
      to[m * kStreamTokenStride] = sum[i].x, to[m * kStreamTokenStride + 8] = sum[i].z;
    }
    if (m + 1 < rows) {
      to[(m + 1) * kStreamTokenStride] = sum[i].y;
      to[(m + 1) * kStreamTokenStride + 8] = sum[i].w;
    }
  }
}

template <int kTiles>
__device__ __forceinline__ StreamActivations<kTiles> activations_at(std::uint32_t act,
                                                                    const float* factors,
                                                                    int rows) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  StreamActivations<kTiles> a;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int m = min(8 * i + lane / 4, rows - 1);
    a.fragments[i] = act + static_cast<std::uint32_t>(m * kStreamPairBytes) +
                     (static_cast<std::uint32_t>(lane % 4 * 16) ^ stream_swizzle(m));
  }
  a.pair_bytes = static_cast<std::uint32_t>(rows * kStreamPairBytes);
  a.factors = smem_address(factors) + lane % 4 * 8;
  return a;
}

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
