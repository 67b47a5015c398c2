// The codecs of formats/ in few instructions, with the same bits (fast_codecs_cuda_test.cu proves
// it over their whole domains).
#pragma once

#include <cstdint>

#include "halfbyte/formats/e2m1.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/numerics/rounding.h"

// cvt to e2m1 exists on these targets alone; elsewhere nvcc would emulate it.
#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL) || \
    (defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1000)
#define HALFBYTE_HARDWARE_E2M1 1
#endif

namespace halfbyte::simt {

__device__ __forceinline__ float mul_sat(float a, float b) {
  float result;
  asm("mul.rn.sat.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
__device__ __forceinline__ float fma_sat(float a, float b, float c) {
  float result;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(a), "f"(b), "f"(c));
  return result;
}

// What E2M1 multiplies by, as two exact fractions of r.
struct E2m1Factor {
  float quarter, eighth;
  __device__ __forceinline__ static E2m1Factor of_quarter(float quarter) {
    return {quarter, numerics::mul_rn(quarter, 0.5f)};
  }
  __device__ __forceinline__ static E2m1Factor of(float r) {
    return of_quarter(numerics::mul_rn(r, 0.25f));
  }
  __device__ __forceinline__ float whole() const { return numerics::mul_rn(quarter, 4.0f); }
};

// The magnitudes of e2m1_from_float(fl(y * r)) of eight values, a nibble each, element 0 lowest.
// No NaN; r is +0 or 2^-123 .. 2^126, or any power of two.
//
//   a = sat(|y| * r/4)                     |y| * r rounded, in quarters, clamped to 4
//   t = fma(a, 4, 2^23 - 2)                the sum crosses a power of two at 2: rounded in steps of
//                                          1/2 below it and of 1 above, ties to even
//   t + sat(fma(|y|, r/8, -1/8))           one more where |y| * r > 5: an eighth of the product,
//                                          rounded once here, is > 1/2 + 1/8 exactly where the
//                                          product rounded on its own is > 5
__device__ __forceinline__ std::uint32_t e2m1_magnitudes(const float* y, const E2m1Factor& r) {
  constexpr float kBase = 8388606.0f;  // 2^23 - 2; its bits + code are those of the sum
  std::uint32_t codes = 0;
#pragma unroll
  for (int i = 7; i >= 0; --i) {
    const float magnitude = fabsf(y[i]);
    const float low = numerics::fma_rn(mul_sat(magnitude, r.quarter), 4.0f, kBase);
    const float sum = numerics::add_rn(low, fma_sat(magnitude, r.eighth, -0.125f));
    codes = i == 7 ? numerics::float_bits(sum) : codes * 16 + numerics::float_bits(sum);
  }
  return codes - numerics::float_bits(kBase) * 0x11111111u;
}

// The codes of eight values whose signs are at bit 3 of each nibble; no NaN among the products.
__device__ __forceinline__ std::uint32_t e2m1_codes(const float* y, std::uint32_t signs,
                                                    const E2m1Factor& r) {
#ifdef HALFBYTE_HARDWARE_E2M1
  const float whole = r.whole();
  float p[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) p[i] = numerics::mul_rn(y[i], whole);
  std::uint32_t codes;
  asm("{\n\t.reg .b8 a, b, c, d;\n\t"
      "cvt.rn.satfinite.e2m1x2.f32 a, %2, %1;\n\tcvt.rn.satfinite.e2m1x2.f32 b, %4, %3;\n\t"
      "cvt.rn.satfinite.e2m1x2.f32 c, %6, %5;\n\tcvt.rn.satfinite.e2m1x2.f32 d, %8, %7;\n\t"
      "mov.b32 %0, {a, b, c, d};\n\t}"
      : "=r"(codes)
      : "f"(p[0]), "f"(p[1]), "f"(p[2]), "f"(p[3]), "f"(p[4]), "f"(p[5]), "f"(p[6]), "f"(p[7]));
  return codes;
#else
  return e2m1_magnitudes(y, r) | signs;
#endif
}

// e4m3_from_float of two values: `low` in the low byte.
__device__ __forceinline__ std::uint32_t e4m3_pair(float low, float high) {
#if __CUDA_ARCH__ >= 890
  std::uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
#else
  return formats::e4m3_from_float(low) | (formats::e4m3_from_float(high) << 8);
#endif
}

// e4m3_to_float.
__device__ __forceinline__ float e4m3_value(std::uint32_t code) {
#if __CUDA_ARCH__ >= 890
  float value;
  asm("{\n\t.reg .b16 code, none, low, high;\n\t.reg .b32 pair;\n\tmov.b32 {code, none}, %1;\n\t"
      "cvt.rn.f16x2.e4m3x2 pair, code;\n\tmov.b32 {low, high}, pair;\n\tcvt.f32.f16 %0, low;\n\t}"
      : "=f"(value)
      : "r"(code));
  return value;
#else
  return formats::e4m3_to_float(static_cast<std::uint8_t>(code));
#endif
}

}  // namespace halfbyte::simt
