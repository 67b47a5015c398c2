// Division and square root of rounding.h on the device, without the calls that ptxas makes of
// div.rn and sqrt.rn for operands at the ends of the range: a call in a loop costs its registers.
// The sequences are ptxas's own inside that range; fast_codecs_cuda_test.cu compares them with it.
#pragma once

#ifdef __CUDACC__

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/numerics/float_bits.h"

namespace halfbyte::numerics::device {

// Asked of the bits: 2^-60 <= |x| < 2^60.
__device__ __forceinline__ bool is_ordinary(float x) {
  return abs_bits(x) - (67u << 23) < (120u << 23);
}

__device__ __forceinline__ float fma(float a, float b, float c) {
  float result;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(a), "f"(b), "f"(c));
  return result;
}

// fl(1 / x) for 2^-125 <= |x| <= 2^125. One Newton step from a faithful seed rounds correctly
// (Markstein) but for a significand of all ones, which the test covers with every other.
__device__ __forceinline__ float reciprocal(float x) {
  float seed;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(seed) : "f"(x));
  return fma(fma(-x, seed, 1.0f), seed, seed);
}

// fl(a / b) in fp64, for all operands but 0, Inf and NaN. The quotient of two 24-bit numbers is not
// within 2^-50 of a midpoint of fp32 unless it is one, so that rounding it twice does no harm;
// subnormal operands and results are ordinary here.
__device__ __forceinline__ float divide_wide(float a, float b) {
  double x, y, seed;
  asm("cvt.f64.f32 %0, %1;" : "=d"(x) : "f"(a));
  asm("cvt.f64.f32 %0, %1;" : "=d"(y) : "f"(b));
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(seed) : "d"(y));
#pragma unroll
  for (int i = 0; i < 2; ++i) seed = __fma_rn(__fma_rn(-y, seed, 1.0), seed, seed);
  const double estimate = __dmul_rn(x, seed);
  const double quotient = __fma_rn(__fma_rn(-y, estimate, x), seed, estimate);
  float result;
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(quotient));
  return result;
}

// fl(a / b) where a, b are ordinary and inverse = fl(1 / b): one correction of a product with it
// rounds correctly (Markstein).
__device__ __forceinline__ float divide_ordinary(float a, float b, float inverse) {
  const float estimate = fma(a, inverse, 0.0f);
  return fma(fma(-b, estimate, a), inverse, estimate);
}

__device__ __forceinline__ float divide(float a, float b) {
  if (is_ordinary(a) && is_ordinary(b)) return divide_ordinary(a, b, reciprocal(b));
  const std::uint32_t sign = (float_bits(a) ^ float_bits(b)) & 0x80000000u;
  const std::uint32_t x = abs_bits(a), y = abs_bits(b);
  if (x > kInfBits || y > kInfBits || (x == 0 && y == 0) || (x == kInfBits && y == kInfBits)) {
    return bits_float(0x7FFFFFFFu);
  }
  if (x == kInfBits || y == 0) return bits_float(sign | kInfBits);
  if (x == 0 || y == kInfBits) return bits_float(sign);
  return divide_wide(a, b);
}

// fl(sqrt(x)) for 2^-67 <= x.
__device__ __forceinline__ float ordinary_square_root(float x) {
  float seed;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(seed) : "f"(x));
  const float estimate = fma(x, seed, 0.0f), half = fma(seed, 0.5f, 0.0f);
  return fma(fma(-estimate, estimate, x), half, estimate);
}

__device__ __forceinline__ float square_root(float x) {
  const std::uint32_t bits = float_bits(x);
  if (bits == 0x80000000u || bits == 0 || bits == kInfBits) return x;
  if (bits > kInfBits) return bits_float(0x7FFFFFFFu);  // NaN, or a negative number
  // By 2^64 where x is small: the root then is by 2^32, both exactly.
  if (bits < (60u << 23)) {
    return fma(ordinary_square_root(fma(x, 0x1p64f, 0.0f)), 0x1p-32f, 0.0f);
  }
  return ordinary_square_root(x);
}

}  // namespace halfbyte::numerics::device

#endif
