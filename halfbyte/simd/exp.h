// numerics/exp.h a vector at a time: the same operations, the same bits.
#pragma once

#include "halfbyte/numerics/exp.h"
#include "halfbyte/simd/vectors.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

// v within low .. high, NaN propagates: x86 gives the second operand where one is NaN, Arm the NaN.
HWY_INLINE Vf clamp(Vf v, Vf low, Vf high) { return hn::Max(low, hn::Min(high, v)); }

HWY_INLINE Vf exp(Vf x) {
  using C = numerics::ExpConstants;
  const Df d;
  x = clamp(x, hn::Set(d, -C::kMost), hn::Set(d, C::kMost));
  const Vf shifted = hn::MulAdd(x, hn::Set(d, C::kLog2E), hn::Set(d, C::kShift));
  const Vf n = hn::Sub(shifted, hn::Set(d, C::kShift));
  Vf r = hn::MulAdd(n, hn::Set(d, -C::kLn2High), x);
  r = hn::MulAdd(n, hn::Set(d, -C::kLn2Low), r);
  Vf p = hn::MulAdd(hn::Set(d, C::kC6), r, hn::Set(d, C::kC5));
  p = hn::MulAdd(p, r, hn::Set(d, C::kC4));
  p = hn::MulAdd(p, r, hn::Set(d, C::kC3));
  p = hn::MulAdd(p, r, hn::Set(d, C::kC2));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  return Vf{_mm512_scalef_ps(p.raw, n.raw)};  // p * 2^n, rounded once
#else
  const auto biased = hn::BitCast(Du(), shifted);
  const auto half = hn::ShiftRight<1>(biased);
  const Vf low = hn::BitCast(d, hn::ShiftLeft<23>(half));
  const Vf high = hn::BitCast(d, hn::ShiftLeft<23>(hn::Sub(biased, half)));
  return hn::Mul(hn::Mul(p, low), high);
#endif
}

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
