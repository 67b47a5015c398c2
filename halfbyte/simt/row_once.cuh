// Rows that are read, summed and written, and nothing else: bound by memory, so a CTA takes one row
// and keeps nothing for another, which leaves room for more CTAs than simt/row_tile.cuh has. The
// plain Sources of that file that sum and do not quantize.
#pragma once

#include "halfbyte/simt/row_tile.cuh"
#include "halfbyte/simt/tile_plan.h"

namespace halfbyte::simt {

template <class Source, int kLeaves>
__device__ __forceinline__ void run_row_once(const Source& source,
                                             const TileOutputs<Source::kFormat>& out) {
  using T = typename Source::Element;
  static_assert(Source::kSums && Source::kPlain && !Source::kQuantizes);
  __shared__ TileScratch scratch;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int first_leaf = warp * kLeaves * 32 + lane;
  const std::uint32_t row = blockIdx.x;
  bool active[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) active[j] = first_leaf + j * 32 < out.leaves;

  if (source.constants_first) source.prefetch_constants(first_leaf);
  wait_for_previous_kernel(out.programmatic);
  typename Source::Raw raw[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    raw[j] = Source::no_raw();
    if (!active[j]) continue;
    source.fetch(row, first_leaf + j * 32, raw[j]);
    if constexpr (Source::kUpdates) source.fetch_updated(row, first_leaf + j * 32, raw[j]);
  }
  scratch.pad(warps, lane);
  Packed<T> h[kLeaves];
  float sums[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    h[j] = source.load(raw[j]);
    if constexpr (Source::kUpdates) {
      source.store_updates(h[j], row, first_leaf + j * 32, out.leaves);
    }
    float values[kLeaf];
    unpack(h[j], values);
    sums[j] = numerics::leaf_sum_of_squares(values);
  }
  float value = warp_tree_sum(sums, lane);
  if (lane == 0) scratch.sums[0][warp] = value;
  __syncthreads();
  value = source.row_value(tree_of_warps(scratch.sums[0], warps));
  T* to = tile_address(static_cast<T*>(out.y), row, out.y_stride);
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    const int leaf = first_leaf + j * 32;
    typename Source::Constants constants;
    if (active[j]) source.load_constants(leaf, constants);
    float values[kLeaf];
    unpack(h[j], values);
    typename Source::Y y;
    source.finish(values, value, constants, y);
    store_leaf_of_row(in_order(y), to, leaf, out.leaves);
  }
  release_next_kernel(out.programmatic);
}

template <class Source, int kLeaves>
__global__ void __launch_bounds__(32 * kMostTileWarps, kLeaves == 1 ? 3 : 2)
    row_once_kernel(const __grid_constant__ Source source,
                    const __grid_constant__ TileOutputs<Source::kFormat> out) {
  run_row_once<Source, kLeaves>(source, out);
}

}  // namespace halfbyte::simt
