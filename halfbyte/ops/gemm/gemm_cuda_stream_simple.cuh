// The short kernel, of which StreamPlan::simple tells: one phase, one chunk of regular rows. A CTA
// has all of K, or one half of it (kSplit), the other CTA of its cluster the other.
//
// Until its first weights are asked for the memory is idle, so the common case has a kernel with
// little before that.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_multiply.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_sums.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_walk.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

// Tiles of B that a CTA has: l is first + l, plus `jump` from `half` on.
struct SimpleTiles {
  int first, count, half, jump;
};

// The items of a warp: the slices of its CTA's tiles are one range, which the
// warps share part by part.
struct SimpleItem {
  int slice;  // of the range: the item's first
  int shift;  // it has 1 << shift slices
  int tail;   // slices before the tail; 0: in it

  __device__ __forceinline__ void start(const StreamPlan& plan, const StreamTail& last) {
    const int warp = static_cast<int>(threadIdx.x / 32);
    shift = plan.part_shift, tail = last.first * plan.full.slices;
    slice = warp << shift;
    if (slice >= tail) start_tail(last, warp);
  }
  __device__ __forceinline__ void start_tail(const StreamTail& last, int warp) {
    shift = last.part_shift;
    slice = tail + (warp << shift), tail = 0;
  }
  __device__ __forceinline__ void next(const StreamTail& last) {
    slice += kStreamWarps << shift;
    if (slice >= tail && tail != 0) start_tail(last, static_cast<int>(threadIdx.x / 32));
  }
};
// Which of a CTA's sums are a tile's: 1 << shift slices each, from the one that is returned on.
__device__ __forceinline__ int simple_sums(const StreamPlan& plan, const StreamTail& tail, int tile,
                                           int& shift) {
  const int before = min(tile, tail.first);
  shift = tile < tail.first ? plan.part_shift : tail.part_shift;
  const int slices = plan.full.slices;
  return before * (slices >> plan.part_shift) + (tile - before) * (slices >> shift);
}

// The CTA of a cluster that this one is.
template <bool kSplit>
__device__ __forceinline__ int simple_rank(const StreamPlan& plan) {
  return kSplit ? static_cast<int>(blockIdx.x) % plan.split : 0;
}

// The pairs of units of a warp in the order of use.
template <int kUnitBytes, bool kSplit>
struct SimpleLoads {
  const std::uint8_t* weights;  // of the CTA's first tile, this lane's
  const std::uint8_t* at;
  int left;  // slices of the item from here on; 0: no more
  SimpleItem item;

  __device__ __forceinline__ SimpleLoads(const StreamArgs& args, const SimpleTiles& tiles,
                                         const StreamTail& tail)
      : weights(args.weights + (threadIdx.x & 31) * 16 +
                (static_cast<std::int64_t>(tiles.first) * args.plan.slices +
                 simple_rank<kSplit>(args.plan) * args.plan.full.slices) *
                    kUnitBytes) {
    item.start(args.plan, tail);
    open_item(args.plan, tiles);
  }
  __device__ __forceinline__ void open_item(const StreamPlan& plan, const SimpleTiles& tiles) {
    const int slices = plan.full.slices;
    left = item.slice < tiles.count * slices ? 1 << item.shift : 0;
    const int jump = item.slice >= tiles.half * slices ? tiles.jump : 0;
    std::int64_t slice = item.slice + static_cast<std::int64_t>(jump) * plan.slices;
    if constexpr (kSplit) {  // plan.split is 2: the other half of each tile lies between
      slice += static_cast<std::int64_t>(__umulhi(item.slice, plan.full.slices_inverse)) * slices;
    }
    at = weights + slice * kUnitBytes;
  }
  __device__ __forceinline__ void issue(const StreamPlan& plan, const SimpleTiles& tiles,
                                        const StreamTail& tail, std::uint32_t to) {
    if (left > 0) {
      copy_pair<kUnitBytes>(to, at);
      left -= 2;
      if (left == 0) {
        item.next(tail);
        open_item(plan, tiles);
      }
    }
    commit_copies();
  }
};

// What multiply_part takes of A.
template <int kTiles, int kShared>
__device__ __forceinline__ auto simple_activations(const StreamPlan& plan, std::uint8_t* smem,
                                                   const float* factors) {
  const std::uint32_t act = smem_address(smem) + plan.act_offset;
  if constexpr (kShared == 1) {
    return activations_at<kTiles>(act, factors, plan.chunk_rows);
  } else {
    auto* zeros = reinterpret_cast<std::uint32_t*>(smem + plan.header_offset + kStreamZeros);
    return SharedActivations<kShared>(act, smem_address(zeros), factors, plan.chunk_rows);
  }
}

// One phase, one chunk of regular rows: everything up to the sums of the parts.
template <StreamKind kKind, int kTiles, int kShared, bool kSplit>
__device__ __forceinline__ void multiply_simple(const StreamArgs& args, std::uint8_t* smem,
                                                const SimpleTiles& tiles, const StreamTail& tail,
                                                StreamScales& scales) {
  using Ring = StreamRing<kKind>;
  const StreamPlan& plan = args.plan;
  const StreamShare& in = plan.full;
  const int first_slice = simple_rank<kSplit>(plan) * in.slices;
  const int thread = static_cast<int>(threadIdx.x);
  const StreamChunk chunk{0, plan.chunk_rows, 0, 0, true};
  auto* factors = reinterpret_cast<float*>(smem + plan.factor_offset);
  auto* parts = reinterpret_cast<float*>(smem + plan.part_offset);
  const std::uint32_t act = smem_address(smem) + plan.act_offset;

  // What is asked for later waits behind all that was asked for before, so that A goes first where
  // it can, and no more than a stage of weights comes before A is there.
  const bool early_weights = args.wait && args.constant_weights;
  if (args.wait && !early_weights) wait_for_kernel_before();
  const std::uint32_t codes = smem_address(smem) + Ring::kStride;
  const std::uint32_t scale_bytes =
      codes + static_cast<std::uint32_t>(in.slices * kSlicePieces * chunk.rows * 8);
  StreamStage<kKind, kTiles, kShared, true> stage;
  if (!early_weights) {
    if (is_quantized(kKind) && args.copies) {
      copy_rows(args, first_slice, in, codes, scale_bytes);
    } else {
      stage.load_first(args, chunk, first_slice, in);
    }
    __syncthreads();  // all of it
  }
  Ring ring(smem);
  SimpleLoads<Ring::kUnitBytes, kSplit> loads(args, tiles, tail);
  const auto issue = [&](std::uint32_t to) { loads.issue(plan, tiles, tail, to); };
  issue(ring.first);
  if (early_weights) wait_for_kernel_before();
  scales.load<kKind>(args, chunk);
  if (is_quantized(kKind) && args.copies) {
    if (early_weights) {
      copy_rows(args, first_slice, in, codes, scale_bytes);
      wait_copies<0>();
    } else {
      wait_copies<1>();  // but for the weights
    }
    __syncthreads();
    stage_copied<kKind, kTiles, kShared>(args, in, codes, scale_bytes, act, factors);
    __syncthreads();  // the copy is read
  } else {
    stage.run(args, chunk, first_slice, in, !early_weights, act, factors);
  }
#pragma unroll 1
  for (int s = 1; s < kStreamStages; ++s) issue(ring.first + s * Ring::kStride);
  if (kShared > 1 && thread < 4) {
    reinterpret_cast<std::uint32_t*>(smem + plan.header_offset + kStreamZeros)[thread] = 0;
  }
  __syncthreads();

  const auto a = simple_activations<kTiles, kShared>(plan, smem, factors);
  const int blocks = static_cast<int>(args.problem.k / 32) - first_slice * 4;  // MXFP4
  constexpr int kPartSlices = kShared == 1 ? kStreamLongPartSlices : kStreamPartSlices;
  int slot = thread / 32;  // of the part's sum
  SimpleItem item;
#pragma unroll 1
  for (item.start(plan, tail); item.slice < tiles.count * in.slices; item.next(tail)) {
    const int tile = static_cast<int>(__umulhi(item.slice, in.slices_inverse));
    float4 sum[kTiles];
    multiply_part<kKind, kPartSlices>(ring, a, item.slice - tile * in.slices, 1 << item.shift,
                                      blocks, issue, sum);
    put_part<kTiles>(sum, chunk.rows, parts + slot * chunk.rows * kStreamTokenStride);
    slot += kStreamWarps;
  }
}

// The sum over K of one element of a CTA's tile.
template <int kShared, bool kSplit>
__device__ __forceinline__ float simple_sum(const StreamArgs& args, const std::uint8_t* smem,
                                            const StreamTail& tail, int tile, int m, int row) {
  const StreamPlan& plan = args.plan;
  const int stride = plan.chunk_rows * kStreamTokenStride;
  int shift;
  const int index = simple_sums(plan, tail, tile, shift);
  const float* first = reinterpret_cast<const float*>(smem + plan.part_offset) + index * stride +
                       m * kStreamTokenStride + row;
  const int parts = plan.full.slices >> shift;
  if (kShared == 1 && !kSplit && parts == 4) {  // of many elements: without a loop
    return __fadd_rn(__fadd_rn(first[0], first[stride]),
                     __fadd_rn(first[2 * stride], first[3 * stride]));
  }
  return tree_sum<kSplit>(smem_address(first), kSplit ? plan.split * parts : parts, stride * 4,
                          parts);
}

// The elements of C that a thread has of a CTA's tiles (or pairs of them), from one to the next.
struct SimpleElement {
  int tile, m, row;
  int tile_step, m_step;

  __device__ __forceinline__ explicit SimpleElement(const StreamPlan& plan)
      : row(static_cast<int>(threadIdx.x) % kTileRows) {
    constexpr int kStep = kStreamThreads / kTileRows;
    static_assert(kStep <= 2 * kStreamWarps);  // chunk_inverse
    const int first = static_cast<int>(threadIdx.x) / kTileRows;
    tile = first * plan.chunk_inverse >> 16, m = first - tile * plan.chunk_rows;
    tile_step = kStep * plan.chunk_inverse >> 16, m_step = kStep - tile_step * plan.chunk_rows;
  }
  __device__ __forceinline__ void next(int rows) {
    tile += tile_step, m += m_step;
    if (m >= rows) m -= rows, ++tile;
  }
};

#endif  // __CUDA_ARCH__

// Multiplies, then adds up the parts' sums. The CTAs of a cluster take turns at the tiles.
template <StreamKind kKind, int kTiles, int kShared, bool kSplit>
__global__ void __launch_bounds__(kStreamThreads, 1)
    simple_stream_kernel(const __grid_constant__ StreamArgs args) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::uint8_t smem[];
  const StreamPlan& plan = args.plan;
  const int ctas = kSplit ? plan.split : 1;
  const int cluster = static_cast<int>(blockIdx.x) / ctas, rank = simple_rank<kSplit>(plan);
  const StreamChunk chunk{0, plan.chunk_rows, 0, 0, true};
  auto* rows = reinterpret_cast<StreamRow*>(smem + plan.header_offset);
  const int first_tile = cluster * plan.block_tiles + min(cluster, plan.more_tiles);
  const bool more = cluster < plan.more_tiles;
  const int tiles = plan.block_tiles + (more ? 1 : 0);
  const StreamTail tail = more ? plan.tails[1] : plan.tails[0];
  StreamScales scales;
  multiply_simple<kKind, kTiles, kShared, kSplit>(args, smem, {first_tile, tiles, tiles, 0}, tail,
                                                  scales);
  put_rows<kKind>(args, chunk, scales, rows);
  sync_split(ctas);
  let_kernel_after_start();

  const float decode_b = StreamScales::decode(scales.b, args.problem.b_scale.kind);
#pragma unroll 1
  for (SimpleElement at(plan); at.tile * ctas + rank < tiles; at.next(chunk.rows)) {
    const int tile = at.tile * ctas + rank;
    const float v = simple_sum<kShared, kSplit>(args, smem, tail, tile, at.m, at.row);
    put_output<kKind>(args, chunk, rows[at.m], (first_tile + tile) * kTileRows + at.row, v,
                      decode_b);
  }
  if (kSplit) sync_split(ctas);  // the other may still read this CTA's sums
#endif
}

}  // namespace halfbyte::ops::cuda
