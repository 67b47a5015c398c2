// How the stream kernel (gemm_cuda_stream.cuh) divides a product of few rows of A: pure numbers.
//
// The tiles of 16 rows of B, times the chunks of rows of A, are one range that the CTAs share
// evenly, or clusters of CTAs, which split K among themselves so that A's fragments fit in shared
// memory. Where there are no clusters, one range of K comes after the other (rounds). A CTA takes a
// group of its tiles at a time. The items of a phase (a group and a round) are the parts of its
// tiles' slices, dealt to the warps in turn: a warp multiplies the slices of a part and adds them
// up in the tree's order; the parts' sums wait in shared memory for the end of the phase. Parts are
// large, as each costs something, but small where warps would be left without one.
#pragma once

#include <cstdint>
#include <vector>

#include "halfbyte/ops/gemm/gemm_device.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops {

inline constexpr int kStreamWarps = 16;
inline constexpr int kStreamThreads = kStreamWarps * 32;
inline constexpr int kStreamMaxTokens = 16;       // rows of A a chunk
inline constexpr int kStreamStages = 2;           // pairs of units in flight a warp
inline constexpr int kStreamMaxGroups = 4096;     // of rows (experts)
inline constexpr int kStreamPartSlices = 8;       // at most
inline constexpr int kStreamLongPartSlices = 16;  // of the short kernel, one slice a product
inline constexpr int kStreamGroupRows = 8;        // a chunk, in the short kernel for groups
inline constexpr int kStreamGroupStages = 2;      // pairs of units in flight a warp, there

// The kernel for a token or two, whose rows are all read by every CTA.
inline constexpr int kStreamTokenRows = 4;      // a chunk
inline constexpr int kStreamTokenGroups = 128;  // at most
inline constexpr int kStreamTokenSlices = 8;    // a warp, at most

// Slices that share the eight columns of a product in the short kernel, which has fewer operations
// for the same sums then: as many as leave a column for each row of A.
HALFBYTE_HD constexpr int stream_shared_slices(Format format, int rows) {
  if (format != Format::kNvfp4 || rows > 4) return 1;
  return rows == 1 ? 8 : rows == 2 ? 4 : 2;
}

// How the slices of a tile are dealt to the warps of a CTA.
struct StreamDeal {
  int parts = 0;
  int part_slices = kStreamPartSlices;  // but for the last part of a tile: a power of two
  int inverse = 0;                      // w / parts = w * inverse >> 16 for w <= kStreamWarps
};

// The slices of a round, or of a CTA of a cluster.
struct StreamShare {
  int slices = 0;
  StreamDeal deal;
  std::uint32_t slices_inverse = 0;  // x / slices is the high half of x * slices_inverse
};

// The last tiles of a CTA of the short kernel, from `first` on: where the parts of the ones before,
// of which all warps have as many, would leave warps idle, smaller ones do not. Its parts are
// whole, so that its items are one range of slices.
struct StreamTail {
  int first = 0;
  int part_shift = 0;  // of parts of 1 << part_shift slices
};

struct StreamPlan {
  int split = 1;        // CTAs of a cluster
  int block_tiles = 0;  // of a cluster; one more in the first `more_tiles`; not with groups
  int more_tiles = 0;
  int chunks = 1;         // 0: the kernel counts them, group by group
  int chunk_rows = 1;     // rows of A at once
  int chunk_inverse = 0;  // x / chunk_rows = x * chunk_inverse >> 16 for x <= 2 * kStreamWarps
  int tiles = 0, slices = 0;
  int group_tiles = 1;
  int rounds = 1, levels = 0;  // levels of the tree above the rounds
  StreamShare full, last;      // full: of all but the last round or CTA of a cluster
  // Bytes; the ring is at 0.
  int header_offset = 0, act_offset = 0, factor_offset = 0, part_offset = 0, pend_offset = 0;
  int chunk_offset = 0;
  int shared_bytes = 0;
  int token_tiles = 1;  // of 8 rows of A: 1 or 2
  int blocks = 0;       // CTAs, clusters times split
  int stages = 0;       // kStreamStages; 0: the kernel does not fit
  int buffers = 1;      // of a phase's sums
  // A short kernel: with groups few rows; without, one phase, A and C of ordinary strides, and
  // clusters' CTAs that have equal shares of K.
  bool simple = false;
  int part_shift = 0;   // of it, before the tail
  StreamTail tails[2];  // of it: where a CTA has block_tiles, and where it has one more
  // Of the one for groups: tiles whose sums have room, of a chunk of one row, two, ..; chunks of
  // all groups.
  int row_tiles[kStreamGroupRows] = {};
  int chunks_most = 0;
  int chunk_blocks = 0;  // CTAs a chunk, of the one for tokens; 0: that for more rows
  int raw_offset = 0, scale_offset = 0;  // of it
};

// nullptr: the stream kernel takes the problem (`stages` may still be 0).
const char* no_stream(const GemmProblem& problem, const GemmDevice& device);

// simple: it may be one of the short kernel. all: every plan that fits, for benchmarks; may be
// nullptr.
StreamPlan plan_stream(const GemmProblem& problem, const GemmDevice& device, bool simple = true,
                       std::vector<StreamPlan>* all = nullptr);

// For few rows (stages == 0: more, or another reason) of a product of gate and up, n = 2I, whose
// tiles come in pairs: block_tiles and more_tiles count pairs.
inline constexpr std::int64_t kGateUpMaxTokens = 8;
StreamPlan plan_gate_up_stream(const GemmProblem& problem, const GemmDevice& device);

}  // namespace halfbyte::ops
