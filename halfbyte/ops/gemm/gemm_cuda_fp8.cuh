// E4M3 from pairs of fp16, and fp16 powers of two.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace halfbyte::ops::cuda {

// Two values, nearest even, the first in the low byte. NaN gives 0x7F. In hardware from sm_89 on.
__device__ __forceinline__ std::uint32_t e4m3_of_pair(__half2 pair) {
  return __nv_cvt_halfraw2_to_fp8x2(static_cast<__half2_raw>(pair), __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ __half2 half2_of_bits(std::uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}

// 2^exponent twice, -14 to 15.
__device__ __forceinline__ __half2 half2_power_of_two(int exponent) {
  const auto bits = static_cast<std::uint32_t>(exponent + 15) << 10;
  return half2_of_bits(bits << 16 | bits);
}

}  // namespace halfbyte::ops::cuda
