// Rows of A as fragments of fp16 tensor-core products in shared memory.
//
//   W4A4, NVFP4    e2m1 * S_a * 2^-8: at most 6 significant bits, exact
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
// Byte i of the result is byte n % 8 of b:a, n the selector's nibble i; from 8 on, that byte's sign
// bit eight times.
__device__ __forceinline__ std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b,
                                                       std::uint32_t selector) {
  std::uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}
// An E4M3 byte as fp16 S * 2^-8, twice: its bits, one exponent narrower.
__device__ __forceinline__ std::uint32_t scale_pair(std::uint32_t byte) {
  constexpr std::uint32_t kNan = 0x7E007E00u;
  if ((byte & 0x7Fu) == formats::kE4m3Nan) return kNan;
  const std::uint32_t half = (byte & 0x80u) << 8 | (byte & 0x7Fu) << 7;
  return half | half << 16;
}
// Eight codes as fp16, two a word. The high byte of an e2m1 value's fp16 has all of it: four are
// looked up at a time, four codes as the selector.
__device__ __forceinline__ void make_values(std::uint32_t codes, std::uint32_t (&values)[4]) {
  constexpr std::uint32_t kLow = 0x3E3C3800u, kHigh = 0x46444240u;  // 0, 0.5, 1, 1.5; 2, 3, 4, 6
  constexpr std::uint32_t kSigns = 0x80808080u;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t four = codes >> (16 * i);
    // Below bit 7, a byte of `signs` is all ones for a negative code, else 0.
    const std::uint32_t signs = permute_bytes(kSigns, kSigns, four);
    const std::uint32_t bytes = permute_bytes(kLow, kHigh, four & 0x7777u) | (signs << 1 & kSigns);
    values[2 * i] = permute_bytes(bytes, 0, 0x1404);
    values[2 * i + 1] = permute_bytes(bytes, 0, 0x3424);
  }
}

// Sixteen columns of a row of A: a block of NVFP4, half a block of MXFP4.
inline constexpr int kPieceColumns = 16, kSlicePieces = kSliceColumns / kPieceColumns;

template <StreamKind kKind>
struct StreamPiece {
  static constexpr int kWords = is_quantized(kKind) ? 2 : 8;
  std::uint32_t words[kWords];
  std::uint32_t scale;  // its byte; 0 and no words: not in A

  __device__ __forceinline__ void clear() {
    scale = 0;
#pragma unroll
    for (std::uint32_t& word : words) word = 0;
  }
  // From where it lies in memory.
  __device__ __forceinline__ void load(const std::uint8_t* from, const std::uint8_t* scale_at) {
    if constexpr (is_quantized(kKind)) {
      const auto v = *reinterpret_cast<const uint2*>(from);
      words[0] = v.x, words[1] = v.y;
      scale = *scale_at;
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto v = reinterpret_cast<const uint4*>(from)[i];
        words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
      }
    }
  }
  // Of any chunk.
  __device__ __forceinline__ void load_any(const StreamArgs& args, const StreamChunk& chunk,
                                           int token, int piece) {
    const GemmProblem& problem = args.problem;
    clear();
    const std::int64_t row = chunk.first_row + token;
    const std::int64_t scale_row = is_quantized(kKind) ? problem.a_scale_row(row, chunk.group) : 0;
    if (piece >= args.pieces || scale_row < 0) return;
    const std::uint8_t* from = is_quantized(kKind) ? problem.a_codes + problem.a_rows.offset(row)
                                                   : static_cast<const std::uint8_t*>(problem.x) +
                                                         2 * problem.x_rows.offset(row);
    from += piece * (kWords * 4);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = load_word(from + 4 * i);
    if constexpr (is_quantized(kKind)) {
      constexpr int kBlock = formats::block_elements(format_of(kKind));
      scale = problem.a_scales[formats::scale_offset(
          problem.a_layout, scale_row, piece / (kBlock / kPieceColumns), problem.k / kBlock)];
    }
  }

  // W4A16: the exponent e of the slice, whose eight pieces lie in the lanes that differ in these
  // bits. All lanes call.
  __device__ __forceinline__ int exponent(bool bf16, const int (&lane_bits)[3]) const {
    if (!bf16) return 0;
    std::uint32_t most = 0;
#pragma unroll
    for (const std::uint32_t word : words) {
      most = max(max(most, word & 0x7FFFu), word >> 16 & 0x7FFFu);
    }
#pragma unroll
    for (const int bit : lane_bits) most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, bit));
    return max(static_cast<int>(most >> 7) - 127 - 14, -112);
  }

  // Two words of fragments for each of four lanes.
  __device__ __forceinline__ void make_fragments(bool bf16, int e, std::uint32_t (&low)[4],
                                                 std::uint32_t (&high)[4]) const {
    if constexpr (is_quantized(kKind)) {
      make_values(words[0], low);
      make_values(words[1], high);
      if constexpr (!is_nvfp4(kKind)) return;
      const std::uint32_t by = scale_pair(scale);
#pragma unroll
      for (int t = 0; t < 4; ++t) low[t] = times(low[t], by), high[t] = times(high[t], by);
    } else {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        low[t] = bf16 ? scaled(words[t], e) : words[t];
        high[t] = bf16 ? scaled(words[4 + t], e) : words[4 + t];
      }
    }
  }
  // Two bf16 values times 2^-e, as fp16.
  __device__ static __forceinline__ std::uint32_t scaled(std::uint32_t word, int e) {
    const float down = __uint_as_float(static_cast<std::uint32_t>(127 - e) << 23);
    std::uint32_t pair;
    const __half2 v = __floats2half2_rn(__fmul_rn(__uint_as_float(word << 16), down),
                                        __fmul_rn(__uint_as_float(word & 0xFFFF0000u), down));
    pair = *reinterpret_cast<const std::uint32_t*>(&v);
    return pair;
  }
};

// Which pieces of a round the lanes of a warp have: kPieces of kTokens rows of A in each of its
// turns, neighbours in lanes that store to different banks. Turn i of the round has groups of rows
// i % kGroups, the warps take them one after the other.
template <StreamKind kKind, int kTiles, int kShared>
struct StreamPlace {
  static constexpr bool kSwizzled = kShared == 1;
  static constexpr int kTokens = kShared > 1 ? 8 / kShared : is_quantized(kKind) ? 8 : 4;
  static constexpr int kPieces = 32 / kTokens;
  static constexpr int kGroups = kShared > 1 ? 1 : kTiles * 8 / kTokens;
  static constexpr int kStep =
      kStreamWarps / kGroups * kPieces;  // from a turn of a warp to its next
  static_assert(kStreamWarps % kGroups == 0 && kSlicePieces == 8);
  int token, piece;

  __device__ __forceinline__ StreamPlace() {
    const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x / 32);
    token = warp % kGroups * kTokens + lane / 2 % kTokens;
    piece = warp / kGroups * kPieces + lane / (2 * kTokens) * 2 + lane % 2;
  }
};

// Fragments of a piece, and its factors; at: its place; to, factors: the start of the round's. All
// lanes call.
template <StreamKind kKind, int kTiles, int kShared>
__device__ __forceinline__ void put_piece(const StreamPiece<kKind>& piece, int token, int index,
                                          bool there, bool bf16, int rows, std::uint32_t to,
                                          float* factors) {
  using Place = StreamPlace<kKind, kTiles, kShared>;
  int e = 0;
  if constexpr (!is_quantized(kKind)) {
    e = piece.exponent(bf16, {1, 2 * Place::kTokens, 4 * Place::kTokens});
  }
  if (!there) return;
  std::uint32_t low[4], high[4];
  piece.make_fragments(bf16, e, low, high);
  to += (index / 2 * rows + token) * kStreamPairBytes + index % 2 * 8;
  if constexpr (Place::kSwizzled) {
    const std::uint32_t first = stream_swizzle(token);
#pragma unroll
    for (std::uint32_t t = 0; t < 4; ++t) store_shared8(to + (first ^ t * 16), low[t], high[t]);
  } else {  // in an order of its own
    const std::uint32_t turn = threadIdx.x >> 2 & 3;
    std::uint32_t a[4], b[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      a[t] = (turn & 1) != 0 ? low[(t + 1) % 4] : low[t];
      b[t] = (turn & 1) != 0 ? high[(t + 1) % 4] : high[t];
    }
#pragma unroll
    for (std::uint32_t t = 0; t < 4; ++t) {
      const bool far = (turn & 2) != 0;
      store_shared8(to + (t + turn) % 4 * 16, far ? a[(t + 2) % 4] : a[t],
                    far ? b[(t + 2) % 4] : b[t]);
    }
  }
  constexpr int kColumns = kTiles * 8;
  if constexpr (!is_quantized(kKind)) {
    constexpr int kBias = is_nvfp4(kKind) ? 127 + 7 : 127;
    if (index % kSlicePieces == 0) {
      factors[index / kSlicePieces * kColumns + token] =
          __uint_as_float(static_cast<std::uint32_t>(e + kBias) << 23);
    }
  } else if constexpr (!is_nvfp4(kKind)) {
    if (index % 2 == 0) {
      factors[index / 2 * kColumns + token] =
          formats::e8m0_to_float(static_cast<std::uint8_t>(piece.scale));
    }
  }
}

// All pieces of a round of any chunk, one after the other.
template <StreamKind kKind, int kTiles>
__device__ __noinline__ void stage_any(const StreamArgs& args, StreamChunk chunk, int first_slice,
                                       const StreamShare& in, std::uint32_t to, float* factors) {
  using Place = StreamPlace<kKind, kTiles, 1>;
  const bool bf16 = args.problem.x_dtype == base::DType::kBF16;
  const int pieces = in.slices * kSlicePieces;
  const Place place;
#pragma unroll 1
  for (int index = place.piece; index - place.piece % Place::kPieces < pieces;
       index += Place::kStep) {
    const bool there = index < pieces && place.token < chunk.rows;
    StreamPiece<kKind> piece;
    piece.clear();
    if (there) piece.load_any(args, chunk, place.token, first_slice * kSlicePieces + index);
    put_piece<kKind, kTiles, 1>(piece, place.token, index, there, bf16, chunk.rows, to, factors);
  }
}

// Where 16 bytes of a copied row lie: rows start in the same bank.
__device__ __forceinline__ int copied_chunk(int token, int chunk) { return chunk ^ (token & 7); }

// A of the short kernel, W4A4, where threads hold less than all of it: the columns of a round as
// they lie in memory, to where the second stage of weights comes later (args.copies), all asked for
// at once. One group of copies.
__device__ __forceinline__ void copy_rows(const StreamArgs& args, int first_slice,
                                          const StreamShare& in, std::uint32_t codes,
                                          std::uint32_t scales) {
  const GemmProblem& problem = args.problem;
  const int rows = args.plan.chunk_rows, thread = static_cast<int>(threadIdx.x);
  const int block = formats::block_elements(problem.format);
  const int first = first_slice * kSliceColumns, columns = in.slices * kSliceColumns;
  const int scale_bytes = columns / block;
  const std::int64_t all_scales = problem.k / block;
#pragma unroll 1
  for (int token = 0; token < rows; ++token) {
    const std::uint8_t* from = problem.a_codes + token * args.row_bytes + first / 2;
    for (int i = thread; i < columns / 32; i += kStreamThreads) {
      copy_async16(codes + token * (columns / 2) + copied_chunk(token, i) * 16, from + i * 16);
    }
    const int i = (kStreamThreads - 1 - thread) * 16;  // those that have no codes come first
    if (i < scale_bytes) {
      copy_async16(scales + token * scale_bytes + i,
                   problem.a_scales + token * all_scales + first / block + i);
    }
  }
  commit_copies();
}
// From there to fragments.
template <StreamKind kKind, int kTiles, int kShared>
__device__ __forceinline__ void stage_copied(const StreamArgs& args, const StreamShare& in,
                                             std::uint32_t codes, std::uint32_t scales,
                                             std::uint32_t to, float* factors) {
  using Place = StreamPlace<kKind, kTiles, kShared>;
  constexpr int kScalePieces = formats::block_elements(format_of(kKind)) / kPieceColumns;
  const int rows = args.plan.chunk_rows, pieces = in.slices * kSlicePieces;
  const Place place;
  const int token = place.token;
  if (token >= rows) return;
  codes += static_cast<std::uint32_t>(token * pieces * 8);
  scales += static_cast<std::uint32_t>(token * (pieces / kScalePieces));
#pragma unroll 2
  for (int index = place.piece; index < pieces; index += Place::kStep) {
    StreamPiece<kKind> piece;
    const uint2 v = load_shared8(codes + copied_chunk(token, index / 2) * 16 + index % 2 * 8);
    piece.words[0] = v.x, piece.words[1] = v.y;
    piece.scale = load_shared1(scales + index / kScalePieces);
    put_piece<kKind, kTiles, kShared>(piece, token, index, true, false, rows, to, factors);
  }
}

// The pieces of a round of a regular chunk, kAhead of each thread at a time. kLinear: the layout
// of A's scales is known.
template <StreamKind kKind, int kTiles, int kShared, bool kLinear>
struct StreamStage {
  using Place = StreamPlace<kKind, kTiles, kShared>;
  static constexpr int kAhead = is_quantized(kKind) ? kStreamPiecesAhead : 2;
  StreamPiece<kKind> pieces[kAhead];

  // From piece `index` of the round on, this thread's.
  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk,
                                       int first_slice, const StreamShare& in, int token,
                                       int index) {
    const GemmProblem& problem = args.problem;
    constexpr int kBytes = StreamPiece<kKind>::kWords * 4;
    const int first = first_slice * kSlicePieces;
    const int end = token < chunk.rows ? min(in.slices * kSlicePieces, args.pieces - first) : 0;
    const std::uint8_t* data =
        is_quantized(kKind) ? problem.a_codes : static_cast<const std::uint8_t*>(problem.x);
    data += (chunk.first_row + token) * args.row_bytes + std::int64_t{first + index} * kBytes;
    const auto row = static_cast<std::uint32_t>(chunk.scale_row + token);
    constexpr std::uint32_t kScalePieces =
        is_quantized(kKind) ? formats::block_elements(format_of(kKind)) / kPieceColumns : 1;
    const std::uint32_t columns = static_cast<std::uint32_t>(args.pieces) / kScalePieces;
    const ScaleLayout layout = kLinear ? ScaleLayout::kLinear : problem.a_layout;
    const std::uint8_t* scales =
        problem.a_scales + formats::scale_row_offset<std::uint32_t>(layout, row, columns);
#pragma unroll
    for (int x = 0; x < kAhead; ++x) {
      pieces[x].clear();
      if (index + x * Place::kStep >= end) continue;
      const std::uint32_t column =
          static_cast<std::uint32_t>(first + index + x * Place::kStep) / kScalePieces;
      pieces[x].load(data + x * (Place::kStep * kBytes),
                     scales + formats::scale_column_offset<std::uint32_t>(layout, column));
    }
  }
  __device__ __forceinline__ void load_first(const StreamArgs& args, const StreamChunk& chunk,
                                             int first_slice, const StreamShare& in) {
    const Place place;
    load(args, chunk, first_slice, in, place.token, place.piece);
  }
  // All of a round; loaded: load_first was called.
  __device__ __forceinline__ void run(const StreamArgs& args, const StreamChunk& chunk,
                                      int first_slice, const StreamShare& in, bool loaded,
                                      std::uint32_t to, float* factors) {
    const bool bf16 = args.problem.x_dtype == base::DType::kBF16;
    const int count = in.slices * kSlicePieces;
    const Place place;
    const int token = place.token, in_turn = place.piece % Place::kPieces;
#pragma unroll 1
    for (int index = place.piece; index - in_turn < count; index += kAhead * Place::kStep) {
      if (index != place.piece || !loaded) load(args, chunk, first_slice, in, token, index);
#pragma unroll
      for (int x = 0; x < kAhead; ++x) {
        const int at = index + x * Place::kStep;
        if (at - in_turn >= count) break;
        put_piece<kKind, kTiles, kShared>(pieces[x], token, at, at < count && token < chunk.rows,
                                          bf16, chunk.rows, to, factors);
      }
    }
  }
};

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
