// THE definition of RMSNorm an element at a time (docs/numerics.md, "RMSNorm"), host and device.
// The sum of squares is numerics/row_sum.h's.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/half_types.h"
#include "halfbyte/numerics/rounding.h"
#include "halfbyte/ops/common/rounding.h"

namespace halfbyte::ops {

// h = T(x + residual)
template <class T>
HALFBYTE_HD float rmsnorm_add(float x, float residual) {
  return numerics::to_float(numerics::round_to<T>(numerics::add_rn(x, residual)));
}

// rstd = fl(1 / fl(sqrt( fl( fl(ss / H) + eps ) )))
HALFBYTE_HD float rmsnorm_rstd(float sum_of_squares, std::int64_t columns, float eps) {
  const float mean = numerics::div_rn(sum_of_squares, static_cast<float>(columns));
  return numerics::div_rn(1.0f, numerics::sqrt_rn(numerics::add_rn(mean, eps)));
}

// w' = w, or fl(w + 1). No addition where there is no bias: it would turn -0 into +0.
HALFBYTE_HD float rmsnorm_weight(float weight, bool bias) {
  return bias ? numerics::add_rn(weight, 1.0f) : weight;
}

// y, as T; `weight` is w'. T( fl(h * rstd) * w' ), or T( T(fl(h * rstd)) * w' ).
template <class T>
HALFBYTE_HD T rmsnorm_apply(float h, float rstd, float weight, Rounding rounding) {
  float normalised = numerics::mul_rn(h, rstd);
  if (rounding == Rounding::kHuggingFace) {
    normalised = numerics::to_float(numerics::round_to<T>(normalised));
  }
  return numerics::round_to<T>(numerics::mul_rn(normalised, weight));
}

}  // namespace halfbyte::ops
