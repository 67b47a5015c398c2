// FP8: E4M3 codes with one fp32 decode scale a tensor (static) or a row (docs/numerics.md).
#pragma once

#include <cstdint>

#include "halfbyte/formats/e4m3.h"
#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::formats {

struct Fp8Scale {
  float encode = 1.0f;
  float decode = 1.0f;
};

HALFBYTE_HD Fp8Scale fp8_scale_given(float decode) {
  return {numerics::clamp_to_max(numerics::div_rn(1.0f, decode)), decode};
}

// From a row's amax. NaN propagates (every code is then NaN), Inf counts as FLT_MAX.
HALFBYTE_HD Fp8Scale fp8_scale_from_amax(float amax) {
  const float a = numerics::clamp_to_max(amax);
  if (numerics::is_zero(a)) return {1.0f, 1.0f};
  return {numerics::clamp_to_max(numerics::div_rn(kE4m3Max, a)), numerics::div_rn(a, kE4m3Max)};
}

HALFBYTE_HD std::uint8_t fp8_encode(float y, Fp8Scale scale) {
  return e4m3_from_float(numerics::mul_rn(y, scale.encode));
}
HALFBYTE_HD float fp8_decode(std::uint8_t code, float decode_scale) {
  return numerics::mul_rn(e4m3_to_float(code), decode_scale);
}

}  // namespace halfbyte::formats
