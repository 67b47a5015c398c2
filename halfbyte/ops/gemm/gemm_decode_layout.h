// Shared memory of the decode kernel: what gemm_plan.cpp adds up and gemm_cuda_decode.cuh uses.
#pragma once

#include "halfbyte/ops/gemm/gemm_plan.h"

namespace halfbyte::ops {

// Barriers of a team: of a stage of weights, when it is there and when it is free again; of a slot
// of partial sums, when they are there and when they are added up.
inline constexpr int kDecodeMaxStages = 4, kDecodeMaxSlots = 4;
inline constexpr int kDecodeFullBarriers = 0, kDecodeFreeBarriers = kDecodeMaxStages;
inline constexpr int kDecodeSumBarriers = kDecodeFreeBarriers + kDecodeMaxStages;
inline constexpr int kDecodeAddedBarriers = kDecodeSumBarriers + kDecodeMaxSlots;
inline constexpr int kDecodeTeamBarriers = kDecodeAddedBarriers + kDecodeMaxSlots;
inline constexpr int kDecodeMaxTeams = 2;
inline constexpr int kDecodeBarrierBytes = kDecodeMaxTeams * kDecodeTeamBarriers * 8;
inline constexpr int kDecodeCursorBytes = 16 * kDecodeMaxTeams;

// Of a row of A: its offset in C, its decode scale.
inline constexpr int kDecodeRowBytes = 12;

// Floats from one row of A's 16 values to the next in a warp's partial sum: no bank conflicts.
inline constexpr int kDecodeTokenStride = 20;
// Bytes of one row of A's slice: 64 of codes, 8 of scales, 8 to spread the banks.
inline constexpr int kDecodeRawRow = 80;

HALFBYTE_HD constexpr int decode_slots(const DecodeShape& shape) {
  return shape.token_tiles >= 4 ? 2 : 4;
}
HALFBYTE_HD constexpr int decode_part_floats(const DecodeShape& shape) {
  return shape.one_token ? kTileRows : shape.tokens() * kDecodeTokenStride;
}
HALFBYTE_HD constexpr int decode_pend_floats(const DecodeShape& shape) {
  return shape.tokens() * kTileRows;
}
HALFBYTE_HD constexpr int decode_raw_bytes(const DecodeShape& shape) {  // of a warp
  return shape.token_tiles * shape.groups * 8 * kDecodeRawRow;
}

}  // namespace halfbyte::ops
