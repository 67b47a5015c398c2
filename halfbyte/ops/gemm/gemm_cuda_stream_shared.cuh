// The stream kernel's sums for one to four rows of A, NVFP4: slices of K share the eight columns of
// a product.
//
// Column c has slice c * kShared / 8 of a group of kShared slices, and row c % (8 / kShared) of A.
// A's fragments are +0 in the columns of other slices than the one whose weights are multiplied, so
// that kShared products, each added to the one before, leave every block's exact sum in its slice's
// column. Scales and additions come once a group, not once a slice: the same ones in the same
// order.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_stage.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

// Where a lane's column of A lies, in shared memory, and which slices of a group a lane has sums
// of: the columns 2 * (lane % 4) and + 1.
template <int kShared>
struct SharedActivations {
  std::uint32_t fragments;  // of the column's row: as in StreamActivations
  std::uint32_t zeros;      // 16 bytes
  std::uint32_t pair_bytes;
  std::uint32_t factors;  // W4A16: of the round's first slice
  int column_slice;       // of a group, of this lane's fragments
  int first_slice;        // of a group, of this lane's sums; with kShared == 8 the next one too

  __device__ __forceinline__ SharedActivations(std::uint32_t act, std::uint32_t zero_bytes,
                                               const float* factors_at, int rows) {
    constexpr int kTokens = 8 / kShared;
    const int lane = static_cast<int>(threadIdx.x & 31);
    column_slice = lane / 4 / kTokens, first_slice = lane % 4 * kShared / 4;
    fragments = act + min(lane / 4 % kTokens, rows - 1) * kStreamPairBytes + lane % 4 * 16;
    zeros = zero_bytes;
    pair_bytes = static_cast<std::uint32_t>(rows * kStreamPairBytes);
    factors = smem_address(factors_at) + 2 * (lane % 4) % kTokens * 4;
  }
};

// The blocks' scales that a lane needs of a group: rows lane / 4 and + 8 of B.
template <int kShared>
struct SharedScales {
  static constexpr int kSlices = kShared == 8 ? 2 : 1;
  std::uint32_t words[kSlices][4];

  // Of the pair of slices from `slice` of the group on, whose units lie at `at`.
  __device__ __forceinline__ void load(std::uint32_t at, int slice,
                                       const SharedActivations<kShared>& a) {
    constexpr int kUnit = unit_bytes(Format::kNvfp4);
    if (a.first_slice / 2 != slice / 2) return;
    at += kUnitCodeBytes + (threadIdx.x & 31) / 4 * 16;
    if (kSlices == 1) at += a.first_slice % 2 * kUnit;
#pragma unroll
    for (int i = 0; i < kSlices; ++i) {
      const uint4 of = load_shared16(at + i * kUnit);
      words[i][0] = of.x, words[i][1] = of.y, words[i][2] = of.z, words[i][3] = of.w;
    }
  }
};

// The products of one unit of weights with a lane's fragments at `from`.
__device__ __forceinline__ void add_products(const std::uint32_t (&codes)[8], std::uint32_t from,
                                             std::uint32_t step, float4 (&sums)[8]) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const uint4 x = load_shared16(from + pair * step);
    std::uint32_t w[4];
    make_codes(codes[2 * pair], w);
    sums[2 * pair] = product(w, x.x, x.y, sums[2 * pair]);
    make_codes(codes[2 * pair + 1], w);
    sums[2 * pair + 1] = product(w, x.z, x.w, sums[2 * pair + 1]);
  }
}

// From the sums of a group's blocks to those of its `there` slices, added up by the tree: rows
// lane / 4 (x, y) and + 8 (z, w) of B, rows 2 * (lane % 4) and + 1 of A where those are there.
template <StreamKind kKind, int kShared>
__device__ __forceinline__ float4 group_sum(const float4 (&sums)[8],
                                            const SharedScales<kShared>& scales,
                                            const SharedActivations<kShared>& a, int slice,
                                            int there) {
  constexpr int kLast = SharedScales<kShared>::kSlices - 1;  // whose scales column y has
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int block = 0; block < 8; ++block) {
    std::uint32_t s[2] = {scales.words[0][block / 2], scales.words[kLast][block / 2]};
#pragma unroll
    for (std::uint32_t& word : s) {
      word = (block % 2 != 0 ? __funnelshift_r(word, word, 8) : word) & 0x7F807F80u;
    }
    v.x = __fmaf_rn(sums[block].x, low_half(s[0]), v.x);
    v.y = __fmaf_rn(sums[block].y, low_half(s[1]), v.y);
    v.z = __fmaf_rn(sums[block].z, high_half(s[0]), v.z);
    v.w = __fmaf_rn(sums[block].w, high_half(s[1]), v.w);
  }
  if constexpr (!is_quantized(kKind)) {
    const float2 first =
        load_shared_floats(a.factors + (slice + min(a.first_slice, there - 1)) * 32);
    const float second =
        kShared == 8
            ? load_shared_floats(a.factors + (slice + min(a.first_slice + 1, there - 1)) * 32).x
            : first.y;
    v = make_float4(__fmul_rn(v.x, first.x), __fmul_rn(v.y, second), __fmul_rn(v.z, first.x),
                    __fmul_rn(v.w, second));
  }
  if constexpr (kShared == 8) {
    if (a.first_slice + 1 < there) v.x = __fadd_rn(v.x, v.y), v.z = __fadd_rn(v.z, v.w);
  }
  // Lanes whose slices are the right ones have no use for what they get.
#pragma unroll
  for (int step = kShared == 2 ? 2 : 1; step <= 2; step *= 2) {
    const auto other = [&](float of) { return __shfl_xor_sync(0xFFFFFFFFu, of, step); };
    float4 right = v;
    right.x = other(v.x), right.z = other(v.z);
    if constexpr (kShared != 8) right.y = other(v.y), right.w = other(v.w);
    if (a.first_slice + step * kShared / 4 < there) v = add4(v, right);
  }
  return v;
}

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
