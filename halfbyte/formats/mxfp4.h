// MXFP4: blocks of 32 E2M1 codes, one UE8M0 scale a block, nothing above it (docs/numerics.md).
#pragma once

#include <cstdint>

#include "halfbyte/formats/e2m1.h"
#include "halfbyte/formats/e8m0.h"
#include "halfbyte/formats/format.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::formats {

inline constexpr int kMxfp4Block = 32;

// The UE8M0 code of a block whose amax (NaN if any element is) is given; 0 for a zero block.
HALFBYTE_HD std::uint8_t mxfp4_block_scale(float amax, MxRule rule) {
  return rule == MxRule::kRoundUp ? e8m0_round_up(numerics::mul_rn(amax, kOneSixth))
                                  : e8m0_ocp_floor(amax);
}

// 2^-e, exact: what x is multiplied by before E2M1. NaN for a NaN block, whose codes are then 7.
HALFBYTE_HD float mxfp4_reciprocal(std::uint8_t block_scale) {
  return e8m0_reciprocal(block_scale);
}

HALFBYTE_HD std::uint8_t mxfp4_encode(float x, float reciprocal) {
  return e2m1_from_float(numerics::mul_rn(x, reciprocal));
}

// e2m1 * 2^e; beyond FLT_MAX it is Inf.
HALFBYTE_HD float mxfp4_decode(std::uint8_t code, std::uint8_t block_scale) {
  return numerics::mul_rn(e2m1_to_float(code), e8m0_to_float(block_scale));
}

}  // namespace halfbyte::formats
