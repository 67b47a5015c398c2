#include "halfbyte/numerics/exp.h"
#include "halfbyte/simd/exp.h"
#include "halfbyte/simd/testing_exp.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

void exp_of(const float* x, std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    hn::StoreU(exp(hn::LoadU(Df(), x + i)), Df(), y + i);
  }
}

void scalar_exp_of(const float* x, std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = numerics::exp(x[i]);
}

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
