// E2M1: the 4-bit float of NVFP4 and MXFP4. Bit 3 is the sign; codes 0..7 are the magnitudes
// 0, 0.5, 1, 1.5, 2, 3, 4, 6. Two codes a byte, the even column in the low nibble.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/float_bits.h"

namespace halfbyte::formats {

inline constexpr float kE2m1Max = 6.0f;
inline constexpr std::uint8_t kE2m1Nan = 7;  // what a NaN encodes to: there is no NaN code

HALFBYTE_HD constexpr float e2m1_to_float(std::uint8_t code) {
  const std::uint32_t magnitude = code & 7u;
  const std::uint32_t sign = static_cast<std::uint32_t>(code & 8u) << 28;
  if (magnitude < 2) return numerics::bits_float(sign | (magnitude == 0 ? 0u : 0x3F000000u));
  return numerics::bits_float(sign | (((magnitude >> 1) + 126u) << 23) | ((magnitude & 1u) << 22));
}

// Nearest, ties to the even code, saturating at 6; the sign of zero is kept; NaN gives 7.
// Each comparison passes one midpoint: >= where the tie belongs to the code above, > elsewhere. The
// bits of magnitudes order as the magnitudes do.
HALFBYTE_HD constexpr std::uint8_t e2m1_from_float(float x) {
  using numerics::float_bits;
  if (numerics::is_nan(x)) return kE2m1Nan;
  const std::uint32_t a = numerics::abs_bits(x);
  const int magnitude = (a > float_bits(0.25f)) + (a >= float_bits(0.75f)) +
                        (a > float_bits(1.25f)) + (a >= float_bits(1.75f)) +
                        (a > float_bits(2.5f)) + (a >= float_bits(3.5f)) + (a > float_bits(5.0f));
  return static_cast<std::uint8_t>(magnitude | ((float_bits(x) >> 28) & 8u));
}

HALFBYTE_HD constexpr std::uint8_t e2m1_pack(std::uint8_t even_column, std::uint8_t odd_column) {
  return static_cast<std::uint8_t>(even_column | (odd_column << 4));
}
HALFBYTE_HD constexpr std::uint8_t e2m1_unpack(std::uint8_t byte, int column_parity) {
  return static_cast<std::uint8_t>(column_parity == 0 ? byte & 15u : byte >> 4);
}

}  // namespace halfbyte::formats
