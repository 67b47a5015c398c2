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

#include "halfbyte/ops/gemm/gemm_cuda_stream_shared.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_sums.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_walk.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

// A warp's stages of pairs of units, and where its lanes are.
template <StreamKind kKind>
struct StreamRing {
  static constexpr int kUnitBytes = unit_bytes(format_of(kKind));
  static constexpr int kStageBytes = 2 * kUnitBytes;
  std::uint32_t first, slot;

  __device__ __forceinline__ explicit StreamRing(const void* smem)
      : first(smem_address(smem) + threadIdx.x / 32 * (kStreamStages * kStageBytes)), slot(first) {}
  // Until the pair in `slot` is there, for all lanes.
  __device__ __forceinline__ void wait() const {
    wait_copies<kStreamStages - 1>();
    __syncwarp();
  }
  // Once all lanes have read it: issue(slot) fills it again.
  template <class Issue>
  __device__ __forceinline__ void release(const Issue& issue) {
    __syncwarp();
    issue(slot);
    slot = slot == first + (kStreamStages - 1) * kStageBytes ? first : slot + kStageBytes;
  }
};

// The tree above the sums of 2^kBase slices: add(i, more) takes those that end at slice i, and
// returns the sum of all nodes that end there; without `more` slices, of the whole part.
template <int kBase, int kTiles>
struct PartTree {
  static constexpr int kLevels = 3 - kBase;
  static_assert(1 << 3 == kStreamPartSlices);
  float4 waiting[kLevels > 0 ? kLevels : 1][kTiles];

  __device__ __forceinline__ void add(int slice, bool last, float4 (&sum)[kTiles]) {
    bool carry = true;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      const bool right = (slice >> (level + kBase) & 1) != 0;
      if (right && (carry || last)) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) sum[i] = add4(waiting[level][i], sum[i]);
      }
      if (!right && carry) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) waiting[level][i] = sum[i];
        carry = false;
      }
    }
  }
};

// The sum of a part, `slices` of the round's from `from` on; issue(at): the next pair to a stage.
template <StreamKind kKind, int kTiles, class Issue>
__device__ __forceinline__ void multiply_part(StreamRing<kKind>& ring,
                                              const StreamActivations<kTiles>& a, int from,
                                              int slices, int blocks, const Issue& issue,
                                              float4 (&sum)[kTiles]) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  PartTree<1, kTiles> tree;
#pragma unroll 1
  for (int s = 0; s < slices; s += 2) {
    StreamUnit<format_of(kKind)> units[2];
    ring.wait();
    units[0].load(ring.slot, lane);
    units[1].load(ring.slot + ring.kUnitBytes, lane);
    ring.release(issue);
    const bool two = s + 1 < slices;  // or the second one is not there
    const int slice = from + s, second = two ? slice + 1 : slice;
    float4 sums[2][kTiles];
    multiply<kKind, kTiles>(units, a, {slice, second},
                            {min(blocks - slice * 4, 4), min(blocks - second * 4, 4)}, sums);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) sum[i] = two ? add4(sums[0][i], sums[1][i]) : sums[0][i];
    tree.add(s, s + 2 >= slices, sum);
  }
}

// The same where slices share columns, of which there is an even number.
template <StreamKind kKind, int kShared, class Issue>
__device__ __forceinline__ void multiply_part(StreamRing<kKind>& ring,
                                              const SharedActivations<kShared>& a, int from,
                                              int slices, int /*blocks*/, const Issue& issue,
                                              float4 (&sum)[1]) {
  constexpr int kBase = kShared == 8 ? 3 : kShared == 4 ? 2 : 1;
  const int lane = static_cast<int>(threadIdx.x & 31);
  PartTree<kBase, 1> tree;
#pragma unroll 1
  for (int group = 0; group < slices; group += kShared) {
    const int there = min(slices - group, kShared);
    float4 sums[8];
#pragma unroll
    for (float4& of : sums) of = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    SharedScales<kShared> scales;
    std::uint32_t at = a.fragments + (from + group) * 4 * a.pair_bytes;
#pragma unroll 1
    for (int s = 0; s < there; s += 2) {
      std::uint32_t codes[2][8];
      ring.wait();
      load_codes(ring.slot, lane, codes[0]);
      load_codes(ring.slot + ring.kUnitBytes, lane, codes[1]);
      scales.load(ring.slot, s, a);
      ring.release(issue);
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        const bool own = a.column_slice == s + u;
        add_products(codes[u], own ? at : a.zeros, own ? a.pair_bytes : 0, sums);
        at += 4 * a.pair_bytes;
      }
    }
    sum[0] = group_sum<kKind, kShared>(sums, scales, a, from + group, there);
    tree.add(group, group + kShared >= slices, sum);
  }
}

template <int kTiles>
__device__ __forceinline__ void put_part(const float4 (&sum)[kTiles], int rows, float* to) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  to += lane / 4;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int m = 8 * i + 2 * (lane % 4);
    if (m < rows) {
      to[m * kStreamTokenStride] = sum[i].x, to[m * kStreamTokenStride + 8] = sum[i].z;
    }
    if (m + 1 < rows) {
      to[(m + 1) * kStreamTokenStride] = sum[i].y;
      to[(m + 1) * kStreamTokenStride + 8] = sum[i].w;
    }
  }
}

template <int kTiles>
__device__ __forceinline__ StreamActivations<kTiles> activations_at(std::uint32_t act,
                                                                    const float* factors,
                                                                    int rows) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  StreamActivations<kTiles> a;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    a.fragments[i] = act + min(8 * i + lane / 4, rows - 1) * kStreamPairBytes + lane % 4 * 16;
  }
  a.pair_bytes = static_cast<std::uint32_t>(rows * kStreamPairBytes);
  a.factors = smem_address(factors) + lane % 4 * 8;
  return a;
}

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
  StreamStage<kKind, kTiles, true> stage;
  if (!early_weights) {
    stage.load(args, chunk, 0, in, thread);
    __syncthreads();  // all of it
  }
  Ring ring(smem);
  SimpleLoads<Ring::kUnitBytes> loads(args, tiles, tail);
  const auto issue = [&](std::uint32_t to) { loads.issue(plan, tiles, tail, to); };
  issue(ring.first);
  if (early_weights) wait_for_kernel_before();
  scales.load<kKind>(args, chunk);
  stage.run(args, chunk, 0, in, !early_weights, act, factors);
#pragma unroll 1
  for (int s = 1; s < kStreamStages; ++s) issue(ring.first + s * Ring::kStageBytes);
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

// One phase, one chunk of regular rows (StreamPlan::simple). Until its first weights are asked for
// the memory is idle, and instructions come from memory too: so the common case has a kernel that
// is short.
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

  StreamStage<kKind, kTiles, false> stage;
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
          for (int s = 1; s < kStreamStages; ++s) issue(ring.first + s * Ring::kStageBytes);
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
        multiply_part<kKind>(ring, a, from, min(in.deal.part_slices, in.slices - from), blocks,
                             issue, sum);
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
  if (plan.token_tiles == 2) return simple_stream_kernel<kKind, 2, 1>;
  if constexpr (is_nvfp4(kKind)) {
    switch (stream_shared_slices(Format::kNvfp4, plan.chunk_rows)) {
      case 8:
        return simple_stream_kernel<kKind, 1, 8>;
      case 4:
        return simple_stream_kernel<kKind, 1, 4>;
      case 2:
        return simple_stream_kernel<kKind, 1, 2>;
      default:
        break;
    }
  }
  return simple_stream_kernel<kKind, 1, 1>;
}

}  // namespace halfbyte::ops::cuda
