// The shortest way from offsets to weights: the few rows of a token's experts, NVFP4.
//
// Until the weights are asked for memory is idle, and with sixteen warps an instruction that all
// execute takes four cycles: what can be known before the offsets come is made ready while they do,
// one warp alone looks for the CTA's chunk in them, and each other one then asks for all of its
// weights, at most eight slices, at once. All rows of A come as they lie in memory together with
// the offsets; the chunk's become fragments while the weights come. A's block scales lie where the
// offsets say, and what is asked for beside weights comes late: they enter at the end, as the
// product of two E4M3 scales has a float, so that the one fma of a block rounds the same.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_groups.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_token_search.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

// Rows of A as they lie in memory, to `to`: all that were asked for are there after wait_copies<0>
// and a barrier.
template <StreamKind kKind>
__device__ __forceinline__ void copy_all_rows(const StreamArgs& args, std::uint32_t to) {
  const GemmProblem& problem = args.problem;
  const int row_bytes = static_cast<int>(is_quantized(kKind) ? problem.k / 2 : problem.k * 2);
  const int all = static_cast<int>(problem.m) * row_bytes, thread = static_cast<int>(threadIdx.x);
  const auto* from =
      is_quantized(kKind) ? problem.a_codes : static_cast<const std::uint8_t*>(problem.x);
  const base::RowMap& rows = is_quantized(kKind) ? problem.a_rows : problem.x_rows;
  if (args.copies) {
#pragma unroll 1
    for (int i = thread * 16; i < all; i += kStreamThreads * 16) {
      const int row = quotient(i, row_bytes);
      copy_async16(to + i, from + row * args.row_bytes + (i - row * row_bytes));
    }
  } else {
    constexpr int kUnit = is_quantized(kKind) ? 1 : 2;
#pragma unroll 1
    for (int i = thread * 4; i < all; i += kStreamThreads * 4) {
      const int row = quotient(i, row_bytes);
      store_shared4(to + i, load_word(from + rows.offset(row) * kUnit + (i - row * row_bytes)));
    }
  }
  commit_copies();
}

#if __CUDA_ARCH__ >= 900
// A warp's barriers of its pairs of units, `count` of slices, and what is to come.
__device__ __forceinline__ void init_pairs(std::uint32_t bars, int count) {
  if (threadIdx.x % 32 != 0) return;
#pragma unroll
  for (int i = 0; i < kTokenPairs; ++i) barrier_init(bars + 8 * i, 1);
  fence_async_proxy();
#pragma unroll
  for (int i = 0; i < kTokenPairs; ++i) {
    const int bytes = min(count - 2 * i, 2) * unit_bytes(Format::kNvfp4);
    if (bytes > 0) barrier_expect(bars + 8 * i, bytes);
  }
}
#endif

// The chunk's fragments from there; W4A4's are e2m1, without their blocks' scales.
template <StreamKind kKind, int kShared>
__device__ __forceinline__ void stage_tokens(const StreamArgs& args, const StreamChunk& chunk,
                                             std::uint32_t from, std::uint32_t to, float* factors) {
  using Place = StreamPlace<kKind, 1, kShared>;
  const bool bf16 = args.problem.x_dtype == base::DType::kBF16;
  const int pieces = args.plan.slices * kSlicePieces;
  const Place place;
  constexpr int kBytes = StreamPiece<kKind>::kWords * 4;
#pragma unroll 1
  for (int index = place.piece; index - place.piece % Place::kPieces < pieces;
       index += Place::kStep) {
    const bool there = index < pieces && place.token < chunk.rows;
    StreamPiece<kKind> piece;
    piece.clear();
    if (there) {
      const std::uint32_t at = from + ((chunk.first_row + place.token) * pieces + index) * kBytes;
      if constexpr (is_quantized(kKind)) {
        const uint2 v = load_shared8(at);
        piece.words[0] = v.x, piece.words[1] = v.y;
        piece.scale = 0x78;  // 2^8, which is 1 here
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint4 v = load_shared16(at + 16 * i);
          piece.words[4 * i] = v.x, piece.words[4 * i + 1] = v.y;
          piece.words[4 * i + 2] = v.z, piece.words[4 * i + 3] = v.w;
        }
      }
    }
    put_piece<kKind, 1, kShared>(piece, place.token, index, there, bf16, chunk.rows, to, factors);
  }
}

// A's block scales as floats, S * 2^-8: to[row * blocks + block]. One warp's: words of four blocks,
// kAhead of a lane at once.
template <int kAhead>
struct TokenScales {
  std::uint32_t words[kAhead];

  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk,
                                       int first) {
    const int row_words = static_cast<int>(args.problem.k / 64);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = first + 32 * i + static_cast<int>(threadIdx.x & 31);
      words[i] = 0;
      if (at >= chunk.rows * row_words) continue;
      const int token = chunk.rows == 1 ? 0 : quotient(at, row_words);
      words[i] = load_word(args, chunk, token, 4 * (at - token * row_words));
    }
  }
  __device__ __forceinline__ void put(const StreamArgs& args, const StreamChunk& chunk, int first,
                                      float* to) const {
    const int row_words = static_cast<int>(args.problem.k / 64);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = first + 32 * i + static_cast<int>(threadIdx.x & 31);
      if (at < chunk.rows * row_words) reinterpret_cast<float4*>(to)[at] = decoded(words[i]);
    }
  }

 private:
  static __device__ __forceinline__ std::uint32_t load_word(const StreamArgs& args,
                                                            const StreamChunk& chunk, int token,
                                                            int column) {
    const GemmProblem& problem = args.problem;
    if (chunk.regular) {
      const auto columns = static_cast<std::uint32_t>(problem.k / 16);
      const std::uint32_t at =
          formats::scale_row_offset<std::uint32_t>(
              problem.a_layout, static_cast<std::uint32_t>(chunk.scale_row + token), columns) +
          formats::scale_column_offset<std::uint32_t>(problem.a_layout,
                                                      static_cast<std::uint32_t>(column));
      return *reinterpret_cast<const std::uint32_t*>(problem.a_scales + at);
    }
    const std::int64_t row = problem.a_scale_row(chunk.first_row + token, chunk.group);
    std::uint32_t word = 0;
#pragma unroll 1
    for (int i = 0; i < 4 && row >= 0; ++i) {
      const std::uint32_t byte =
          problem
              .a_scales[formats::scale_offset(problem.a_layout, row, column + i, problem.k / 16)];
      word |= byte << (8 * i);
    }
    return word;
  }
  static __device__ __forceinline__ float4 decoded(std::uint32_t word) {
    return make_float4(low_half(scale_pair(word & 0xFFu)), low_half(scale_pair(word >> 8 & 0xFFu)),
                       low_half(scale_pair(word >> 16 & 0xFFu)), low_half(scale_pair(word >> 24)));
  }
};

// slice_sums with A's scales, those of eight blocks of each of a lane's two columns.
template <int kShared>
__device__ __forceinline__ float4 slice_sums(const float4 (&sums)[8],
                                             const SharedScales<kShared>& scales,
                                             const float4* a_low, const float4* a_high) {
  constexpr int kLast = SharedScales<kShared>::kSlices - 1;
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 low = a_low[half], high = a_high[half];
    const float x[4] = {low.x, low.y, low.z, low.w}, y[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int block = 4 * half + i;
      std::uint32_t s[2] = {scales.words[0][block / 2], scales.words[kLast][block / 2]};
#pragma unroll
      for (std::uint32_t& word : s) {
        word = (block % 2 != 0 ? __funnelshift_r(word, word, 8) : word) & 0x7F807F80u;
      }
      v.x = __fmaf_rn(sums[block].x, __fmul_rn(low_half(s[0]), x[i]), v.x);
      v.y = __fmaf_rn(sums[block].y, __fmul_rn(low_half(s[1]), y[i]), v.y);
      v.z = __fmaf_rn(sums[block].z, __fmul_rn(high_half(s[0]), x[i]), v.z);
      v.w = __fmaf_rn(sums[block].w, __fmul_rn(high_half(s[1]), y[i]), v.w);
    }
  }
  return v;
}

// The sums of a warp's slices, whose weights lie at `units`.
template <StreamKind kKind, int kShared>
__device__ __forceinline__ void multiply_tokens(const StreamArgs& args, std::uint8_t* smem,
                                                const TokenItem& item, int rows,
                                                std::uint32_t units,
                                                [[maybe_unused]] std::uint32_t arrived,
                                                [[maybe_unused]] std::uint32_t a_scales_ready) {
  const StreamPlan& plan = args.plan;
  const int lane = static_cast<int>(threadIdx.x & 31);
  auto* factors = reinterpret_cast<float*>(smem + plan.factor_offset);
  auto* sums_at = reinterpret_cast<float*>(smem + plan.part_offset);
  const auto* a_scales = reinterpret_cast<const float4*>(smem + plan.scale_offset);
  const std::uint32_t act = smem_address(smem) + plan.act_offset;
  auto* zeros = reinterpret_cast<std::uint32_t*>(smem + plan.header_offset + kStreamZeros);
  const SharedActivations<kShared> a(act, smem_address(zeros), factors, rows);
  constexpr int kUnit = unit_bytes(Format::kNvfp4), kTokens = 8 / kShared;
  const int m = 2 * (lane % 4) % kTokens;
#pragma unroll 1
  for (int group = 0; group < item.count; group += kShared) {
    const int first = item.first + group, there = min(item.count - group, kShared);
    float4 sums[8];
#pragma unroll
    for (float4& of : sums) of = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    SharedScales<kShared> scales;
    const std::uint32_t at =
        a.fragments + group_slice_along_k(plan, first, a.column_slice, there) * 4 * a.pair_bytes;
#pragma unroll 1
    for (int s = 0; s < there; s += 2) {
      std::uint32_t codes[2][8];
#if __CUDA_ARCH__ >= 900
      barrier_wait(arrived, 0);
      arrived += 8;
#endif
      load_codes(units, lane, codes[0]);
      load_codes(units + kUnit, lane, codes[1]);
      scales.load(units, s, a);
      units += 2 * kUnit;
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        const bool own = a.column_slice == s + u;
        add_products(codes[u], own ? at : a.zeros, own ? a.pair_bytes : 0, sums);
      }
    }
    const int slice = a.first_slice, next = kShared == 8 ? slice + 1 : slice;
    const int along[2] = {group_slice_along_k(plan, first, slice, there),
                          group_slice_along_k(plan, first, next, there)};
    float4 v;
    if constexpr (is_quantized(kKind)) {
#if __CUDA_ARCH__ >= 900
      barrier_wait(a_scales_ready, 0);
#endif
      const auto of = [&](int token, int k) {
        return a_scales + (min(token, rows - 1) * plan.slices + k) * 2;
      };
      v = slice_sums<kShared>(sums, scales, of(m, along[0]),
                              of(kShared == 8 ? 0 : m + 1, along[1]));
    } else {
      v = slice_sums<kKind, kShared>(sums, scales, a, along);
    }
    put_slices<kShared>(sums_at, (first + slice) * rows + m, rows, m, slice, there, v);
  }
}

// What the last warp has for the others, which comes late, beside the weights.
template <StreamKind kKind>
struct TokenExtras {
  static constexpr int kAhead = kStreamTokenRows;
  TokenScales<kAhead> a_scales;
  StreamScales scales;

  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk) {
    if (is_quantized(kKind)) a_scales.load(args, chunk, 0);
    scales.load<kKind>(args, chunk, static_cast<int>(threadIdx.x % 32));
  }
  __device__ __forceinline__ void put(const StreamArgs& args, const StreamChunk& chunk,
                                      float* a_scales_to, StreamRow* rows, TokenShare& share) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (is_quantized(kKind)) {
      a_scales.put(args, chunk, 0, a_scales_to);
#pragma unroll 1
      for (int first = 32 * kAhead; first < chunk.rows * args.plan.slices * 2;
           first += 32 * kAhead) {
        a_scales.load(args, chunk, first);
        a_scales.put(args, chunk, first, a_scales_to);
      }
      __syncwarp();
#if __CUDA_ARCH__ >= 900
      if (lane < kArrivals) barrier_arrive(smem_address(&share.scale_barrier));
#endif
    }
    put_rows<kKind>(args, chunk, scales, rows, lane);
    if (lane == 0) share.decode_b = StreamScales::decode(scales.b, args.problem.b_scale.kind);
  }
};

#endif  // __CUDA_ARCH__

template <StreamKind kKind>
__global__ void __launch_bounds__(kStreamThreads, 1)
    token_stream_kernel(const __grid_constant__ StreamArgs args) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::uint8_t smem[];
  const StreamPlan& plan = args.plan;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  constexpr int kLastWarp = kStreamWarps - 1, kUnit = unit_bytes(Format::kNvfp4);
  auto* rows = reinterpret_cast<StreamRow*>(smem + plan.header_offset);
  auto* factors = reinterpret_cast<float*>(smem + plan.factor_offset);
  auto* a_scales = reinterpret_cast<float*>(smem + plan.scale_offset);
  auto& share = *reinterpret_cast<TokenShare*>(smem + plan.chunk_offset);
  const std::uint32_t act = smem_address(smem) + plan.act_offset;
  const std::uint32_t raw = smem_address(smem) + plan.raw_offset;
  const std::uint32_t units = smem_address(smem) + warp * kStreamTokenSlices * kUnit;
  const std::uint32_t bars = smem_address(&share.barriers) + warp * kTokenPairs * 8;
  const std::uint32_t scale_bar = smem_address(&share.scale_barrier);
  const TokenTiles tiles(plan);
  const TokenItem item(plan, tiles.tiles);
#if __CUDA_ARCH__ >= 900
  if (warp != kLastWarp) init_pairs(bars, item.count);
#endif
  if (args.wait) wait_for_kernel_before();

  if (warp == kLastWarp) {
    const TokenSearch<kStreamTokenGroups / 32> search(args);
    copy_all_rows<kKind>(args, raw);
#if __CUDA_ARCH__ >= 900
    if (thread % 32 == 0) barrier_init(scale_bar, kArrivals);
#endif
    search.run(args, tiles.index, share);
  } else {
    copy_all_rows<kKind>(args, raw);
  }
  if (thread < 4) {
    reinterpret_cast<std::uint32_t*>(smem + plan.header_offset + kStreamZeros)[thread] = 0;
  }
  wait_copies<0>();
  __syncthreads();
  const std::uint8_t* weights = share.weights;
  if (weights != nullptr) {
    weights += (static_cast<std::int64_t>(tiles.first) * plan.slices + item.first) * kUnit;
#if __CUDA_ARCH__ >= 900
    // Pair by pair, so that what comes last keeps a warp busy for a short time.
    if (thread % 32 == 0) {
#pragma unroll
      for (int i = 0; i < kTokenPairs; ++i) {
        const int bytes = min(item.count - 2 * i, 2) * kUnit;
        if (bytes <= 0) break;
        bulk_load(units + 2 * i * kUnit, weights + 2 * i * kUnit, bytes, bars + 8 * i);
      }
    }
#else
#pragma unroll 1
    for (int i = 0; i < item.count; ++i) {
      copy_unit<kUnit>(units + i * kUnit, weights + i * kUnit + thread % 32 * 16);
    }
    commit_copies();
#endif
    const StreamChunk chunk = share.chunk;
    TokenExtras<kKind> extras;
    if (warp == kLastWarp) extras.load(args, chunk);
    if (chunk.rows == 1) {
      stage_tokens<kKind, 8>(args, chunk, raw, act, factors);
    } else if (chunk.rows == 2) {
      stage_tokens<kKind, 4>(args, chunk, raw, act, factors);
    } else {
      stage_tokens<kKind, 2>(args, chunk, raw, act, factors);
    }
    __syncthreads();
    if (warp == kLastWarp) extras.put(args, chunk, a_scales, rows, share);
#if __CUDA_ARCH__ < 900
    wait_copies<0>();
    __syncthreads();
#endif
    if (chunk.rows == 1) {
      multiply_tokens<kKind, 8>(args, smem, item, 1, units, bars, scale_bar);
    } else if (chunk.rows == 2) {
      multiply_tokens<kKind, 4>(args, smem, item, 2, units, bars, scale_bar);
    } else {
      multiply_tokens<kKind, 2>(args, smem, item, chunk.rows, units, bars, scale_bar);
    }
    __syncthreads();
    let_kernel_after_start();
    put_sums<kKind>(args, smem, tiles.first, tiles.tiles, chunk, share.decode_b);
  }
  put_rows_outside(args, share.first_row, share.end_row);
#endif
}

}  // namespace halfbyte::ops::cuda
