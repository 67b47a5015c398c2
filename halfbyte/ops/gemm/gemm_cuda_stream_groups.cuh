// The short kernel for few rows in groups: StreamPlan::simple of a product with groups.
//
// Until its first weights are asked for the memory is idle, and which ones they are stands in the
// offsets. So every warp counts the groups' chunks by itself, of up to eight rows, in registers; a
// CTA has tiles of few chunks, of one where there are enough CTAs. Its warps share the slices of
// its tiles as one range, whatever tile they belong to, and leave the sum of every slice in shared
// memory, where a thread adds up those of an output in the tree's order. Where a chunk has one to
// four rows slices share the columns of a product (gemm_cuda_stream_shared.cuh).
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_group_walk.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_multiply.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_sums.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

// Where slice `slice` of a segment's range lies along K.
__device__ __forceinline__ int slice_along_k(const StreamPlan& plan, int slice) {
  if (plan.slices == 1) return 0;
  const auto tile = __umulhi(static_cast<std::uint32_t>(slice), plan.last.slices_inverse);
  return slice - static_cast<int>(tile) * plan.slices;
}

// group_sum (gemm_cuda_stream_shared.cuh) but for its tree: columns 2 * (lane % 4), + 1, each of
// one slice; slices: where these lie along K.
template <StreamKind kKind, int kShared>
__device__ __forceinline__ float4 slice_sums(const float4 (&sums)[8],
                                             const SharedScales<kShared>& scales,
                                             const SharedActivations<kShared>& a,
                                             const int (&slices)[2]) {
  constexpr int kLast = SharedScales<kShared>::kSlices - 1;
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int block = 0; block < 8; ++block) {
    std::uint32_t s[2] = {scales.words[0][block / 2], scales.words[kLast][block / 2]};
#pragma unroll
    for (std::uint32_t& word : s) {
      word = (block % 2 != 0 ? __funnelshift_r(word, word, 8) : word) & 0x7F807F80u;
    }
    v.x = __fmaf_rn(sums[block].x, low_half(s[0]), v.x);
    v.y = __fmaf_rn(sums[block].y, low_half(s[1]), v.y);
    v.z = __fmaf_rn(sums[block].z, high_half(s[0]), v.z);
    v.w = __fmaf_rn(sums[block].w, high_half(s[1]), v.w);
  }
  if constexpr (!is_quantized(kKind)) {
    const float2 first = load_shared_floats(a.factors + slices[0] * 32);
    const float second = kShared == 8 ? load_shared_floats(a.factors + slices[1] * 32).x : first.y;
    v = make_float4(__fmul_rn(v.x, first.x), __fmul_rn(v.y, second), __fmul_rn(v.z, first.x),
                    __fmul_rn(v.w, second));
  }
  return v;
}

// StreamStage, whose places depend on how many rows share columns.
template <StreamKind kKind>
struct GroupStage {
  template <int kShared>
  using Stage = StreamStage<kKind, 1, kShared, false>;
  Stage<1> held;  // pieces of any of them

  // Slices that share columns; of a chunk that is not regular one alone.
  static __device__ __forceinline__ int shared(const StreamChunk& chunk) {
    return chunk.regular ? stream_shared_slices(format_of(kKind), chunk.rows) : 1;
  }
  template <class Do>
  static __device__ __forceinline__ void with_shared(const StreamChunk& chunk, const Do& call) {
    const int of = shared(chunk);
    if (is_nvfp4(kKind) && of == 8) {
      call(Stage < is_nvfp4(kKind) ? 8 : 1 > {});
    } else if (is_nvfp4(kKind) && of == 4) {
      call(Stage < is_nvfp4(kKind) ? 4 : 1 > {});
    } else if (is_nvfp4(kKind) && of == 2) {
      call(Stage < is_nvfp4(kKind) ? 2 : 1 > {});
    } else {
      call(Stage<1>{});
    }
  }
  // The first pieces of a regular chunk.
  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk) {
    with_shared(chunk, [&](auto stage) {
      stage.load_first(args, chunk, 0, args.plan.last);
#pragma unroll
      for (int i = 0; i < stage.kAhead; ++i) held.pieces[i] = stage.pieces[i];
    });
  }
  // All of the chunk; loaded: the first pieces are.
  __device__ __forceinline__ void run(const StreamArgs& args, const StreamChunk& chunk, bool loaded,
                                      std::uint32_t to, float* factors) {
    with_shared(chunk, [&](auto stage) {
#pragma unroll
      for (int i = 0; i < stage.kAhead; ++i) stage.pieces[i] = held.pieces[i];
      stage.run(args, chunk, 0, args.plan.last, loaded, to, factors);
    });
  }
};

// A column of a product: 16 rows of B, of which a lane has two.
__device__ __forceinline__ void put_column(float* sums, int column, float low, float high) {
  float* to = sums + column * kStreamGroupStride + (threadIdx.x & 31) / 4;
  to[0] = low, to[8] = high;
}

// slice_along_k of slice `slice` of a group from `first` on; of its last one where it is not there.
__device__ __forceinline__ int group_slice_along_k(const StreamPlan& plan, int first, int slice,
                                                   int there) {
  return slice_along_k(plan, first + min(slice, there - 1));
}

// The blocks' sums of a group of `there` slices from `first` on, which share columns.
template <StreamKind kKind, int kShared>
__device__ __forceinline__ void multiply_group(const StreamArgs& args,
                                               GroupRing<format_of(kKind)>& ring,
                                               const SharedActivations<kShared>& a, int first,
                                               int there, float4 (&sums)[8],
                                               SharedScales<kShared>& scales) {
  const int lane = static_cast<int>(threadIdx.x & 31);
#pragma unroll
  for (float4& of : sums) of = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const std::uint32_t at =
      a.fragments + group_slice_along_k(args.plan, first, a.column_slice, there) * 4 * a.pair_bytes;
#pragma unroll 1
  for (int s = 0; s < there; s += 2) {
    std::uint32_t codes[2][8];
    ring.wait();
    load_codes(ring.slot, lane, codes[0]);
    load_codes(ring.slot + ring.kUnitBytes, lane, codes[1]);
    scales.load(ring.slot, s, a);
    ring.release(args);
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const bool own = a.column_slice == s + u;
      add_products(codes[u], own ? at : a.zeros, own ? a.pair_bytes : 0, sums);
    }
  }
}

// A lane's sums of a group: of slice `slice` of it and row m of the chunk, then of the next column.
template <int kShared>
__device__ __forceinline__ void put_slices(float* sums, int column, int rows, int m, int slice,
                                           int there, const float4& v) {
  if (slice < there && m < rows) put_column(sums, column, v.x, v.z);
  if constexpr (kShared == 8) {
    if (slice + 1 < there) put_column(sums, column + rows, v.y, v.w);
  } else {
    if (slice < there && m + 1 < rows) put_column(sums, column + 1, v.y, v.w);
  }
}

// The sums of the slices of a warp's items; sums: of slice s and row m of the chunk s * rows + m.
template <StreamKind kKind, int kShared>
__device__ __forceinline__ void multiply_segment(const StreamArgs& args, std::uint8_t* smem,
                                                 GroupRing<format_of(kKind)>& ring,
                                                 const GroupSegment& segment) {
  const StreamPlan& plan = args.plan;
  const int lane = static_cast<int>(threadIdx.x & 31), rows = segment.rows;
  const int all = segment.tiles * plan.slices, pairs = pairs_of(plan, segment.tiles);
  auto* factors = reinterpret_cast<float*>(smem + plan.factor_offset);
  auto* sums_at = reinterpret_cast<float*>(smem + plan.part_offset);
  const std::uint32_t act = smem_address(smem) + plan.act_offset;
  GroupItem item;
  item.start(pairs);
  if constexpr (kShared == 1) {
    const StreamActivations<1> a = activations_at<1>(act, factors, rows);
    const int blocks = static_cast<int>(args.problem.k / 32), m = 2 * (lane % 4);  // MXFP4
#pragma unroll 1
    for (; item.count > 0; item.next(pairs)) {
#pragma unroll 1
      for (int pair = item.pair; pair < item.pair + item.count; ++pair) {
        StreamUnit<format_of(kKind)> units[2];
        ring.wait();
        units[0].load(ring.slot, lane);
        units[1].load(ring.slot + ring.kUnitBytes, lane);
        ring.release(args);
        const int two = 2 * pair + 1 < all ? 2 : 1;
        const int first = slice_along_k(plan, 2 * pair);
        const int second = two == 1 ? first : slice_along_k(plan, 2 * pair + 1);
        float4 sums[2][1];
        multiply<kKind, 1>(units, a, {first, second},
                           {first * 4 * a.pair_bytes, second * 4 * a.pair_bytes},
                           {min(blocks - first * 4, 4), min(blocks - second * 4, 4)}, sums);
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          const int column = (2 * pair + u) * rows + m;
          if (u < two && m < rows) put_column(sums_at, column, sums[u][0].x, sums[u][0].z);
          if (u < two && m + 1 < rows) put_column(sums_at, column + 1, sums[u][0].y, sums[u][0].w);
        }
      }
    }
  } else {
    constexpr int kTokens = 8 / kShared;
    auto* zeros = reinterpret_cast<std::uint32_t*>(smem + plan.header_offset + kStreamZeros);
    const SharedActivations<kShared> a(act, smem_address(zeros), factors, rows);
    const int m = 2 * (lane % 4) % kTokens;
#pragma unroll 1
    for (; item.count > 0; item.next(pairs)) {
#pragma unroll 1
      for (int done = 0; done < item.count; done += kShared / 2) {
        const int first = 2 * (item.pair + done);
        const int there = min(min(2 * (item.count - done), kShared), all - first);
        float4 sums[8];
        SharedScales<kShared> scales;
        multiply_group<kKind, kShared>(args, ring, a, first, there, sums, scales);
        const int slice = a.first_slice, next = kShared == 8 ? slice + 1 : slice;
        const float4 v =
            slice_sums<kKind, kShared>(sums, scales, a,
                                       {group_slice_along_k(plan, first, slice, there),
                                        group_slice_along_k(plan, first, next, there)});
        put_slices<kShared>(sums_at, (first + slice) * rows + m, rows, m, slice, there, v);
      }
    }
  }
}

// From the slices' sums to C.
template <StreamKind kKind>
__device__ __forceinline__ void put_sums(const StreamArgs& args, const std::uint8_t* smem,
                                         int first_tile, int tiles, const StreamChunk& chunk,
                                         float decode_b) {
  const StreamPlan& plan = args.plan;
  const auto* rows = reinterpret_cast<const StreamRow*>(smem + plan.header_offset);
  const std::uint32_t sums = smem_address(smem) + plan.part_offset;
  const int stride = chunk.rows * kStreamGroupStride * 4;
#pragma unroll 1
  for (int o = static_cast<int>(threadIdx.x); o < tiles * chunk.rows * kTileRows;
       o += kStreamThreads) {
    const int row = o % kTileRows, mt = o / kTileRows;
    const int of = chunk.rows == 1 ? mt : mt / chunk.rows, token = mt - of * chunk.rows;
    const std::uint32_t at =
        sums + (of * plan.slices * chunk.rows + token) * kStreamGroupStride * 4 + row * 4;
    const float v = tree_sum<false>(at, plan.slices, stride, plan.slices);
    put_output<kKind>(args, chunk, rows[token], (first_tile + of) * kTileRows + row, v, decode_b);
  }
}

// Rows that are in no group are +0.
__device__ __forceinline__ void put_rows_outside(const StreamArgs& args, int first_row,
                                                 int end_row) {
  const GemmProblem& problem = args.problem;
#pragma unroll 1
  for (int row = static_cast<int>(blockIdx.x); row < static_cast<int>(problem.m);
       row += static_cast<int>(gridDim.x)) {
    if (row >= first_row && row < end_row) continue;
    const std::int64_t at = find_c_row(args, row);
    for (std::int64_t n = threadIdx.x; n < problem.n; n += kStreamThreads) {
      put_value(problem.c, problem.c_dtype, at + n, 0.0f);
    }
  }
}

#endif  // __CUDA_ARCH__

template <StreamKind kKind>
__global__ void __launch_bounds__(kStreamThreads, 1)
    group_stream_kernel(const __grid_constant__ StreamArgs args) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::uint8_t smem[];
  const StreamPlan& plan = args.plan;
  const int thread = static_cast<int>(threadIdx.x);
  auto* rows = reinterpret_cast<StreamRow*>(smem + plan.header_offset);
  auto* factors = reinterpret_cast<float*>(smem + plan.factor_offset);
  const std::uint32_t act = smem_address(smem) + plan.act_offset;
  if (args.wait) wait_for_kernel_before();

  auto& share = *reinterpret_cast<GroupShare*>(smem + plan.chunk_offset);
  ShareSearch search;
  search.load(args);
  if (thread < 4) {
    reinterpret_cast<std::uint32_t*>(smem + plan.header_offset + kStreamZeros)[thread] = 0;
  }
  GroupRing<format_of(kKind)> ring(smem_address(smem), smem_address(&share.barriers));
  search.count(args, share);
  __syncthreads();
  search.find(args, share);
  __syncthreads();
  GroupSegment segment;
  segment.start(plan, share);
  if (segment.left > 0) {
    StreamChunk chunk = *segment.chunk;
    GroupStage<kKind> stage;
    if (chunk.regular) stage.load(args, chunk);
    __syncthreads();
    ring.start(args, segment);
    ring.fill(args, 0, 1);
    StreamScales scales;
    bool first_segment = true;
#pragma unroll 1
    do {
      if (first_segment || segment.first == 0) {
        chunk = *segment.chunk;
        scales.load<kKind>(args, chunk);
        if (chunk.regular) {
          stage.run(args, chunk, first_segment, act, factors);
        } else {
          stage_any<kKind, 1>(args, chunk, 0, plan.last, act, factors);
        }
      }
      if (first_segment) ring.fill(args, 1, kStreamGroupStages);
      __syncthreads();  // also: the sums of the segment before are read
      const int shared = stage.shared(chunk);
      if (is_nvfp4(kKind) && shared == 8) {
        multiply_segment<kKind, is_nvfp4(kKind) ? 8 : 1>(args, smem, ring, segment);
      } else if (is_nvfp4(kKind) && shared == 4) {
        multiply_segment<kKind, is_nvfp4(kKind) ? 4 : 1>(args, smem, ring, segment);
      } else if (is_nvfp4(kKind) && shared == 2) {
        multiply_segment<kKind, is_nvfp4(kKind) ? 2 : 1>(args, smem, ring, segment);
      } else {
        multiply_segment<kKind, 1>(args, smem, ring, segment);
      }
      put_rows<kKind>(args, chunk, scales, rows);
      __syncthreads();
      if (segment.left == segment.tiles) let_kernel_after_start();

      put_sums<kKind>(args, smem, segment.first, segment.tiles, chunk,
                      StreamScales::decode(scales.b, args.problem.b_scale.kind));
      first_segment = false;
      segment.next(plan);
    } while (segment.left > 0);
  }
  put_rows_outside(args, share.first_row, share.end_row);
#endif
}

}  // namespace halfbyte::ops::cuda
