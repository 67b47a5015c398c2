// Which chunk of rows and which tiles a CTA of the kernel for a token's experts has
// (gemm_cuda_stream_tokens.cuh), and which slices its warps.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_group_walk.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

inline constexpr int kTokenPairs = kStreamTokenSlices / 2;  // of a warp, at most

// What the search leaves.
struct TokenShare {
  std::uint64_t barriers[kStreamWarps * kTokenPairs];  // of the warps' pairs of units
  std::uint64_t scale_barrier;                         // of A's scales
  const std::uint8_t* weights;  // of the chunk's group; nullptr: there is no chunk
  int first_row, end_row;
  float decode_b;
  StreamChunk chunk;
};
static_assert(sizeof(TokenShare) <= kStreamTokenShareBytes);

// The chunk of a CTA, if there are so many, and its tiles: the part that it has of them, by shapes
// alone.
struct TokenTiles {
  int index, first, tiles;

  __device__ __forceinline__ explicit TokenTiles(const StreamPlan& plan) {
    const int block = static_cast<int>(blockIdx.x);
    index = quotient(block, plan.chunk_blocks);
    const int part = block - index * plan.chunk_blocks;
    first = quotient(plan.tiles * part, plan.chunk_blocks);
    tiles = quotient(plan.tiles * (part + 1), plan.chunk_blocks) - first;
  }
};

// Slices of a warp, in pairs: as many for each of twelve warps, up to four pairs. The last warp has
// none.
struct TokenItem {
  int first, count;  // slices

  __device__ __forceinline__ TokenItem(const StreamPlan& plan, int tiles) {
    constexpr int kWarps = 12;
    const int all = tiles * plan.slices, pairs = (all + 1) / 2;
    const int each = 2 * min(kTokenPairs, (pairs + kWarps - 1) / kWarps);
    first = static_cast<int>(threadIdx.x / 32) * each;
    count = max(min(each, all - first), 0);
  }
};

// One warp's search, with kEach groups a lane.
template <int kEach>
struct TokenSearch {
  int rows[kEach], ends[kEach], scale_rows[kEach];  // as they lie in memory

  __device__ __forceinline__ explicit TokenSearch(const StreamArgs& args) {
    const GemmProblem& problem = args.problem;
    const int groups = static_cast<int>(problem.groups);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int group = 32 * i + static_cast<int>(threadIdx.x & 31);
      rows[i] = ends[i] = scale_rows[i] = 0;
      if (group < groups) {
        rows[i] = problem.row_offsets[group], ends[i] = problem.row_offsets[group + 1];
        if (problem.quantized) scale_rows[i] = problem.scale_row_offsets[group];
      }
    }
  }
  __device__ __forceinline__ void run(const StreamArgs& args, int index, TokenShare& share) const {
    const GemmProblem& problem = args.problem;
    const int lane = static_cast<int>(threadIdx.x & 31), m = static_cast<int>(problem.m);
    int chunks[kEach], before[kEach], all = 0;
    bool many = false;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int from = max(rows[i], 0), to = min(ends[i], m);
      static_assert(kStreamTokenRows == 4);
      chunks[i] = to > from ? (to - from + 3) >> 2 : 0;
      many = many || chunks[i] > 1;
      const unsigned has = __ballot_sync(0xFFFFFFFFu, chunks[i] > 0);
      before[i] = all + __popc(has & ((1u << lane) - 1));
      all += __popc(has);
    }
    if (__any_sync(0xFFFFFFFFu, many)) {
      all = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        int sum = chunks[i];
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
          const int other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
          if (lane >= step) sum += other;
        }
        before[i] = all + sum - chunks[i];
        all += __shfl_sync(0xFFFFFFFFu, sum, 31);
      }
    }
    if (lane == 0) {
      share.first_row = rows[0];
      if (index >= all) share.weights = nullptr;
    }
    int group = -1, row = 0, end = 0, scale_row = 0, from = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (32 * i + lane == problem.groups - 1) share.end_row = ends[i];
      const bool has = index >= before[i] && index < before[i] + chunks[i];
      group = has ? 32 * i + lane : group;
      row = has ? rows[i] : row, end = has ? ends[i] : end;
      scale_row = has ? scale_rows[i] : scale_row, from = has ? index - before[i] : from;
    }
    if (group < 0) return;
    share.weights = args.weights + group * problem.b_prepared_stride;
    share.chunk =
        chunk_of(args, group, row, end, scale_row, from * kStreamTokenRows, kStreamTokenRows);
  }
};

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
