// fp32 as bits, on host and device.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"

namespace halfbyte::numerics {

HALFBYTE_HD constexpr std::uint32_t float_bits(float x) {
  return __builtin_bit_cast(std::uint32_t, x);
}
HALFBYTE_HD constexpr float bits_float(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

// The bits of |x|. They order as the magnitudes do, with every NaN above Inf: an unsigned maximum
// over them is an amax that propagates NaN.
HALFBYTE_HD constexpr std::uint32_t abs_bits(float x) { return float_bits(x) & 0x7FFFFFFFu; }

inline constexpr std::uint32_t kInfBits = 0x7F800000u;
inline constexpr float kFloatMax = 0x1.fffffep127f;

// Questions about a value are asked of its bits. A floating comparison tells the compiler a range
// of the operands, and GCC 13's ranges flush subnormals: from 2688 / a > FLT_MAX it concluded that
// a / 2688 is 0 and folded it (found by tests/golden_consumer, g++ 13.3 -O2).
HALFBYTE_HD constexpr bool is_nan(float x) { return abs_bits(x) > kInfBits; }
HALFBYTE_HD constexpr bool is_zero(float x) { return abs_bits(x) == 0; }

// min(x, FLT_MAX), NaN propagates: what the contract writes as min( .., FLT_MAX ). Only +Inf is
// larger than FLT_MAX.
HALFBYTE_HD constexpr float clamp_to_max(float x) {
  return float_bits(x) == kInfBits ? kFloatMax : x;
}

}  // namespace halfbyte::numerics
