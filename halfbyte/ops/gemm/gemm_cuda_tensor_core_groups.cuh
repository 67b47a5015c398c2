// Groups of rows (experts) in the tensor-core kernel: each block makes a table of them in shared
// memory, from which it finds its tiles.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_tensor_core_parts.cuh"

namespace halfbyte::ops::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// The rows of group e that are multiplied: first to end - 1, within A, their scales within A's
// scales. tile_ends: of the tiles of all groups up to e.
struct TensorCoreGroups {
  int *first, *end, *tile_ends;
  float *a_decode, *b_decode;  // a's times the factor
  int count;

  __device__ __forceinline__ TensorCoreGroups(std::uint8_t* at, int groups)
      : first(reinterpret_cast<int*>(at)),
        end(first + groups),
        tile_ends(end + groups),
        a_decode(reinterpret_cast<float*>(tile_ends + groups)),
        b_decode(a_decode + groups),
        count(groups) {}

  __device__ __forceinline__ int tiles() const { return tile_ends[count - 1]; }
};

// By all threads, before the block's first barrier. Offsets may be anything.
__device__ __forceinline__ void find_groups(const TensorCoreArgs& args,
                                            const TensorCoreGroups& groups) {
  const auto within = [](std::int64_t v, int low, int high) {
    return static_cast<int>(v < low ? low : v > high ? high : v);
  };
#pragma unroll 1
  for (int e = static_cast<int>(threadIdx.x); e < groups.count; e += static_cast<int>(blockDim.x)) {
    const int offset = args.row_offsets[e], begin = within(offset, 0, args.m);
    int end = within(args.row_offsets[e + 1], begin, args.m);
    int first = begin;
    if (args.scale_row_offsets != nullptr) {
      const std::int64_t shift = std::int64_t{offset} - args.scale_row_offsets[e];
      first = within(shift, begin, end);
      end = within(shift + args.a_scale_rows, first, end);
    }
    groups.first[e] = first, groups.end[e] = end;
    groups.tile_ends[e] =
        (end - first + args.plan.tokens - 1) / args.plan.tokens * args.plan.tiles_n;
    groups.a_decode[e] =
        __fmul_rn(args.a_scale.decode(args.a_scale_per_group ? e : 0), args.factor);
    groups.b_decode[e] = args.b_scale.decode(e);
  }
}

// By one warp, between two of the block's barriers.
__device__ __forceinline__ void sum_tiles(const TensorCoreGroups& groups) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
#pragma unroll 1
  for (int e = lane; e - lane < groups.count; e += 32) {
    int tiles = e < groups.count ? groups.tile_ends[e] : 0;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kWholeWarp, tiles, step);
      if (lane >= step) tiles += other;
    }
    if (e < groups.count) groups.tile_ends[e] = before + tiles;
    before += __shfl_sync(kWholeWarp, tiles, 31);
  }
}

// The first group that ends past tile `index` < groups.tiles(): by one thread, or by a warp, whose
// lanes the compiler then knows to go the same way.
template <bool kByWarp>
__device__ __forceinline__ int find_group(const TensorCoreGroups& groups, int index) {
  if constexpr (kByWarp) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int from = 0;
    unsigned past = 0;
#pragma unroll 1
    for (;; from += 32) {
      const int e = min(from + lane, groups.count - 1);
      past = __ballot_sync(kWholeWarp, groups.tile_ends[e] > index);
      if (past != 0) break;
    }
    return from + __ffs(static_cast<int>(past)) - 1;
  } else {
    int low = 0, high = groups.count - 1;
#pragma unroll 1
    while (low < high) {
      const int middle = (low + high) / 2;
      if (groups.tile_ends[middle] > index) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
}

// Where tile `index` is.
template <bool kByWarp>
__device__ __forceinline__ TensorCoreTile find_tile(const TensorCorePlan& plan,
                                                    const TensorCoreGroups& groups, int index) {
  const auto same = [](int v) { return kByWarp ? __reduce_max_sync(kWholeWarp, v) : v; };
  TensorCoreTile tile;
  tile.group = find_group<kByWarp>(groups, index);
  if (tile.group > 0) index -= same(groups.tile_ends[tile.group - 1]);
  tile.end_row = same(groups.end[tile.group]);
  const int first = same(groups.first[tile.group]);
  const int tiles_m = (tile.end_row - first + plan.tokens - 1) / plan.tokens;
  const int2 place = tensor_core_place(plan, tiles_m, index);
  tile.first_row = first + place.x * plan.tokens;
  tile.tile_n = place.y;
  return tile;
}

// What lies between the groups' rows, and before and behind them, is +0: by `warps` warps of each
// block, of which this is `warp`.
__device__ __forceinline__ void zero_other_rows(const TensorCoreArgs& args,
                                                const TensorCoreGroups& groups, int warp,
                                                int warps) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int mine = static_cast<int>(blockIdx.x) * warps + warp;
  const int step = static_cast<int>(gridDim.x) * warps;
  const int bytes = args.c_dtype == base::DType::kF32 ? 4 : 2;
#pragma unroll 1
  for (int e = lane; e - lane <= groups.count; e += 32) {
    int from = 0, to = 0;
    if (e <= groups.count) {
      from = e == 0 ? 0 : groups.end[e - 1];
      to = e == groups.count ? args.m : groups.first[e];
    }
#pragma unroll 1
    for (unsigned left = __ballot_sync(kWholeWarp, from < to); left != 0; left &= left - 1) {
      const int of = __ffs(static_cast<int>(left)) - 1;
      const int last = __shfl_sync(kWholeWarp, to, of);
#pragma unroll 1
      for (int row = __shfl_sync(kWholeWarp, from, of) + mine; row < last; row += step) {
        std::uint8_t* c =
            static_cast<std::uint8_t*>(args.c) + tensor_core_c_offset(args, row) * bytes;
        int n = lane;
        if (args.lines) {
#pragma unroll 1
          for (; n < args.n / 8; n += 32) store_global16(c + n * 16, make_uint4(0, 0, 0, 0));
          n = args.n / 8 * 8 + lane;
        }
#pragma unroll 1
        for (; n < args.n; n += 32) {
          if (bytes == 4) {
            reinterpret_cast<std::uint32_t*>(c)[n] = 0;
          } else {
            reinterpret_cast<std::uint16_t*>(c)[n] = 0;
          }
        }
      }
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace halfbyte::ops::cuda
