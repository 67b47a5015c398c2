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

// The tiles of the groups' chunks that cluster `index` of `count` has: of one chunk alone where
// there are enough clusters, as a chunk more costs a phase, and a reading of its rows of A.
__device__ __forceinline__ void share_of_groups(const StreamPlan& plan, int chunks, int index,
                                                int count, int& begin, int& end) {
  if (chunks > 0 && chunks <= count) {
    const int each = count / chunks, chunk = index / each, part = index - chunk * each;
    begin = end = 0;
    if (chunk >= chunks) return;
    begin = chunk * plan.tiles + plan.tiles * part / each;
    end = chunk * plan.tiles + plan.tiles * (part + 1) / each;
    return;
  }
  const std::int64_t all = static_cast<std::int64_t>(chunks) * plan.tiles;
  begin = static_cast<int>(all * index / count);
  end = static_cast<int>(all * (index + 1) / count);
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

// The items of a phase that a warp takes: part `part` of tile `tile`.
struct StreamItem {
  int tile, part;

  __device__ __forceinline__ void start(const StreamDeal& deal) {
    const int warp = static_cast<int>(threadIdx.x / 32);
    tile = warp * deal.inverse >> 16, part = warp - tile * deal.parts;
  }
  __device__ __forceinline__ void next(const StreamDeal& deal) {
    const int tiles = kStreamWarps * deal.inverse >> 16;
    tile += tiles, part += kStreamWarps - tiles * deal.parts;
    if (part >= deal.parts) part -= deal.parts, ++tile;
  }
};

// A pair of units; at: this lane's first 16 bytes, then those of the next pair.
template <int kUnitBytes>
__device__ __forceinline__ void copy_pair(std::uint32_t to, const std::uint8_t*& at) {
  constexpr int kAll = 2 * kUnitBytes / 512;  // copies by all lanes
  const auto lane_at = (threadIdx.x & 31) * 16;
  to += lane_at;
#pragma unroll
  for (int x = 0; x < kAll; ++x) copy_async16(to + x * 512, at + x * 512);
  if (lane_at < 2 * kUnitBytes % 512) copy_async16(to + kAll * 512, at + kAll * 512);
  at += 2 * kUnitBytes;
}
template <int kUnitBytes>
__device__ __forceinline__ void copy_unit(std::uint32_t to, const std::uint8_t* at) {
  const auto lane_at = (threadIdx.x & 31) * 16;
  to += lane_at;
#pragma unroll
  for (int x = 0; x < kUnitBytes / 512; ++x) copy_async16(to + x * 512, at + x * 512);
  constexpr int kRest = kUnitBytes / 512 * 512;
  if (lane_at < kUnitBytes % 512) copy_async16(to + kRest, at + kRest);
}

// The pairs of units of a warp in the order of use, all phases.
template <int kUnitBytes>
struct StreamLoads {
  const std::uint8_t* at;  // of the next pair, this lane's first 16 bytes
  int left = 0;            // slices of the item from here on; 0: no more
  int round = 0;
  StreamItem item;
  StreamPosition position;

  __device__ __forceinline__ void start(const StreamArgs& args, const StreamGroups& groups,
                                        int rank, const StreamPosition& from) {
    position = from;
    item.start(share_of(args.plan, 0, rank).deal);
    open_item(args, groups, rank);
  }
  // The item; where the phase is over, the next phase's first.
  __device__ __forceinline__ void open_item(const StreamArgs& args, const StreamGroups& groups,
                                            int rank) {
    const StreamPlan& plan = args.plan;
#pragma unroll 1
    while (item.tile >= position.tiles) {
      if (++round == plan.rounds) {
        round = 0;
        position.next(plan);
        if (position.left == 0) return;
      }
      item.start(share_of(plan, round, rank).deal);
    }
    const StreamShare& in = share_of(plan, round, rank);
    const int slice = item.part * in.deal.part_slices;
    left = min(in.deal.part_slices, in.slices - slice);
    const int first = (plan.split > 1 ? rank : round) * plan.full.slices;
    const std::uint8_t* weights = args.weights + (threadIdx.x & 31) * 16;
    if (plan.chunks == 0) {
      weights += group_of_chunk(args, groups, position.chunk) * args.problem.b_prepared_stride;
    }
    const std::int64_t unit =
        static_cast<std::int64_t>(position.first + item.tile) * plan.slices + first + slice;
    at = weights + unit * kUnitBytes;
  }
  // The next pair to `to`, as one group of copies; without one, an empty group.
  __device__ __forceinline__ void issue(const StreamArgs& args, const StreamGroups& groups,
                                        int rank, std::uint32_t to) {
    if (left > 0) {
      if (left == 1) {
        copy_unit<kUnitBytes>(to, at);
      } else {
        copy_pair<kUnitBytes>(to, at);
      }
      left -= 2;
      if (left <= 0) {
        left = 0;
        item.next(share_of(args.plan, round, rank).deal);
        open_item(args, groups, rank);
      }
    }
    commit_copies();
  }
};

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
