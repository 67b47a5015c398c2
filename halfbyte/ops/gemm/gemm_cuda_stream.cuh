// C = A * B^T for few rows of A, prepared weights: B is streamed once, in the order of the
// contract.
//
// A warp multiplies 16 rows of B by its slices of K on fp16 tensor cores: e2m1 codes as fp16 are
// exact, and so is the sum of a block in the fp32 accumulator (A's side:
// gemm_cuda_stream_stage.cuh). W4A4: acc = fma(sum, S_b, acc) is then the contract's, slice by
// slice, whatever the number of rows. W4A16: the same operations, but a block's sum is the tensor
// core's: bounded, and a row of C still depends on its row of A alone.
//
// Each warp has a ring of units of its own, filled by cp.async, so that warps meet only at the
// barriers of a phase (gemm_stream_plan.h); then every thread adds up the sums of some elements of
// C in the tree's order.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_simple.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_tokens.cuh"

namespace halfbyte::ops::cuda {

// Any groups, strides, layouts, clusters of two and rounds.
template <StreamKind kKind, int kTiles>
__global__ void __launch_bounds__(kStreamThreads, 1)
    stream_kernel(const __grid_constant__ StreamArgs args) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::uint8_t smem[];
  using Ring = StreamRing<kKind>;
  const StreamPlan& plan = args.plan;
  const GemmProblem& problem = args.problem;
  const int thread = static_cast<int>(threadIdx.x);
  auto* headers = reinterpret_cast<StreamRow*>(smem + plan.header_offset);
  auto* factors = reinterpret_cast<float*>(smem + plan.factor_offset);
  auto* parts = reinterpret_cast<float*>(smem + plan.part_offset);
  auto* pend = reinterpret_cast<float*>(smem + plan.pend_offset);
  const StreamGroups groups(args, smem);
  const std::uint32_t act = smem_address(smem) + plan.act_offset;
  const int rank = static_cast<int>(blockIdx.x) % plan.split;
  const int cluster = static_cast<int>(blockIdx.x) / plan.split;

  const bool grouped = plan.chunks == 0;
  const bool early_weights = args.wait && args.constant_weights && !grouped;
  if (args.wait && !early_weights) wait_for_kernel_before();
  int begin = cluster * plan.block_tiles + min(cluster, plan.more_tiles);
  int end = begin + plan.block_tiles + (cluster < plan.more_tiles ? 1 : 0);
  if (grouped) {
    load_groups(args, groups);
    share_of_groups(plan, groups.chunk_ends[problem.groups - 1], cluster,
                    static_cast<int>(gridDim.x) / plan.split, begin, end);
  }
  StreamPosition position;
  position.start(plan, begin, end);
  Ring ring(smem);
  StreamLoads<Ring::kUnitBytes> loads;
  loads.start(args, groups, rank, position);
  const auto issue = [&](std::uint32_t to) { loads.issue(args, groups, rank, to); };
  issue(ring.first);  // the other stages once A is there, as in multiply_simple
  if (early_weights) wait_for_kernel_before();

  StreamStage<kKind, kTiles, 1, false> stage;
  StreamScales scales;
  StreamChunk chunk{};
  bool first_phase = true, odd_phase = false;
#pragma unroll 1
  for (; position.left > 0; position.next(plan)) {
    const int tiles = position.tiles;
    const bool new_chunk = first_phase || position.first == 0;
    if (new_chunk) {
      chunk = chunk_at(args, groups, position.chunk);
      scales.load<kKind>(args, chunk);
    }
#pragma unroll 1
    for (int round = 0; round < plan.rounds; ++round) {
      const bool last_round = round + 1 == plan.rounds;
      const StreamShare& in = share_of(plan, round, rank);
      const int first = (plan.split > 1 ? rank : round) * plan.full.slices;
      StreamRow* rows = headers + (odd_phase ? kStreamMaxTokens : 0);
      if (new_chunk || plan.rounds > 1) {
        if (chunk.regular) {
          stage.run(args, chunk, first, in, false, act, factors);
        } else {
          stage_any<kKind, kTiles>(args, chunk, first, in, act, factors);
        }
        if (first_phase) {
#pragma unroll 1
          for (int s = 1; s < kStreamStages; ++s) issue(ring.first + s * Ring::kStride);
        }
        __syncthreads();
      }
      const StreamActivations<kTiles> a = activations_at<kTiles>(act, factors, chunk.rows);
      // Where the CTAs of a cluster have their sums, alike in both.
      const int each = plan.full.deal.parts, stride = chunk.rows * kStreamTokenStride;
      float* sums =
          parts + (odd_phase ? plan.group_tiles * each * plan.chunk_rows * kStreamTokenStride : 0);
      const int blocks = static_cast<int>(problem.k / 32) - first * 4;  // MXFP4
      StreamItem item;
      item.start(in.deal);
#pragma unroll 1
      for (; item.tile < tiles; item.next(in.deal)) {
        const int from = item.part * in.deal.part_slices;
        float4 sum[kTiles];
        multiply_part<kKind, kStreamPartSlices>(
            ring, a, from, min(in.deal.part_slices, in.slices - from), blocks, issue, sum);
        put_part<kTiles>(sum, chunk.rows, sums + (item.tile * each + item.part) * stride);
      }
      if (last_round) put_rows<kKind>(args, chunk, scales, rows);
      sync_split(plan.split);
      if (last_round && position.left == tiles) let_kernel_after_start();

      // The CTAs of a cluster take turns.
      const float decode_b = StreamScales::decode(scales.b, problem.b_scale.kind);
      const int all_parts =
          plan.split > 1 ? (plan.split - 1) * each + plan.last.deal.parts : in.deal.parts;
      const int own_tiles = (tiles - rank + plan.split - 1) / plan.split;
#pragma unroll 1
      for (int o = thread; o < own_tiles * chunk.rows * kTileRows; o += kStreamThreads) {
        const int row = o % kTileRows, mt = o / kTileRows, own = mt / chunk.rows;
        const int m = mt - own * chunk.rows, of = own * plan.split + rank;
        const std::uint32_t at =
            smem_address(sums + of * each * stride + m * kStreamTokenStride + row);
        float v = plan.split > 1 ? tree_sum<true>(at, all_parts, stride * 4, each)
                                 : tree_sum<false>(at, all_parts, stride * 4, each);
        float* waiting = pend + o;
        const int step = plan.group_tiles * plan.chunk_rows * kTileRows;  // from level to level
        if (!last_round) {
          int level = 0;
          for (; (round >> level & 1) != 0; ++level) v = __fadd_rn(waiting[level * step], v);
          waiting[level * step] = v;
          continue;
        }
        for (int level = 0; round >> level != 0; ++level) {
          if ((round >> level & 1) != 0) v = __fadd_rn(waiting[level * step], v);
        }
        const int n = (position.first + of) * kTileRows + row;
        put_output<kKind>(args, chunk, rows[m], n, v, decode_b);
      }
      first_phase = false;
      odd_phase = plan.buffers == 2 && !odd_phase;
    }
  }
  if (grouped) put_rows_of_no_group(args, groups.rows);
  if (plan.split > 1) sync_split(plan.split);  // the other may still read this CTA's sums
#endif
}

template <StreamKind kKind>
void (*stream_instance(const StreamPlan& plan))(StreamArgs) {
  if (!plan.simple)
    return plan.token_tiles == 1 ? stream_kernel<kKind, 1> : stream_kernel<kKind, 2>;
  if constexpr (is_nvfp4(kKind)) {
    if (plan.chunk_blocks != 0) return token_stream_kernel<kKind>;
  }
  if (plan.chunks == 0) return group_stream_kernel<kKind>;
  const bool split = plan.split > 1;
  if (plan.token_tiles == 2) {
    return split ? simple_stream_kernel<kKind, 2, 1, true>
                 : simple_stream_kernel<kKind, 2, 1, false>;
  }
  if constexpr (is_nvfp4(kKind)) {
    switch (stream_shared_slices(Format::kNvfp4, plan.chunk_rows)) {
      case 8:
        return simple_stream_kernel<kKind, 1, 8, false>;
      case 4:
        return simple_stream_kernel<kKind, 1, 4, false>;
      case 2:
        return split ? simple_stream_kernel<kKind, 1, 2, true>
                     : simple_stream_kernel<kKind, 1, 2, false>;
      default:
        break;
    }
  }
  return split ? simple_stream_kernel<kKind, 1, 1, true> : simple_stream_kernel<kKind, 1, 1, false>;
}

}  // namespace halfbyte::ops::cuda
