// method = fp8: an FP4 row in E4M3 (docs/numerics.md, "FP4 products"). The row's values times a
// power of two, by its largest block scale, so that none is beyond 384; then nearest even.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/formats/e2m1.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/e8m0.h"
#include "halfbyte/formats/format.h"
#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::ops {

// What a scale counts for the largest of its row: NaN does not.
HALFBYTE_HD constexpr int fp8_scale_rank(formats::Format format, std::uint8_t scale) {
  if (format == formats::Format::kMxfp4) return scale == formats::kE8m0Nan ? 0 : scale;
  const int magnitude = scale & 0x7F;
  return magnitude == formats::kE4m3Nan ? 0 : magnitude;
}

// The exponent of the power of two, from the largest rank of the row: NVFP4 has 6 * S * 2^shift in
// 192 .. 360, or 0; MXFP4 has 6 * 2^e * 2^shift = 384.
HALFBYTE_HD constexpr int fp8_shift(formats::Format format, int rank) {
  if (format == formats::Format::kMxfp4) return 6 - (rank - 127);
  if (rank >= 8) return 5 - (rank / 8 - 7);
  return rank == 0 ? 0 : 5 - (rank >= 4 ? -7 : rank >= 2 ? -8 : -9);
}

// 2^exponent, -149 to 127.
HALFBYTE_HD constexpr float power_of_two(int exponent) {
  return numerics::bits_float(exponent >= -126 ? static_cast<std::uint32_t>(exponent + 127) << 23
                                               : std::uint32_t{1} << (exponent + 149));
}

// What the sums of a row are to be multiplied by, beside its fp32 decode scale.
HALFBYTE_HD constexpr float fp8_factor(int shift) { return power_of_two(-shift); }

// NaN for a NaN scale; its sign may differ.
HALFBYTE_HD std::uint8_t fp8_of_fp4(formats::Format format, std::uint8_t code, std::uint8_t scale,
                                    int shift) {
  const float value = formats::e2m1_to_float(code);
  if (format == formats::Format::kMxfp4) {
    if (scale == formats::kE8m0Nan) return formats::kE4m3Nan;
    const int exponent = scale - 127 + shift;  // at most 6; below -20 all is 0
    return formats::e4m3_from_float(
        numerics::mul_rn(value, power_of_two(exponent < -20 ? -20 : exponent)));
  }
  return formats::e4m3_from_float(numerics::mul_rn(
      value, numerics::mul_rn(formats::e4m3_to_float(scale), power_of_two(shift))));
}

}  // namespace halfbyte::ops
