// Shared memory of the stream kernel: what gemm_stream_plan.cpp adds up and gemm_cuda_stream.cuh
// uses.
#pragma once

#include "halfbyte/ops/gemm/gemm_stream_plan.h"
#include "halfbyte/ops/gemm/gemm_weights_math.h"

namespace halfbyte::ops {

// StreamRow, of two phases.
inline constexpr int kStreamRowBytes = 16;
inline constexpr int kStreamHeaderBytes = 2 * kStreamMaxTokens * kStreamRowBytes;

// StreamChunk; GroupShare before its chunks.
inline constexpr int kStreamChunkBytes = 20;
inline constexpr int kStreamShareBytes = kStreamWarps * (kStreamGroupStages * 8 + 4) + 16;

// TokenShare.
inline constexpr int kStreamTokenShareBytes = 640;

// A StreamRow's place that no chunk of so few rows needs holds zeros, where slices share columns.
inline constexpr int kStreamZeros = kStreamHeaderBytes - kStreamRowBytes;

// Pieces of A (sixteen columns) that a thread holds at once, W4A4.
inline constexpr int kStreamPiecesAhead = 4;

// Floats from one row of A's 16 sums to the next. Stores of a part's sums conflict, which are few.
inline constexpr int kStreamTokenStride = 16;

// The same of a slice's sums in the short kernels for groups: no bank conflicts.
inline constexpr int kStreamGroupStride = 20;

// Bytes of a row of A's slice as fragments: fp16.
inline constexpr int kStreamSliceBytes = kSliceColumns * 2;
// Bytes of one pair of blocks of it: what four lanes read, 16 bytes each. Where slices do not share
// columns, lane t of them reads at 16 t ^ stream_swizzle(row of A): stores then meet all banks.
inline constexpr int kStreamPairBytes = 64;
HALFBYTE_HD constexpr std::uint32_t stream_swizzle(int row) {
  return static_cast<std::uint32_t>(row >> 1 & 3) * 16;
}

// Factors of a slice beside its fragments, each fp32 for token_tiles * 8 rows of A: W4A4 in MXFP4
// the blocks' scales, W4A16 one power of two.
HALFBYTE_HD constexpr int stream_factors(Format format, bool quantized) {
  if (!quantized) return 1;
  return format == Format::kMxfp4 ? slice_blocks(Format::kMxfp4) : 0;
}

}  // namespace halfbyte::ops
