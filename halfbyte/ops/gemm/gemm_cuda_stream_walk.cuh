// Which weights a warp of the stream kernel reads, in which order.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_stage.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_kernel_after_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The groups of rows in shared memory: where each starts, in A and in A's scales, and the chunks of
// rows of the groups up to each.
struct StreamGroups {
  int* rows;        // groups + 1
  int* scale_rows;  // groups + 1
  int* chunk_ends;  // groups

  __device__ __forceinline__ StreamGroups(const StreamArgs& args, std::uint8_t* smem)
      : rows(reinterpret_cast<int*>(smem + args.plan.chunk_offset)),
        scale_rows(rows + args.problem.groups + 1),
        chunk_ends(scale_rows + args.problem.groups + 1) {}
};

// All threads call.
__device__ __noinline__ void load_groups(const StreamArgs& args, StreamGroups groups) {
  const GemmProblem& problem = args.problem;
  const int count = static_cast<int>(problem.groups), rows = static_cast<int>(problem.m);
  for (int i = static_cast<int>(threadIdx.x); i <= count; i += kStreamThreads) {
    groups.rows[i] = problem.row_offsets[i];
    groups.scale_rows[i] = problem.quantized ? problem.scale_row_offsets[i] : 0;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    int before = 0;
    for (int first = 0; first < count; first += 32) {
      int chunks = 0;
      if (first + lane < count) {
        const int from = max(groups.rows[first + lane], 0);
        const int to = min(groups.rows[first + lane + 1], rows);
        if (to > from) chunks = (to - from + args.plan.chunk_rows - 1) / args.plan.chunk_rows;
      }
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xFFFFFFFFu, chunks, step);
        if (lane >= step) chunks += other;
      }
      if (first + lane < count) groups.chunk_ends[first + lane] = before + chunks;
      before += __shfl_sync(0xFFFFFFFFu, chunks, 31);
    }
  }
  __syncthreads();
}

// The group that has chunk `index`.
__device__ __forceinline__ int group_of_chunk(const StreamArgs& args, const StreamGroups& groups,
                                              int index) {
  int low = 0, high = static_cast<int>(args.problem.groups) - 1;
  while (low < high) {  // the first with an end above index
    const int middle = (low + high) / 2;
    if (groups.chunk_ends[middle] > index) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}
__device__ __noinline__ StreamChunk chunk_of_group(const StreamArgs& args, StreamGroups groups,
                                                   int index) {
  const GemmProblem& problem = args.problem;
  const int group = group_of_chunk(args, groups, index);
  if (group > 0) index -= groups.chunk_ends[group - 1];
  const int begin = max(groups.rows[group], 0);
  const int end = min(groups.rows[group + 1], static_cast<int>(problem.m));
  StreamChunk chunk;
  chunk.group = group;
  chunk.first_row = begin + index * args.plan.chunk_rows;
  chunk.rows = min(args.plan.chunk_rows, end - chunk.first_row);
  chunk.scale_row = chunk.first_row;
  chunk.regular = args.regular;
  if (problem.quantized) {  // all rows have scales, at offsets that an int holds
    const std::int64_t first = std::int64_t{groups.scale_rows[group]} +
                               (chunk.first_row - std::int64_t{groups.rows[group]});
    chunk.scale_row = static_cast<int>(first);
    chunk.regular = chunk.regular && first >= 0 && first + chunk.rows <= problem.a_scale_rows;
  }
  return chunk;
}
__device__ __forceinline__ StreamChunk chunk_at(const StreamArgs& args, const StreamGroups& groups,
                                                int index) {
  if (args.plan.chunks == 0) return chunk_of_group(args, groups, index);
  const int first = index * args.plan.chunk_rows;
  return {first, min(args.plan.chunk_rows, static_cast<int>(args.problem.m) - first), 0, first,
          args.regular};
}

__device__ __forceinline__ const StreamShare& share_of(const StreamPlan& plan, int round,
                                                       int rank) {
  return round + 1 == plan.rounds && rank + 1 == plan.split ? plan.last : plan.full;
}

// Where a CTA is among its tiles: `tiles` of chunk `chunk` from `first` on, `left` with them.
struct StreamPosition {
  int chunk, first, tiles, left;

  __device__ __forceinline__ void start(const StreamPlan& plan, int begin, int end) {
    chunk = 0, first = begin, left = end - begin;
    if (plan.chunks != 1) {
      chunk = begin / plan.tiles;
      first = begin - chunk * plan.tiles;
    }
    tiles = min(min(plan.group_tiles, plan.tiles - first), left);
  }
  __device__ __forceinline__ void next(const StreamPlan& plan) {
    left -= tiles, first += tiles;
    if (first == plan.tiles) first = 0, ++chunk;
    tiles = min(min(plan.group_tiles, plan.tiles - first), left);
  }
};

// A pair of units, or the one that is left.
template <int kUnitBytes>
__device__ __forceinline__ void copy_pair(std::uint32_t to, const std::uint8_t*& at, int& left) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int bytes = (left == 1 ? 1 : 2) * kUnitBytes - lane * 16;
  to += lane * 16;
#pragma unroll
  for (int x = 0; x * 512 < 2 * kUnitBytes; ++x) {
    if (x * 512 < bytes) copy_async16(to + x * 512, at + x * 512);
  }
  at += 2 * kUnitBytes;
  left -= 2;
}

// The pairs of units of a warp in the order of use, all phases.
template <int kUnitBytes>
struct StreamLoads {
  const std::uint8_t* at;  // of the next pair, this lane's first 16 bytes
  int left = 0;            // slices of the item from here on; 0: no more
  int round = 0, tile, part;
  StreamPosition position;

  __device__ __forceinline__ void start(const StreamArgs& args, const StreamGroups& groups,
                                        int rank, const StreamPosition& from) {
    position = from;
    const StreamShare& in = share_of(args.plan, 0, rank);
    const int warp = static_cast<int>(threadIdx.x / 32);
    tile = warp * in.inverse >> 16, part = warp - tile * in.parts;
    open_item(args, groups, rank);
  }
  // The item at tile, part; where the phase is over, the next phase's first.
  __device__ __forceinline__ void open_item(const StreamArgs& args, const StreamGroups& groups,
                                            int rank) {
    const StreamPlan& plan = args.plan;
#pragma unroll 1
    while (tile >= position.tiles) {
      if (++round == plan.rounds) {
        round = 0;
        position.next(plan);
        if (position.left == 0) return;
      }
      const StreamShare& in = share_of(plan, round, rank);
      const int warp = static_cast<int>(threadIdx.x / 32);
      tile = warp * in.inverse >> 16, part = warp - tile * in.parts;
    }
    const int slice = part * kStreamPartSlices;
    left = min(kStreamPartSlices, share_of(plan, round, rank).slices - slice);
    const int first = (plan.split > 1 ? rank : round) * plan.full.slices;
    const std::uint8_t* weights = args.weights + (threadIdx.x & 31) * 16;
    if (plan.chunks == 0) {
      weights += group_of_chunk(args, groups, position.chunk) * args.problem.b_prepared_stride;
    }
    const std::int64_t unit =
        static_cast<std::int64_t>(position.first + tile) * plan.slices + first + slice;
    at = weights + unit * kUnitBytes;
  }
  // The next pair to `to`, as one group of copies; without one, an empty group.
  __device__ __forceinline__ void issue(const StreamArgs& args, const StreamGroups& groups,
                                        int rank, std::uint32_t to) {
    if (left > 0) {
      copy_pair<kUnitBytes>(to, at, left);
      if (left <= 0) {
        const StreamShare& in = share_of(args.plan, round, rank);
        left = 0;
        tile += in.step_tiles, part += in.step_parts;
        if (part >= in.parts) part -= in.parts, ++tile;
        open_item(args, groups, rank);
      }
    }
    commit_copies();
  }
};

// The same for one phase of one chunk, whose tile l is tile_of(l) of B.
template <int kUnitBytes, class TileOf>
struct SimpleLoads {
  const TileOf& tile_of;
  const std::uint8_t* weights;  // this lane's
  const std::uint8_t* at;
  int left = 0, tile, part, tiles;

  __device__ __forceinline__ SimpleLoads(const StreamArgs& args, int count, const TileOf& of)
      : tile_of(of), weights(args.weights + (threadIdx.x & 31) * 16) {
    const StreamPlan& plan = args.plan;
    tiles = count;
    const int warp = static_cast<int>(threadIdx.x / 32);
    tile = warp * plan.last.inverse >> 16, part = warp - tile * plan.last.parts;
    open_item(plan);
  }
  __device__ __forceinline__ void open_item(const StreamPlan& plan) {
    if (tile >= tiles) return;
    const int slice = part * kStreamPartSlices;
    left = min(kStreamPartSlices, plan.slices - slice);
    at = weights + (static_cast<std::int64_t>(tile_of(tile)) * plan.slices + slice) * kUnitBytes;
  }
  __device__ __forceinline__ void issue(const StreamPlan& plan, std::uint32_t to) {
    if (left > 0) {
      copy_pair<kUnitBytes>(to, at, left);
      if (left <= 0) {
        left = 0;
        tile += plan.last.step_tiles, part += plan.last.step_parts;
        if (part >= plan.last.parts) part -= plan.last.parts, ++tile;
        open_item(plan);
      }
    }
    commit_copies();
  }
};

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
