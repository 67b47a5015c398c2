// numerics/exp.h a vector at a time: the same operations, the same bits.
#pragma once

#include "halfbyte/numerics/exp.h"
#include "halfbyte/simd/vectors.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

// min(v, most) and max(v, least); a NaN v propagates. Min and Max give their second operand where
// one is NaN on x86, and the number on Arm.
HWY_INLINE Vf at_most(Vf v, Vf most) {
#if HWY_ARCH_X86
  return hn::Min(most, v);
#else
  return hn::IfThenElse(hn::Gt(v, most), most, v);
#endif
}
HWY_INLINE Vf at_least(Vf v, Vf least) {
#if HWY_ARCH_X86
  return hn::Max(least, v);
#else
  return hn::IfThenElse(hn::Lt(v, least), least, v);
#endif
}

HWY_INLINE Vf exp(Vf x) {
  using C = numerics::ExpConstants;
  const Df d;
  x = at_least(at_most(x, hn::Set(d, C::kMost)), hn::Set(d, -C::kMost));
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
