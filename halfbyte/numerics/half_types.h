// fp16 and bf16 as storage types, with conversions that round to nearest even on host and device.
// One portable codec each; hardware conversions are used only where a test proves them equal.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/numerics/float_bits.h"

namespace halfbyte::numerics {

struct Bf16 {
  std::uint16_t bits;
};
struct Fp16 {
  std::uint16_t bits;
};

HALFBYTE_HD constexpr float to_float(Bf16 x) {
  return bits_float(static_cast<std::uint32_t>(x.bits) << 16);
}

HALFBYTE_HD constexpr float to_float(Fp16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = x.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return bits_float(sign | kInfBits | ((magnitude & 0x3FFu) << 13));
  if (magnitude >= 0x0400u) return bits_float(sign | ((magnitude << 13) + (112u << 23)));
  // Subnormal: magnitude * 2^-24, exact in fp32.
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return bits_float(sign | float_bits(value));
}

HALFBYTE_HD constexpr float to_float(float x) { return x; }

HALFBYTE_HD constexpr Bf16 bf16_from_float(float x) {
  const std::uint32_t bits = float_bits(x);
  if ((bits & 0x7FFFFFFFu) > kInfBits) return {0x7FFFu};
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

HALFBYTE_HD constexpr Fp16 fp16_from_float(float x) {
  const std::uint32_t bits = float_bits(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  std::uint32_t rounded = 0;
  if (magnitude > kInfBits) {
    rounded = 0x7FFFu;
  } else if (magnitude >= 0x47800000u) {  // 2^16 and above overflow
    rounded = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14: normal; a carry past 65504 reaches Inf by itself
    rounded = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  } else if (magnitude >= 0x33000000u) {  // 2^-25: subnormal, in units of 2^-24
    const std::uint32_t significand = (magnitude & 0x7FFFFFu) | 0x800000u;
    const std::uint32_t shift = 126u - (magnitude >> 23);
    const std::uint32_t quotient = significand >> shift;
    const std::uint32_t remainder = significand & ((1u << shift) - 1u);
    const std::uint32_t half = 1u << (shift - 1u);
    rounded =
        quotient + ((remainder > half || (remainder == half && (quotient & 1u) != 0)) ? 1u : 0u);
  }
  return {static_cast<std::uint16_t>(sign | rounded)};
}

// T(x): rounds fp32 to the storage type.
template <class T>
HALFBYTE_HD constexpr T round_to(float x);
template <>
HALFBYTE_HD constexpr float round_to<float>(float x) {
  return x;
}
template <>
HALFBYTE_HD constexpr Bf16 round_to<Bf16>(float x) {
  return bf16_from_float(x);
}
template <>
HALFBYTE_HD constexpr Fp16 round_to<Fp16>(float x) {
  return fp16_from_float(x);
}

}  // namespace halfbyte::numerics
