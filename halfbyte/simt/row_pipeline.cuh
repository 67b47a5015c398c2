// Rows of four leaves a lane, many of them: one is encoded in two halves, and between them the next
// one's sums are made, so that what is waited for at the barrier is there. The plain Sources of
// simt/row_tile.cuh that sum and quantize and do not update, with one scale for all rows.
//
//   row i    | tree, row_value, encode leaves 0, 1 |     | encode 2, 3 | barrier
//   row i+1  |                                     | sum |             |   tree ..
//   row i+2  |                                           | loads take the place of what is encoded
//
// Leaves are dealt: a row's group j * warps + warp of 32 is leaf j of a warp's lanes, so that warps
// differ by one leaf, and each scheduler has as many of the longer ones.
#pragma once

#include <cstdint>

#include "halfbyte/simt/row_tile.cuh"
#include "halfbyte/simt/tile_plan.h"

namespace halfbyte::simt {

inline constexpr int kPipelineLeaves = 4, kMostGroups = kPipelineLeaves * kMostTileWarps;

// A leaf of the constants as it lies in shared memory, each thread's own: there are no registers
// for them, and rows drive them out of the L1. The second half of a lane's leaf is 512 bytes on.
template <class T>
__device__ __forceinline__ void keep_leaf(const Packed<T>& leaf, std::uint32_t to) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to + i * 512),
                 "r"(leaf.words[4 * i]), "r"(leaf.words[4 * i + 1]), "r"(leaf.words[4 * i + 2]),
                 "r"(leaf.words[4 * i + 3])
                 : "memory");
  }
}
// Volatile: it stays where it is asked for.
template <class T>
__device__ __forceinline__ Packed<T> kept_leaf(std::uint32_t from) {
  Packed<T> leaf;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(leaf.words[4 * i]), "=r"(leaf.words[4 * i + 1]),
                   "=r"(leaf.words[4 * i + 2]), "=r"(leaf.words[4 * i + 3])
                 : "r"(from + i * 512));
  }
  return leaf;
}
inline constexpr int kKeptBytes = 1024;  // of a warp's leaf

// The tree over a row's groups, zeros behind the last, in every lane.
__device__ __forceinline__ float tree_of_groups(const float (&sums)[kMostGroups], int lane) {
  static_assert(kMostGroups == 64);
  const float2 two = reinterpret_cast<const float2*>(sums)[lane];
  float sum = numerics::add_rn(two.x, two.y);
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
    sum = numerics::add_rn(sum, __shfl_xor_sync(~0u, sum, bit));
  }
  return sum;
}

template <class Source>
__device__ __forceinline__ void run_row_pipeline(const Source& source,
                                                 const TileOutputs<Source::kFormat>& out,
                                                 uint4* kept) {
  using T = typename Source::Element;
  constexpr formats::Format kFormat = Source::kFormat;
  constexpr int kCodeBytes = kLeafCodeBytes<kFormat>;
  constexpr int kBlockLeaves = kFormat == formats::Format::kMxfp4 ? 2 : 1;
  constexpr int kLeaves = kPipelineLeaves, kFirst = kLeaves / 2;
  using Encoder = TileEncoder<kFormat, false>;
  static_assert(Source::kSums && Source::kQuantizes && Source::kPlain && !Source::kUpdates);
  __shared__ alignas(16) float group_sums[2][kMostGroups];
  const auto& target = out.target;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const std::uint32_t step = out.row_ctas;
  std::uint32_t row = blockIdx.x;
  const int first_leaf = warp * 32 + lane, leaf_step = warps * 32;
  bool active[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) active[j] = first_leaf + j * leaf_step < out.leaves;
  // Whether the warp has a last leaf at all.
  const bool has_last = warp * 32 + (kLeaves - 1) * leaf_step < out.leaves;

  if (__builtin_expect(blockIdx.x >= out.row_ctas, 0)) {
    wait_for_previous_kernel(out.programmatic);
    put_scale_padding(target, std::int64_t{blockIdx.x - out.row_ctas} * blockDim.x + threadIdx.x,
                      std::int64_t{gridDim.x - out.row_ctas} * blockDim.x);
    return;
  }
  typename Source::Raw next[kLeaves];
  Packed<T> now[kLeaves];
  const auto fetch = [&](std::uint32_t from, int j) {
    if (active[j]) source.fetch(from, first_leaf + j * leaf_step, next[j]);
  };
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) next[j] = Source::no_raw();
  if (source.constants_first) source.prefetch_constants(first_leaf);
  wait_for_previous_kernel(out.programmatic);
  const float scale_input = Encoder::fetch(target);
  if (row < out.rows) {
#pragma unroll
    for (int j = 0; j < kLeaves; ++j) fetch(row, j);
  }
  const std::uint32_t constants = static_cast<std::uint32_t>(__cvta_generic_to_shared(kept)) +
                                  static_cast<std::uint32_t>(warp * kLeaves * kKeptBytes) +
                                  static_cast<std::uint32_t>(lane) * 16;
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    keep_leaf(source.packed_constants(active[j] ? first_leaf + j * leaf_step : 0),
              constants + j * kKeptBytes);
  }
  for (int i = static_cast<int>(threadIdx.x); i < kMostGroups; i += static_cast<int>(blockDim.x)) {
    group_sums[0][i] = group_sums[1][i] = 0.0f;
  }
  __syncthreads();
  Encoder encoder;
  encoder.of_tensor(target, scale_input, blockIdx.x == 0 && threadIdx.x == 0);
  std::uint8_t* const code_column = target.codes + first_leaf * kCodeBytes;
  const TileScales& scales = target.scales[0];
  std::uint8_t* const scale_column =
      scales.data + scales.column_offset(static_cast<std::uint32_t>(first_leaf) / kBlockLeaves);
  const std::uint32_t scale_step =
      static_cast<std::uint32_t>(warps) * (8 / kBlockLeaves) * scales.column_step;

  // What this warp adds to the sum of the row in `next`.
  const auto sum_next = [&](int parity) {
    float sums[kLeaves] = {};
#pragma unroll
    for (int j = 0; j < kLeaves; ++j) {
      if (j < kLeaves - 1 || has_last) {
        float values[kLeaf];
        unpack(source.load(next[j]), values);
        sums[j] = numerics::leaf_sum_of_squares(values);
      }
    }
    const float sum = warp_group_sums(sums, lane);
    if (lane < kLeaves - 1 || (lane == kLeaves - 1 && has_last)) {
      group_sums[parity][lane * warps + warp] = sum;
    }
  };
  // Opaque, or they would be kept unpacked from the sum on.
  const auto take = [&](int j) {
    now[j] = source.load(next[j]);
#pragma unroll
    for (std::uint32_t& word : now[j].words) word ^= out.nothing;
  };
  int parity = 0;
  if (row < out.rows) {
    sum_next(parity);
#pragma unroll
    for (int j = 0; j < kLeaves; ++j) {
      take(j);
      if (row + step < out.rows) fetch(row + step, j);
    }
  }
  // The sequence is chosen once for all rows: within a row, it would cost the loop its registers.
  encoder.with_sequence([&](const auto& encode) {
    while (row < out.rows) {
      const std::uint32_t following = row + step, after = following + step;
      __syncthreads();
      const float row_value = source.row_value(tree_of_groups(group_sums[parity], lane));
      std::uint8_t* const codes = tile_address(code_column, row, target.code_stride);
      std::uint8_t* const scale_row = scale_column + scales.row_offset(row);
      const auto encode_leaf = [&](int j) {
        if (j == kLeaves - 1 && !has_last) return;
        typename Source::Constants of_leaf;
        unpack(kept_leaf<T>(constants + j * kKeptBytes), of_leaf.weight);
        float values[kLeaf];
        unpack(now[j], values);
        typename Source::Y y;
        source.finish(values, row_value, of_leaf, y);
        LeafCodes words;
        const std::uint32_t scale = encode(y, leaf_amax(y), words);
        if (!active[j]) return;
        put_codes<kFormat>(words, codes + j * leaf_step * kCodeBytes);
        if (!kHasBlockScales<kFormat> || lane % kBlockLeaves != 0) return;
        scale_row[j * scale_step] = static_cast<std::uint8_t>(scale);
      };
      const auto replace = [&](int j) {
        take(j);
        if (after < out.rows) fetch(after, j);
      };
#pragma unroll
      for (int j = 0; j < kFirst; ++j) encode_leaf(j);
      parity ^= 1;
      if (following < out.rows) sum_next(parity);
#pragma unroll
      for (int j = 0; j < kFirst; ++j) replace(j);
#pragma unroll
      for (int j = kFirst; j < kLeaves; ++j) {
        encode_leaf(j);
        replace(j);
      }
      row = following;
    }
  });
  release_next_kernel(out.programmatic);
}

template <class Source>
__global__ void __launch_bounds__(32 * kMostTileWarps, 1)
    row_pipeline_kernel(const __grid_constant__ Source source,
                        const __grid_constant__ TileOutputs<Source::kFormat> out) {
  extern __shared__ uint4 kept_constants[];
  run_row_pipeline(source, out, kept_constants);
}

}  // namespace halfbyte::simt
