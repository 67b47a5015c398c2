// One rounding an operation, whatever the compiler's flags: the fl() of docs/numerics.md.
//
// On the device these are PTX instructions by name: the __f*_rn intrinsics are never contracted
// either, but flush subnormals under nvcc --use_fast_math. On the host a plain operation is one
// rounding as long as the compiler has no multiply feeding an add to contract; where a function in
// a public header has that shape, it says product_rn, or fma_rn if the contract wants a fused
// multiply-add. So `g++ -O3 -march=native` consumers get the same bits. tests/golden_consumer
// proves it.
#pragma once

#include "halfbyte/base/macros.h"
#include "halfbyte/numerics/device_rounding.h"

namespace halfbyte::numerics {

#ifdef __CUDA_ARCH__
HALFBYTE_HD float mul_rn(float a, float b) {
  float result;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
HALFBYTE_HD float add_rn(float a, float b) {
  float result;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
HALFBYTE_HD float sub_rn(float a, float b) {
  float result;
  asm("sub.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
HALFBYTE_HD float div_rn(float a, float b) { return device::divide(a, b); }
HALFBYTE_HD float sqrt_rn(float a) { return device::square_root(a); }
HALFBYTE_HD float fma_rn(float a, float b, float c) {
  float result;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(a), "f"(b), "f"(c));
  return result;
}
// A product that an addition takes, rounded on its own.
HALFBYTE_HD float product_rn(float a, float b) { return mul_rn(a, b); }
#else
HALFBYTE_HD float mul_rn(float a, float b) { return a * b; }
HALFBYTE_HD float add_rn(float a, float b) { return a + b; }
HALFBYTE_HD float sub_rn(float a, float b) { return a - b; }
HALFBYTE_HD float div_rn(float a, float b) { return a / b; }
HALFBYTE_HD float sqrt_rn(float a) { return __builtin_sqrtf(a); }
HALFBYTE_HD float fma_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// A product that an addition takes, rounded on its own: the compiler does not see where the value
// comes from, so it cannot contract the two whatever its flags.
HALFBYTE_HD float product_rn(float a, float b) {
  float product = a * b;
#if defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#else
  volatile float kept = product;
  product = kept;
#endif
  return product;
}
#endif

}  // namespace halfbyte::numerics
