// Which tiles a CTA of the short kernel for groups has, and which weights its warps read, in which
// order (gemm_cuda_stream_groups.cuh).
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_bulk.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_walk.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

static_assert(sizeof(StreamChunk) == kStreamChunkBytes);

// a / b, for a below 2^20 and positive b.
__device__ __forceinline__ int quotient(int a, int b) {
  return static_cast<int>(__fdividef(static_cast<float>(a) + 0.5f, static_cast<float>(b)));
}

// What a CTA has: `left` tiles from tile `first` of its first chunk on; its chunks, in order; rows
// of A from first_row to end_row are in groups.
struct GroupShare {
  std::uint64_t barriers[kStreamWarps][kStreamGroupStages];  // of GroupRing
  int chunk_totals[kStreamWarps];                            // of the groups of a warp's lanes
  int first, left, first_row, end_row;
  StreamChunk chunks[1];
};
static_assert(sizeof(StreamChunk) == kStreamChunkBytes);
static_assert(offsetof(GroupShare, chunks) == kStreamShareBytes);

// Rows `from` on, `most` at most, of a group: row, end and scale_row are offsets as they lie in
// memory.
__device__ __forceinline__ StreamChunk chunk_of(const StreamArgs& args, int group, int row, int end,
                                                int scale_row, int from, int most) {
  const GemmProblem& problem = args.problem;
  StreamChunk chunk;
  chunk.group = group;
  chunk.first_row = max(row, 0) + from;
  chunk.rows = min(min(end, static_cast<int>(problem.m)) - chunk.first_row, most);
  chunk.scale_row = chunk.first_row;
  chunk.regular = args.regular;
  if (problem.quantized) {  // all rows have scales, at offsets that an int holds
    const std::int64_t at = std::int64_t{scale_row} + (chunk.first_row - std::int64_t{row});
    chunk.scale_row = static_cast<int>(at);
    chunk.regular = args.regular && at >= 0 && at + chunk.rows <= problem.a_scale_rows;
  }
  return chunk;
}

// A thread has a group: all together find the CTA's share. All threads call; for warps that have
// no groups there is nothing to do, as sixteen that do everything are slower than one a scheduler.
struct ShareSearch {
  int row, end, scale_row;  // as they lie in memory
  int chunks, before;       // before: those of the warp's groups before

  __device__ __forceinline__ void load(const StreamArgs& args) {
    const GemmProblem& problem = args.problem;
    const int group = static_cast<int>(threadIdx.x);
    row = end = scale_row = 0;
    if (group < problem.groups) {
      row = problem.row_offsets[group], end = problem.row_offsets[group + 1];
      if (problem.quantized) scale_row = problem.scale_row_offsets[group];
    }
  }
  __device__ __forceinline__ void count(const StreamArgs& args, GroupShare& share) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread & 31;
    const int groups = static_cast<int>(args.problem.groups);
    if ((thread & ~31) >= groups) {
      if (lane == 0) share.chunk_totals[thread / 32] = 0;
      return;
    }
    if (thread == 0) share.first_row = row;
    if (thread == groups - 1) share.end_row = end;
    const int from = max(row, 0), to = min(end, static_cast<int>(args.problem.m));
    static_assert(kStreamGroupRows == 8);
    chunks = to > from ? (to - from + 7) >> 3 : 0;
    int sum = chunks;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (lane >= step) sum += other;
    }
    before = sum - chunks;
    if (lane == 31) share.chunk_totals[thread / 32] = sum;
  }
  // After a barrier.
  __device__ __forceinline__ void find(const StreamArgs& args, GroupShare& share) {
    const GemmProblem& problem = args.problem;
    const StreamPlan& plan = args.plan;
    const int thread = static_cast<int>(threadIdx.x), groups = static_cast<int>(problem.groups);
    if ((thread & ~31) >= groups) return;
    int all = 0;
#pragma unroll 1
    for (int warp = 0; warp * 32 < groups; warp += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int total = share.chunk_totals[warp + i];
        if (warp + i < thread / 32) before += total;
        all += total;
      }
    }
    // Offsets that do not ascend could make more than there is room for.
    all = min(all, plan.chunks_most);
    int first, left, index, count;
    divide(plan, all, index, first, left, count);
    if (thread == 0) share.first = first, share.left = left;
    const int begin = max(index, before), end_chunk = min(index + count, before + chunks);
#pragma unroll 1
    for (int i = begin; i < end_chunk; ++i) {
      share.chunks[i - index] = chunk_of(args, thread, row, end, scale_row,
                                         (i - before) * kStreamGroupRows, kStreamGroupRows);
    }
  }
  // Tiles of one chunk alone where that leaves few CTAs idle, as a chunk more costs barriers and a
  // reading of its rows of A; else all CTAs have as many tiles.
  static __device__ __forceinline__ void divide(const StreamPlan& plan, int chunks, int& index,
                                                int& first, int& left, int& count) {
    const int block = static_cast<int>(blockIdx.x);
    index = first = left = 0, count = 0;
    if (chunks == 0) return;
    const int each = chunks <= plan.blocks ? quotient(plan.blocks, chunks) : 0;
    if (8 * each * chunks >= 7 * plan.blocks) {
      index = quotient(block, each);
      const int part = block - index * each;
      first = quotient(plan.tiles * part, each);
      if (index >= chunks) return;
      left = quotient(plan.tiles * (part + 1), each) - first, count = 1;
      return;
    }
    const int all = chunks * plan.tiles, tiles_of = quotient(all, plan.blocks);
    const int more = all - tiles_of * plan.blocks;
    first = tiles_of * block + min(block, more);
    left = tiles_of + (block < more ? 1 : 0);
    index = quotient(first, plan.tiles);
    count = left == 0 ? 0 : quotient(first + left - 1, plan.tiles) - index + 1;
    first -= index * plan.tiles;
  }
};

// Tiles of one chunk that a CTA has next: `tiles` from `first` on, as many as its sums have room
// for; `left` with them.
struct GroupSegment {
  int first, tiles, left;
  const StreamChunk* chunk;  // in shared memory
  int rows;                  // of it

  __device__ __forceinline__ void start(const StreamPlan& plan, const GroupShare& share) {
    first = share.first, left = share.left;
    chunk = share.chunks;
    if (left > 0) open(plan);
  }
  __device__ __forceinline__ void open(const StreamPlan& plan) {
    rows = chunk->rows;
    tiles = min(min(plan.tiles - first, left), plan.row_tiles[rows - 1]);
  }
  __device__ __forceinline__ void next(const StreamPlan& plan) {
    left -= tiles, first += tiles;
    if (left == 0) return;
    if (first == plan.tiles) first = 0, ++chunk;
    open(plan);
  }
};

// Pairs of slices of a segment, `count` from `pair` on: four a warp in turn, then as many each of
// what is left.
struct GroupItem {
  static constexpr int kPairs = 4;
  int base, pair, count;  // count == 0: no more

  __device__ __forceinline__ void start(int pairs) {
    base = 0;
    open(pairs);
  }
  __device__ __forceinline__ void next(int pairs) {
    base += kPairs * kStreamWarps;
    open(pairs);
  }
  __device__ __forceinline__ void open(int pairs) {
    const int warp = static_cast<int>(threadIdx.x / 32), rest = pairs - base;
    const int each = min((rest + kStreamWarps - 1) / kStreamWarps, kPairs);
    pair = base + warp * each;
    count = rest > 0 ? max(min(each, rest - warp * each), 0) : 0;
  }
};
__device__ __forceinline__ int pairs_of(const StreamPlan& plan, int tiles) {
  return (tiles * plan.slices + 1) / 2;
}

// A warp's stages of pairs of units of weights, which come in the order of use, all segments: by
// bulk copies where there are such, as a loads of A waits behind no other copies then.
template <Format kFormat>
struct GroupRing {
  static constexpr int kUnitBytes = unit_bytes(kFormat);
  static constexpr int kStageBytes = 2 * kUnitBytes;
  static constexpr int kStride = kStreamWarps * kStageBytes;
  std::uint32_t first, slot;
  std::uint32_t bars, parity;  // of bulk copies
  const std::uint8_t* at;      // the next pair
  GroupItem item;
  GroupSegment segment;

  // Before a barrier of the CTA.
  __device__ __forceinline__ GroupRing(std::uint32_t smem, std::uint32_t barriers)
      : first(smem + threadIdx.x / 32 * kStageBytes),
        slot(first),
        bars(barriers + threadIdx.x / 32 * kStreamGroupStages * 8),
        parity(0) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int s = 0; s < kStreamGroupStages; ++s) barrier_init(bars + 8 * s, 1);
      fence_async_proxy();
    }
#endif
  }
  __device__ __forceinline__ void start(const StreamArgs& args, const GroupSegment& from) {
    segment = from;
    item.start(pairs_of(args.plan, segment.tiles));
    open_item(args);
  }
  // Stages `from` to `to`, at first.
  __device__ __forceinline__ void fill(const StreamArgs& args, int from, int to) {
#pragma unroll 1
    for (int s = from; s < to; ++s) issue(args, first + s * kStride, bars + 8 * s);
  }
  // Until the pair in `slot` is there, for all lanes.
  __device__ __forceinline__ void wait() const {
#if __CUDA_ARCH__ >= 900
    barrier_wait(bars, parity);
#else
    wait_copies<kStreamGroupStages - 1>();
    __syncwarp();
#endif
  }
  // Once all lanes have read it.
  __device__ __forceinline__ void release(const StreamArgs& args) {
    __syncwarp();
    issue(args, slot, bars);
    slot += kStride, bars += 8;
    if (slot != first + kStreamGroupStages * kStride) return;
    slot = first, bars -= 8 * kStreamGroupStages, parity ^= 1;
  }

 private:
  __device__ __forceinline__ void open_item(const StreamArgs& args) {
#pragma unroll 1
    while (item.count == 0) {
      if (segment.left == segment.tiles) return;
      segment.next(args.plan);
      item.start(pairs_of(args.plan, segment.tiles));
    }
    const std::int64_t unit =
        static_cast<std::int64_t>(segment.first) * args.plan.slices + 2 * item.pair;
    at = args.weights + segment.chunk->group * args.problem.b_prepared_stride + unit * kUnitBytes;
  }
  // The next pair to `to`; without bulk copies as one group of them, an empty one if there is none.
  __device__ __forceinline__ void issue(const StreamArgs& args, std::uint32_t to,
                                        [[maybe_unused]] std::uint32_t bar) {
    if (item.count > 0) {
      const bool one = 2 * item.pair + 1 == segment.tiles * args.plan.slices;
#if __CUDA_ARCH__ >= 900
      if (threadIdx.x % 32 == 0) {
        barrier_expect(bar, one ? kUnitBytes : kStageBytes);
        bulk_load(to, at, one ? kUnitBytes : kStageBytes, bar);
      }
      at += kStageBytes;
#else
      const std::uint8_t* from = at + threadIdx.x % 32 * 16;
      if (one) {
        copy_unit<kUnitBytes>(to, from);
      } else {
        copy_pair<kUnitBytes>(to, from);
      }
      at += kStageBytes;
#endif
      ++item.pair;
      if (--item.count == 0) {
        item.next(pairs_of(args.plan, segment.tiles));
        open_item(args);
      }
    }
#if __CUDA_ARCH__ < 900
    commit_copies();
#endif
  }
};

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
