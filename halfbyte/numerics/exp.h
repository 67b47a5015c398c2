// The project's exponential: a fixed sequence of fp32 operations, the same bits on host and device,
// at most 0.892 ulp from exp(x) over all 2^32 inputs (docs/numerics.md, "exp").
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::numerics {

// exp(x) = 2^n * e^r with n the integer nearest to x / ln 2 and |r| <= ln(2) / 2 + a little.
struct ExpConstants {
  // Beyond it exp is Inf or 0: n stays within -150 .. 150.
  static constexpr float kMost = 104.0f;
  static constexpr float kLog2E = 0x1.715476p+0f;
  // Adding it leaves round(x / ln 2) + 254 in the low 9 bits.
  static constexpr float kShift = 0x1.8p23f + 254.0f;
  static constexpr float kLn2High = 0x1.62e43p-1f;
  static constexpr float kLn2Low = -0x1.05c61p-29f;
  // e^r = 1 + r * (1 + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * c6))))), relative minimax.
  static constexpr float kC2 = 0x1.fffffcp-2f;
  static constexpr float kC3 = 0x1.555492p-3f;
  static constexpr float kC4 = 0x1.5558f2p-5f;
  static constexpr float kC5 = 0x1.123a2p-7f;
  static constexpr float kC6 = 0x1.6a23dp-10f;
};

// e^r of x = n ln 2 + r. Adding `shift`, 1.5 * 2^23 and a small integer, rounds to that n; the sum,
// in `shifted`, ends in the bits of n plus the integer.
HALFBYTE_HD float exp_fraction(float x, float shift, float& shifted) {
  using C = ExpConstants;
  shifted = fma_rn(x, C::kLog2E, shift);
  const float n = add_rn(shifted, -shift);
  const float r = fma_rn(n, -C::kLn2Low, fma_rn(n, -C::kLn2High, x));
  float p = fma_rn(C::kC6, r, C::kC5);
  p = fma_rn(p, r, C::kC4);
  p = fma_rn(p, r, C::kC3);
  p = fma_rn(p, r, C::kC2);
  p = fma_rn(p, r, 1.0f);
  return fma_rn(p, r, 1.0f);
}

// exp(-Inf) = 0, exp(Inf) = Inf, NaN propagates.
HALFBYTE_HD float exp(float x) {
  using C = ExpConstants;
  const std::uint32_t magnitude = abs_bits(x);
  if (magnitude > float_bits(C::kMost) && magnitude <= kInfBits) {
    x = bits_float(float_bits(C::kMost) | (float_bits(x) & 0x80000000u));
  }
  float shifted;
  const float p = exp_fraction(x, C::kShift, shifted);
  // 2^n in two factors, both normal: the first product is exact, so a subnormal result is rounded
  // once. The factors of a NaN are arbitrary and leave it a NaN.
  const std::uint32_t biased = float_bits(shifted);  // n + 2 * 127 in the low 9 bits
  const std::uint32_t half = biased >> 1;
  return mul_rn(mul_rn(p, bits_float(half << 23)), bits_float((biased - half) << 23));
}

}  // namespace halfbyte::numerics
