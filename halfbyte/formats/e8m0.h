// UE8M0: an unsigned power of two, 2^(b - 127), b = 0..254; 0xFF is NaN. Encoding takes the
// magnitude of its input, so a sign is ignored.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/float_bits.h"

namespace halfbyte::formats {

inline constexpr std::uint8_t kE8m0Nan = 0xFF;
inline constexpr std::uint8_t kE8m0Max = 254;

HALFBYTE_HD constexpr float e8m0_to_float(std::uint8_t code) {
  if (code == kE8m0Nan) return numerics::bits_float(0x7FC00000u);
  if (code == 0) return numerics::bits_float(0x00400000u);  // 2^-127 is subnormal
  return numerics::bits_float(static_cast<std::uint32_t>(code) << 23);
}

// 1 / e8m0_to_float(code), exact. NaN for NaN.
HALFBYTE_HD constexpr float e8m0_reciprocal(std::uint8_t code) {
  return e8m0_to_float(code == kE8m0Nan ? kE8m0Nan : static_cast<std::uint8_t>(254 - code));
}

// The smallest power of two >= |x|, clamped to 2^-127 .. 2^127 (CUDA's cudaRoundPosInf).
HALFBYTE_HD constexpr std::uint8_t e8m0_round_up(float x) {
  const std::uint32_t a = numerics::abs_bits(x);
  if (a > numerics::kInfBits) return kE8m0Nan;
  if (a <= 0x00400000u) return 0;                    // up to 2^-127
  const std::uint32_t code = (a + 0x7FFFFFu) >> 23;  // a subnormal above it gives 2^-126
  return static_cast<std::uint8_t>(code > kE8m0Max ? kE8m0Max : code);
}

// The largest power of two <= |x|, clamped to 2^-127 .. 2^127 (cudaRoundZero).
HALFBYTE_HD constexpr std::uint8_t e8m0_round_down(float x) {
  const std::uint32_t a = numerics::abs_bits(x);
  if (a > numerics::kInfBits) return kE8m0Nan;
  const std::uint32_t code = a >> 23;
  return static_cast<std::uint8_t>(code > kE8m0Max ? kE8m0Max : code);
}

// OCP MX: floor(log2 |x|) - 2 as the exponent (2 is the exponent of E2M1's largest power of two),
// clamped to 2^-127 .. 2^127. Zero gives the smallest, Inf the largest.
HALFBYTE_HD constexpr std::uint8_t e8m0_ocp_floor(float x) {
  const std::uint32_t a = numerics::abs_bits(x);
  if (a > numerics::kInfBits) return kE8m0Nan;
  if (a == numerics::kInfBits) return kE8m0Max;
  const std::uint32_t code = a >> 23;
  return static_cast<std::uint8_t>(code > 2 ? code - 2 : 0);
}

}  // namespace halfbyte::formats
