// NVFP4: blocks of 16 E2M1 codes, one E4M3 scale a block, one fp32 scale a tensor or a row.
//
// Two names, never mixed: the encode scale g ("global_scale") multiplies x; the decode scale d
// multiplies the codes on the way back. The definition is docs/numerics.md, "NVFP4 block".
#pragma once

#include <cstdint>

#include "halfbyte/formats/e2m1.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/format.h"
#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::formats {

inline constexpr int kNvfp4Block = 16;
inline constexpr float kOneSixth = 0x1.555556p-3f;         // fl(1/6) = 0x3E2AAAAB
inline constexpr float kNvfp4Range = kE4m3Max * kE2m1Max;  // 2688

// The fp32 scale of a tensor or a row. `poisoned`: its amax was NaN, so every block scale is NaN,
// an all-zero block's too.
struct Nvfp4Scale {
  float encode = 1.0f;
  float decode = 1.0f;
  bool poisoned = false;
};

HALFBYTE_HD Nvfp4Scale nvfp4_scale_given(float encode) {
  return {encode, numerics::div_rn(1.0f, encode), false};
}

// From an amax (scale = row or computed). NaN propagates, Inf counts as FLT_MAX.
HALFBYTE_HD Nvfp4Scale nvfp4_scale_from_amax(float amax, ScaleRule rule) {
  const float a = numerics::clamp_to_max(amax);
  if (numerics::is_zero(a)) return {1.0f, rule == ScaleRule::kTe ? 0.0f : 1.0f, false};
  const float encode = numerics::clamp_to_max(numerics::div_rn(kNvfp4Range, a));
  const float decode =
      rule == ScaleRule::kTe ? numerics::div_rn(1.0f, encode) : numerics::div_rn(a, kNvfp4Range);
  return {encode, decode, numerics::is_nan(a)};
}

// The E4M3 code S of a block whose amax (NaN if any element is) is given.
HALFBYTE_HD std::uint8_t nvfp4_block_scale(float amax, Nvfp4Scale scale, ScaleRule rule) {
  using numerics::mul_rn;
  if (scale.poisoned) return kE4m3Nan;
  if (numerics::is_zero(amax)) return 0;
  return e4m3_from_float(rule == ScaleRule::kTe ? mul_rn(amax, mul_rn(scale.encode, kOneSixth))
                                                : mul_rn(scale.encode, mul_rn(amax, kOneSixth)));
}

// r: what x is multiplied by before E2M1. The inverse of the factor that dequantizing uses.
HALFBYTE_HD float nvfp4_reciprocal(std::uint8_t block_scale, Nvfp4Scale scale) {
  const float s = e4m3_to_float(block_scale);
  if (numerics::is_zero(s)) return 0.0f;
  return numerics::clamp_to_max(numerics::div_rn(1.0f, numerics::mul_rn(s, scale.decode)));
}

HALFBYTE_HD std::uint8_t nvfp4_encode(float x, float reciprocal) {
  return e2m1_from_float(numerics::mul_rn(x, reciprocal));
}

// fl( (e2m1 * f32(S)) * d ); the inner product is exact.
HALFBYTE_HD float nvfp4_decode(std::uint8_t code, std::uint8_t block_scale, float decode_scale) {
  return numerics::mul_rn(numerics::mul_rn(e2m1_to_float(code), e4m3_to_float(block_scale)),
                          decode_scale);
}

}  // namespace halfbyte::formats
