// E4M3 (the "fn" variant): 8-bit float without infinity, largest 448, NaN 0x7F (and 0xFF).
#pragma once

#include <cstdint>

#include "halfbyte/numerics/float_bits.h"

namespace halfbyte::formats {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr std::uint8_t kE4m3MaxCode = 0x7E;
inline constexpr std::uint8_t kE4m3Nan = 0x7F;

HALFBYTE_HD constexpr float e4m3_to_float(std::uint8_t code) {
  const std::uint32_t magnitude = code & 0x7Fu;
  const std::uint32_t sign = static_cast<std::uint32_t>(code & 0x80u) << 24;
  if (magnitude == kE4m3Nan) return numerics::bits_float(sign | 0x7FC00000u);
  if (magnitude >= 8) return numerics::bits_float(sign | ((magnitude << 20) + (120u << 23)));
  const float value = static_cast<float>(magnitude) * 0x1p-9f;  // subnormal, exact
  return numerics::bits_float(sign | numerics::float_bits(value));
}

// Nearest even, saturating at +-448 (infinities too), NaN 0x7F; the sign of zero is kept.
HALFBYTE_HD constexpr std::uint8_t e4m3_from_float(float x) {
  const std::uint32_t a = numerics::abs_bits(x);
  if (a > numerics::kInfBits) return kE4m3Nan;
  const std::uint32_t sign = (numerics::float_bits(x) >> 24) & 0x80u;
  std::uint32_t code = 0;
  if (a >= 0x3C800000u) {  // 2^-6: normal; drop 20 bits of significand, move the exponent's bias
    code = ((a + 0x7FFFFu + ((a >> 20) & 1u)) >> 20) - (120u << 3);
    if (code > kE4m3MaxCode) code = kE4m3MaxCode;
  } else if (a >= 0x3A800000u) {  // 2^-10: subnormal, in units of 2^-9; below it is zero
    const std::uint32_t significand = (a & 0x7FFFFFu) | 0x800000u;
    const std::uint32_t shift = 141u - (a >> 23);
    const std::uint32_t quotient = significand >> shift;
    const std::uint32_t remainder = significand & ((1u << shift) - 1u);
    const std::uint32_t half = 1u << (shift - 1u);
    code = quotient + ((remainder > half || (remainder == half && (quotient & 1u) != 0)) ? 1u : 0u);
  }
  return static_cast<std::uint8_t>(sign | code);
}

}  // namespace halfbyte::formats
