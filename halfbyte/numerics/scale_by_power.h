// x * 2^e, rounded once: ldexp for exponents that one fp32 factor cannot hold.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::numerics {

// 2^e as fp32, -127 <= e <= 127.
HALFBYTE_HD constexpr float power_of_two(int e) {
  return e < -126 ? bits_float(0x00400000u) : bits_float(static_cast<std::uint32_t>(e + 127) << 23);
}

// fl(x * 2^e), one rounding, -254 <= e <= 254, for an x that is 0 or a multiple of 2^-22 with
// |x| < 2^64. Two factors of about half the exponent each: the first product is exact, or overflows
// where the result does.
HALFBYTE_HD float scale_by_power(float x, int e) {
  const int half = e >> 1;
  return product_rn(mul_rn(x, power_of_two(half)), power_of_two(e - half));
}

}  // namespace halfbyte::numerics
