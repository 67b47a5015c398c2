// Rows of A as fragments of fp16 tensor-core products in shared memory.
//
//   W4A4, NVFP4    e2m1 * S_a * 2^-7: at most 6 significant bits, exact
//   W4A4, MXFP4    e2m1; the scales stay apart, as they may be any power of two
//   W4A16, fp16    x
//   W4A16, bf16    x * 2^-e, one e a slice, so that the largest lies from 2^14 on: exact but for
//                  what is below 2^-32 of the slice's largest
#pragma once

#include <cuda_fp16.h>

#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_cuda_stream_parts.cuh"
#include "halfbyte/ops/gemm/gemm_stream_args.h"

namespace halfbyte::ops::cuda {

// Rows first_row .. first_row + rows of A, of one group; their scales are those of rows scale_row
// on. regular: all there and evenly spaced, so that the short way of reading them is right.
struct StreamChunk {
  int first_row, rows, group, scale_row;
  bool regular;
};

#if __CUDA_ARCH__ >= 800

__device__ __forceinline__ std::uint32_t times(std::uint32_t a, std::uint32_t b) {
  std::uint32_t r;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
// An E4M3 byte as fp16 S * 128, twice.
__device__ __forceinline__ std::uint32_t scale_pair(std::uint32_t byte) {
  constexpr std::uint32_t kTwoTo15 = 0x78007800u, kNan = 0x7E007E00u;
  if ((byte & 0x7Fu) == formats::kE4m3Nan) return kNan;
  const std::uint32_t half = (byte & 0x80u) << 8 | (byte & 0x7Fu) << 7;
  return times(half | half << 16, kTwoTo15);
}

// Eight columns of a row of A, half a block of 16.
template <StreamKind kKind>
struct StreamPiece {
  static constexpr int kWords = is_quantized(kKind) ? 1 : 4;
  std::uint32_t words[kWords];
  std::uint32_t scale;  // its byte; 0 and no words: not in A

  __device__ __forceinline__ void clear() {
    scale = 0;
#pragma unroll
    for (std::uint32_t& word : words) word = 0;
  }
  // Of a regular chunk; kLinear: its scales' layout is known.
  template <bool kLinear>
  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk, int token,
                                       int half) {
    const GemmProblem& problem = args.problem;
    clear();
    if (half >= args.halves) return;
    const std::int64_t at =
        (chunk.first_row + token) * args.row_bytes + half * std::int64_t{kWords * 4};
    if constexpr (is_quantized(kKind)) {
      words[0] = *reinterpret_cast<const std::uint32_t*>(problem.a_codes + at);
      constexpr std::uint32_t kHalves = formats::block_elements(format_of(kKind)) / 8;
      const auto row = static_cast<std::uint32_t>(chunk.scale_row + token);
      const std::uint32_t column = static_cast<std::uint32_t>(half) / kHalves;
      const std::uint32_t columns = static_cast<std::uint32_t>(args.halves) / kHalves;
      const ScaleLayout layout = kLinear ? ScaleLayout::kLinear : problem.a_layout;
      scale = problem.a_scales[formats::scale_row_offset<std::uint32_t>(layout, row, columns) +
                               formats::scale_column_offset<std::uint32_t>(layout, column)];
    } else {
      const auto v =
          *reinterpret_cast<const uint4*>(static_cast<const std::uint8_t*>(problem.x) + at);
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    }
  }
  // Of any chunk.
  __device__ __forceinline__ void load_any(const StreamArgs& args, const StreamChunk& chunk,
                                           int token, int half) {
    const GemmProblem& problem = args.problem;
    clear();
    const std::int64_t row = chunk.first_row + token;
    const std::int64_t scale_row = is_quantized(kKind) ? problem.a_scale_row(row, chunk.group) : 0;
    if (half >= args.halves || scale_row < 0) return;
    const std::uint8_t* from = is_quantized(kKind) ? problem.a_codes + problem.a_rows.offset(row)
                                                   : static_cast<const std::uint8_t*>(problem.x) +
                                                         2 * problem.x_rows.offset(row);
    from += half * (kWords * 4);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = load_word(from + 4 * i);
    if constexpr (is_quantized(kKind)) {
      constexpr int kBlock = formats::block_elements(format_of(kKind));
      scale = problem.a_scales[formats::scale_offset(problem.a_layout, scale_row,
                                                     half / (kBlock / 8), problem.k / kBlock)];
    }
  }

  // Of the rows of A as they lie in memory, copied to `codes` and `scales`.
  __device__ __forceinline__ void load_copied(const StreamArgs& args, std::uint32_t codes,
                                              std::uint32_t scales, int token, int half) {
    clear();
    if (half >= args.halves) return;
    constexpr int kHalves = formats::block_elements(format_of(kKind)) / 8;
    words[0] = load_shared4(codes + (token * args.halves + half) * 4);
    scale = load_shared1(scales + token * (args.halves / kHalves) + half / kHalves);
  }

  // W4A16: the exponent e of the slice; sixteen lanes in a row hold it. All lanes call.
  __device__ __forceinline__ int exponent(bool bf16) const {
    if (!bf16) return 0;
    std::uint32_t most = 0;
#pragma unroll
    for (const std::uint32_t word : words) {
      most = max(max(most, word & 0x7FFFu), word >> 16 & 0x7FFFu);
    }
#pragma unroll
    for (int step = 1; step < 16; step *= 2) {
      most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, step));
    }
    return max(static_cast<int>(most >> 7) - 127 - 14, -112);
  }

  // Fragments at `to`: 4 words, 16 bytes apart, in an order that leaves no two lanes of eight to
  // one bank.
  __device__ __forceinline__ void store(std::uint32_t to, bool bf16, int e) const {
    constexpr std::uint32_t kTwoTo14 = 0x74007400u;
    std::uint32_t by = kTwoTo14;
    if constexpr (is_nvfp4(kKind) && is_quantized(kKind)) by = scale_pair(scale);
    std::uint32_t pairs[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      std::uint32_t& pair = pairs[t];
      if constexpr (is_quantized(kKind)) {  // codes of columns 2t, 2t + 1 as fp16 of e2m1 * 2^-14
        const std::uint32_t b = words[0] >> (8 * t);
        pair =
            times((b & 0x8u) << 12 | (b & 0x7u) << 9 | (b & 0x80u) << 24 | (b & 0x70u) << 21, by);
      } else if (bf16) {
        const float down = __uint_as_float(static_cast<std::uint32_t>(127 - e) << 23);
        const __half2 v =
            __floats2half2_rn(__fmul_rn(__uint_as_float(words[t] << 16), down),
                              __fmul_rn(__uint_as_float(words[t] & 0xFFFF0000u), down));
        pair = *reinterpret_cast<const std::uint32_t*>(&v);
      } else {
        pair = words[t];
      }
    }
    const std::uint32_t turn = (threadIdx.x & 31) / 8;
    std::uint32_t turned[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) turned[t] = (turn & 1) != 0 ? pairs[(t + 1) % 4] : pairs[t];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const std::uint32_t pair = (turn & 2) != 0 ? turned[(t + 2) % 4] : turned[t];
      store_shared4(to + (t + turn) % 4 * 16, pair);
    }
  }
};

inline constexpr int kSliceHalves = kSliceColumns / 8;

// Where a piece of a round goes.
struct StreamPlace {
  int token, slice, half;

  __device__ __forceinline__ StreamPlace(int index, const StreamShare& in, int rows)
      : token(0), slice(index / kSliceHalves), half(index % kSliceHalves) {
    if (rows == 1 || in.slices == 1) {
      if (in.slices == 1) token = slice, slice = 0;
      if (slice >= in.slices) token = 1;
    } else {
      token = static_cast<int>(__umulhi(static_cast<std::uint32_t>(slice), in.slices_inverse));
      slice -= token * in.slices;
    }
  }
};

// A piece's fragments and factors; to, factors: the start of the round's. All threads call.
template <StreamKind kKind, int kTiles>
__device__ __forceinline__ void put_piece(const StreamPiece<kKind>& piece, const StreamPlace& at,
                                          bool bf16, int rows, std::uint32_t to, float* factors) {
  int e = 0;
  if constexpr (!is_quantized(kKind)) e = piece.exponent(bf16);
  if (at.token >= rows) return;
  const int pair = (at.slice * 4 + at.half / 4) * rows + at.token;
  piece.store(to + pair * kStreamPairBytes + at.half % 4 * 4, bf16, e);
  constexpr int kTokens = kTiles * 8;
  if constexpr (!is_quantized(kKind)) {
    constexpr int kBias = is_nvfp4(kKind) ? 127 + 7 : 127;
    if (at.half == 0) {
      factors[at.slice * kTokens + at.token] =
          __uint_as_float(static_cast<std::uint32_t>(e + kBias) << 23);
    }
  } else if constexpr (!is_nvfp4(kKind)) {
    if (at.half % 4 == 0) {
      factors[(at.slice * 4 + at.half / 4) * kTokens + at.token] =
          formats::e8m0_to_float(static_cast<std::uint8_t>(piece.scale));
    }
  }
}

// All pieces of a round of any chunk, one after the other.
template <StreamKind kKind, int kTiles>
__device__ __noinline__ void stage_any(const StreamArgs& args, StreamChunk chunk, int first_slice,
                                       const StreamShare& in, std::uint32_t to, float* factors) {
  const bool bf16 = args.problem.x_dtype == base::DType::kBF16;
#pragma unroll 1
  for (int first = 0; first < chunk.rows * in.slices * kSliceHalves; first += kStreamThreads) {
    const StreamPlace at(first + static_cast<int>(threadIdx.x), in, chunk.rows);
    StreamPiece<kKind> piece;
    piece.clear();
    if (at.token < chunk.rows) {
      piece.load_any(args, chunk, at.token, (first_slice + at.slice) * kSliceHalves + at.half);
    }
    put_piece<kKind, kTiles>(piece, at, bf16, chunk.rows, to, factors);
  }
}

// A of the short kernel, W4A4, where threads hold less than all of it: as it lies in memory to
// where the second stage of weights comes later (args.copies), all asked for at once. One group of
// copies.
__device__ __forceinline__ void copy_rows(const StreamArgs& args, std::uint32_t codes,
                                          std::uint32_t scales) {
  const GemmProblem& problem = args.problem;
  const int rows = args.plan.chunk_rows, thread = static_cast<int>(threadIdx.x);
  const auto columns = static_cast<int>(problem.k);
  const int scale_bytes = columns / formats::block_elements(problem.format);
#pragma unroll 1
  for (int token = 0; token < rows; ++token) {
    const std::uint8_t* from = problem.a_codes + token * args.row_bytes;
    for (int i = thread * 16; i < columns / 2; i += kStreamThreads * 16) {
      copy_async16(codes + token * (columns / 2) + i, from + i);
    }
  }
  for (int i = thread * 16; i < rows * scale_bytes; i += kStreamThreads * 16) {
    copy_async16(scales + i, problem.a_scales + i);
  }
  commit_copies();
}
// From there to fragments.
template <StreamKind kKind, int kTiles>
__device__ __forceinline__ void stage_copied(const StreamArgs& args, const StreamShare& in,
                                             std::uint32_t codes, std::uint32_t scales,
                                             std::uint32_t to, float* factors) {
  const int rows = args.plan.chunk_rows, count = rows * in.slices * kSliceHalves;
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kStreamThreads) {
    const StreamPlace at(i, in, rows);
    StreamPiece<kKind> piece;
    piece.load_copied(args, codes, scales, at.token, at.slice * kSliceHalves + at.half);
    put_piece<kKind, kTiles>(piece, at, false, rows, to, factors);
  }
}

// The pieces of a round of a regular chunk, kAhead of each thread at a time.
template <StreamKind kKind, int kTiles, bool kLinear>
struct StreamStage {
  static constexpr int kAhead = is_quantized(kKind) ? kStreamPiecesAhead : 2;
  StreamPiece<kKind> pieces[kAhead];

  // From piece `first` of this thread on.
  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk,
                                       int first_slice, const StreamShare& in, int first) {
#pragma unroll
    for (int x = 0; x < kAhead; ++x) {
      const StreamPlace at(first + x * kStreamThreads, in, chunk.rows);
      if (at.token < chunk.rows) {
        pieces[x].template load<kLinear>(args, chunk, at.token,
                                         (first_slice + at.slice) * kSliceHalves + at.half);
      }
    }
  }
  // All of a round; loaded: the first pieces are.
  __device__ __forceinline__ void run(const StreamArgs& args, const StreamChunk& chunk,
                                      int first_slice, const StreamShare& in, bool loaded,
                                      std::uint32_t to, float* factors) {
    const bool bf16 = args.problem.x_dtype == base::DType::kBF16;
    const int thread = static_cast<int>(threadIdx.x);
    const int count = chunk.rows * in.slices * kSliceHalves;
#pragma unroll 1
    for (int first = 0; first < count; first += kAhead * kStreamThreads) {
      if (first != 0 || !loaded) load(args, chunk, first_slice, in, first + thread);
#pragma unroll
      for (int x = 0; x < kAhead; ++x) {
        const StreamPlace at(first + thread + x * kStreamThreads, in, chunk.rows);
        if (is_quantized(kKind) && at.token >= chunk.rows) break;
        put_piece<kKind, kTiles>(pieces[x], at, bf16, chunk.rows, to, factors);
      }
    }
  }
};

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
