// The encoders and decoders of formats/ over lanes.
#pragma once

#include "halfbyte/simd/vectors.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

// E2M1 codes, sign included, one a 32-bit lane (formats::e2m1_from_float).
//
// Adding min(|v|, 4) to 2^23 - 2 rounds to steps of 1/2 below 2 and of 1 above it, ties to even,
// and its bits then count the codes 0..6; the last step, 4 to 6, is a comparison with its midpoint
// 5. Integer comparisons of the bits take a NaN as larger than anything: code 7.
HWY_INLINE Vi e2m1_codes(Vf v) {
  const Di di;
  const Vi bits = magnitude_bits(v);
  const Vi four = hn::BitCast(di, hn::Set(Df(), 4.0f));
  const Vi five = hn::BitCast(di, hn::Set(Df(), 5.0f));
  const Vf base = hn::Set(Df(), 0x1p23f - 2.0f);
  const Vf sum = hn::Add(hn::BitCast(Df(), hn::Min(bits, four)), base);
  const Vi low = hn::Sub(hn::BitCast(di, sum), hn::BitCast(di, base));
  const Vi code = hn::Sub(low, hn::VecFromMask(di, hn::Gt(bits, five)));
  const Vi sign =
      hn::And(hn::BitCast(di, hn::ShiftRight<28>(hn::BitCast(Du(), v))), hn::Set(di, 8));
  // A NaN has code 7 without sign.
  const Vi infinity = hn::Set(di, static_cast<std::int32_t>(numerics::kInfBits));
  return hn::Or(code, hn::IfThenZeroElse(hn::Gt(bits, infinity), sign));
}

// E4M3 codes, sign included, one a 32-bit lane (formats::e4m3_from_float).
HWY_INLINE Vi e4m3_codes(Vf v) {
  const Di di;
  const Vi bits = magnitude_bits(v);
  const Vi odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(di, 1));
  // Saturated first, so that the rounding of Inf and NaN cannot overflow.
  const Vi most = hn::BitCast(di, hn::Set(Df(), 448.0f));
  const Vi rounded =
      hn::ShiftRight<20>(hn::Add(hn::Add(hn::Min(bits, most), hn::Set(di, 0x7FFFF)), odd));
  const Vi normal = hn::Min(hn::Sub(rounded, hn::Set(di, 120 << 3)), hn::Set(di, 0x7E));
  // Below 2^-6 the codes count in steps of 2^-9, the step of fp32 at 2^14.
  const Vf shift = hn::Set(Df(), 0x1p14f);
  const Vi subnormal =
      hn::Sub(hn::BitCast(di, hn::Add(hn::BitCast(Df(), bits), shift)), hn::BitCast(di, shift));
  const Vi smallest_normal = hn::BitCast(di, hn::Set(Df(), 0x1p-6f));
  const Vi code = hn::IfThenElse(hn::Lt(bits, smallest_normal), subnormal, normal);
  const Vi sign =
      hn::And(hn::BitCast(di, hn::ShiftRight<24>(hn::BitCast(Du(), v))), hn::Set(di, 0x80));
  const Vi infinity = hn::Set(di, static_cast<std::int32_t>(numerics::kInfBits));
  return hn::IfThenElse(hn::Gt(bits, infinity), hn::Set(di, 0x7F), hn::Or(code, sign));
}

// The values of non-negative E4M3 codes (0..0x7F), one a lane (formats::e4m3_to_float).
HWY_INLINE Vf e4m3_values(Vi code) {
  const Di di;
  const Vi normal = hn::Add(hn::ShiftLeft<20>(code), hn::Set(di, 120 << 23));
  const Vf subnormal = hn::Mul(hn::ConvertTo(Df(), code), hn::Set(Df(), 0x1p-9f));
  const Vf value = hn::IfThenElse(
      hn::MaskFromVec(hn::BitCast(Df(), hn::VecFromMask(di, hn::Lt(code, hn::Set(di, 8))))),
      subnormal, hn::BitCast(Df(), normal));
  const auto nan = hn::BitCast(Df(), hn::Set(di, 0x7FC00000));
  return hn::IfThenElse(
      hn::MaskFromVec(hn::BitCast(Df(), hn::VecFromMask(di, hn::Eq(code, hn::Set(di, 0x7F))))), nan,
      value);
}

// Bits whose low three are e2m1_from_float(|v|) ^ 4, for a v that is not NaN: what e2m1_codes does
// without its last steps. The bits of 2^23 - 2 end in 100, and no sum carries out of the low three.
HWY_INLINE Vi e2m1_steps(Vf v) {
  const Di di;
  const Vf magnitude = hn::Abs(v);
  const Vf sum = hn::Add(hn::Min(magnitude, hn::Set(Df(), 4.0f)), hn::Set(Df(), 0x1p23f - 2.0f));
  const auto beyond = hn::Gt(magnitude, hn::Set(Df(), 5.0f));
#if HWY_TARGET <= HWY_AVX3
  // A masked addition.
  const Vi bits = hn::BitCast(di, sum);
  return hn::IfThenElse(hn::RebindMask(di, beyond), hn::Add(bits, hn::Set(di, 1)), bits);
#else
  return hn::Sub(hn::BitCast(di, sum), hn::BitCast(di, hn::VecFromMask(Df(), beyond)));
#endif
}

// The FP4 byte of each pair of lanes, for values that are not NaN.
HWY_INLINE Vi e2m1_bytes(Vf even, Vf odd) {
  const Di di;
  const auto field = [](Vi v, std::int32_t mask) { return hn::And(v, hn::Set(Di(), mask)); };
  const auto sign = [](Vf v) { return hn::BitCast(Du(), v); };
  const Vi low = field(e2m1_steps(even), 7);
  const Vi high = field(hn::ShiftLeft<4>(e2m1_steps(odd)), 0x70);
  const Vi low_sign = field(hn::BitCast(di, hn::ShiftRight<28>(sign(even))), 8);
  const Vi high_sign = field(hn::BitCast(di, hn::ShiftRight<24>(sign(odd))), 0x80);
  return hn::Xor(hn::Or(hn::Or(low, low_sign), hn::Or(high, high_sign)), hn::Set(di, 0x44));
}

// The same for any values.
HWY_INLINE Vi e2m1_bytes_or_nan(Vf even, Vf odd) {
  return hn::Or(e2m1_codes(even), hn::ShiftLeft<4>(e2m1_codes(odd)));
}

// The low byte of each lane: kLanes bytes.
HWY_INLINE void store_bytes(Vi lanes, std::uint8_t* out) {
  const hn::Rebind<std::uint8_t, Du> d8;
  hn::StoreU(hn::TruncateTo(d8, hn::BitCast(Du(), lanes)), d8, out);
}

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
