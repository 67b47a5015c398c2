// From a run-time DType to the C++ type of its elements.
#pragma once

#include <utility>

#include "halfbyte/base/dtype.h"
#include "halfbyte/numerics/half_types.h"

namespace halfbyte::numerics {

// f(T{}) with T = float, Fp16 or Bf16. The caller has checked that dtype is one of them.
template <class F>
inline __attribute__((always_inline)) decltype(auto) visit_float(base::DType dtype, F&& f) {
  if (dtype == base::DType::kBF16) return std::forward<F>(f)(Bf16{});
  if (dtype == base::DType::kF16) return std::forward<F>(f)(Fp16{});
  return std::forward<F>(f)(float{});
}

}  // namespace halfbyte::numerics
