// The short kernel, of which StreamPlan::simple tells: one phase, one chunk of regular rows.
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
    shift = plan.part_shift, tail = last.first * plan.slices;
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
  return before * (plan.slices >> plan.part_shift) + (tile - before) * (plan.slices >> shift);
}

// The pairs of units of a warp in the order of use.
template <int kUnitBytes>
struct SimpleLoads {
  const std::uint8_t* weights;  // of the CTA's first tile, this lane's
  const std::uint8_t* at;
  int left;  // slices of the item from here on; 0: no more
  SimpleItem item;

  __device__ __forceinline__ SimpleLoads(const StreamArgs& args, const SimpleTiles& tiles,
                                         const StreamTail& tail)
      : weights(args.weights + (threadIdx.x & 31) * 16 +
                static_cast<std::int64_t>(tiles.first) * args.plan.slices * kUnitBytes) {
    item.start(args.plan, tail);
    open_item(args.plan, tiles);
  }
  __device__ __forceinline__ void open_item(const StreamPlan& plan, const SimpleTiles& tiles) {
    left = item.slice < tiles.count * plan.slices ? 1 << item.shift : 0;
    const int jump = item.slice >= tiles.half * plan.slices ? tiles.jump : 0;
    at = weights + (item.slice + static_cast<std::int64_t>(jump) * plan.slices) * kUnitBytes;
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
template <StreamKind kKind, int kTiles, int kShared>
__device__ __forceinline__ void multiply_simple(const StreamArgs& args, std::uint8_t* smem,
                                                const SimpleTiles& tiles, const StreamTail& tail,
                                                StreamScales& scales) {
  using Ring = StreamRing<kKind>;
  const StreamPlan& plan = args.plan;
  const StreamShare& in = plan.last;
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
      codes + static_cast<std::uint32_t>(args.pieces * chunk.rows * 8);
  StreamStage<kKind, kTiles, kShared, true> stage;
  if (!early_weights) {
    if (is_quantized(kKind) && args.copies) {
      copy_rows(args, codes, scale_bytes);
    } else {
      stage.load_first(args, chunk, 0, in);
    }
    __syncthreads();  // all of it
  }
  Ring ring(smem);
  SimpleLoads<Ring::kUnitBytes> loads(args, tiles, tail);
  const auto issue = [&](std::uint32_t to) { loads.issue(plan, tiles, tail, to); };
  issue(ring.first);
  if (early_weights) wait_for_kernel_before();
  scales.load<kKind>(args, chunk);
  if (is_quantized(kKind) && args.copies) {
    if (early_weights) {
      copy_rows(args, codes, scale_bytes);
      wait_copies<0>();
    } else {
      wait_copies<1>();  // but for the weights
    }
    __syncthreads();
    stage_copied<kKind, kTiles, kShared>(args, in, codes, scale_bytes, act, factors);
    __syncthreads();  // the copy is read
  } else {
    stage.run(args, chunk, 0, in, !early_weights, act, factors);
  }
#pragma unroll 1
  for (int s = 1; s < kStreamStages; ++s) issue(ring.first + s * Ring::kStride);
  if (kShared > 1 && thread < 4) {
    reinterpret_cast<std::uint32_t*>(smem + plan.header_offset + kStreamZeros)[thread] = 0;
  }
  __syncthreads();

  const auto a = simple_activations<kTiles, kShared>(plan, smem, factors);
  const int blocks = static_cast<int>(args.problem.k / 32);  // MXFP4
  int slot = thread / 32;                                    // of the part's sum
  SimpleItem item;
#pragma unroll 1
  for (item.start(plan, tail); item.slice < tiles.count * plan.slices; item.next(tail)) {
    const int tile = static_cast<int>(__umulhi(item.slice, in.slices_inverse));
    float4 sum[kTiles];
    multiply_part<kKind>(ring, a, item.slice - tile * plan.slices, 1 << item.shift, blocks, issue,
                         sum);
    put_part<kTiles>(sum, chunk.rows, parts + slot * chunk.rows * kStreamTokenStride);
    slot += kStreamWarps;
  }
}

// The sum over K of one element of a CTA's tile.
__device__ __forceinline__ float simple_sum(const StreamArgs& args, const std::uint8_t* smem,
                                            const StreamTail& tail, int tile, int m, int row) {
  const StreamPlan& plan = args.plan;
  const int stride = plan.chunk_rows * kStreamTokenStride;
  int shift;
  const int index = simple_sums(plan, tail, tile, shift);
  const float* first = reinterpret_cast<const float*>(smem + plan.part_offset) + index * stride +
                       m * kStreamTokenStride + row;
  const int parts = plan.slices >> shift;
  return tree_sum<false>(smem_address(first), parts, stride * 4, parts);
}

#endif  // __CUDA_ARCH__

// Multiplies, then adds up the parts' sums.
template <StreamKind kKind, int kTiles, int kShared>
__global__ void __launch_bounds__(kStreamThreads, 1)
    simple_stream_kernel(const __grid_constant__ StreamArgs args) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::uint8_t smem[];
  const StreamPlan& plan = args.plan;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const StreamChunk chunk{0, plan.chunk_rows, 0, 0, true};
  auto* rows = reinterpret_cast<StreamRow*>(smem + plan.header_offset);
  const int first_tile = block * plan.block_tiles + min(block, plan.more_tiles);
  const bool more = block < plan.more_tiles;
  const int tiles = plan.block_tiles + (more ? 1 : 0);
  const StreamTail tail = more ? plan.tails[1] : plan.tails[0];
  StreamScales scales;
  multiply_simple<kKind, kTiles, kShared>(args, smem, {first_tile, tiles, tiles, 0}, tail, scales);
  put_rows<kKind>(args, chunk, scales, rows);
  __syncthreads();
  let_kernel_after_start();

  const float decode_b = StreamScales::decode(scales.b, args.problem.b_scale.kind);
#pragma unroll 1
  for (int o = thread; o < tiles * chunk.rows * kTileRows; o += kStreamThreads) {
    const int row = o % kTileRows, mt = o / kTileRows;
    const int of = chunk.rows == 1 ? mt : mt / chunk.rows, m = mt - of * chunk.rows;
    const float v = simple_sum(args, smem, tail, of, m, row);
    put_output<kKind>(args, chunk, rows[m], (first_tile + of) * kTileRows + row, v, decode_b);
  }
#endif
}

}  // namespace halfbyte::ops::cuda
