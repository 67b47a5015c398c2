// THE definition of the FP4 products a block at a time (docs/numerics.md, "FP4 products"), host and
// device.
#pragma once

#include <cstdint>

#include "halfbyte/formats/e2m1.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/e8m0.h"
#include "halfbyte/formats/format.h"
#include "halfbyte/numerics/rounding.h"
#include "halfbyte/numerics/row_sum.h"
#include "halfbyte/numerics/scale_by_power.h"

namespace halfbyte::ops {

// A slice of K: within it blocks add up in order, slices in a balanced tree.
inline constexpr int kSliceColumns = 128;
HALFBYTE_HD constexpr int slice_blocks(formats::Format format) {
  return kSliceColumns / formats::block_elements(format);
}

// 2 * e2m1: an integer, magnitude 0, 1, 2, 3, 4, 6, 8, 12.
HALFBYTE_HD constexpr int e2m1_doubled(std::uint8_t code) {
  const int magnitude = code & 7;
  const int doubled = magnitude < 4    ? magnitude
                      : magnitude == 4 ? 4
                      : magnitude == 5 ? 6
                      : magnitude == 6 ? 8
                                       : 12;
  return (code & 8) != 0 ? -doubled : doubled;
}

// Four times the dot product of two blocks of `bytes` bytes of codes: exact.
HALFBYTE_HD constexpr int block_dot(const std::uint8_t* a, const std::uint8_t* b, int bytes) {
  int dot = 0;
  for (int i = 0; i < bytes; ++i) {
    for (int parity = 0; parity < 2; ++parity) {
      dot += e2m1_doubled(formats::e2m1_unpack(a[i], parity)) *
             e2m1_doubled(formats::e2m1_unpack(b[i], parity));
    }
  }
  return dot;
}

// The next block of a slice, W4A4: what `dot` quarters of two blocks with these scales add to acc.
HALFBYTE_HD float nvfp4_add_block(float acc, int dot, std::uint8_t scale_a, std::uint8_t scale_b) {
  const float scale =
      numerics::mul_rn(formats::e4m3_to_float(scale_a), formats::e4m3_to_float(scale_b));
  return numerics::fma_rn(numerics::mul_rn(static_cast<float>(dot), 0.25f), scale, acc);
}
HALFBYTE_HD float mxfp4_add_block(float acc, int dot, std::uint8_t scale_a, std::uint8_t scale_b) {
  if (scale_a == formats::kE8m0Nan || scale_b == formats::kE8m0Nan) {
    return formats::e8m0_to_float(formats::kE8m0Nan);
  }
  const float quarters = numerics::mul_rn(static_cast<float>(dot), 0.25f);
  return numerics::add_rn(acc, numerics::scale_by_power(quarters, scale_a + scale_b - 254));
}
HALFBYTE_HD float add_block(formats::Format format, float acc, int dot, std::uint8_t scale_a,
                            std::uint8_t scale_b) {
  return format == formats::Format::kNvfp4 ? nvfp4_add_block(acc, dot, scale_a, scale_b)
                                           : mxfp4_add_block(acc, dot, scale_a, scale_b);
}

// W4A16: the dot product of `columns` values with a block of codes, the even and the odd columns
// each a chain of fma.
HALFBYTE_HD float block_dot_16bit(const float* x, const std::uint8_t* codes, int columns) {
  const auto weight = [codes](int k) {
    return formats::e2m1_to_float(formats::e2m1_unpack(codes[k / 2], k % 2));
  };
  // A compiler that contracts may carry the sum at the end down a chain to its first product.
  float even = numerics::product_rn(x[0], weight(0));
  float odd = numerics::product_rn(x[1], weight(1));
  for (int k = 2; k < columns; k += 2) {
    even = numerics::fma_rn(x[k], weight(k), even);
    odd = numerics::fma_rn(x[k + 1], weight(k + 1), odd);
  }
  return numerics::add_rn(even, odd);
}
HALFBYTE_HD float add_block_16bit(formats::Format format, float acc, float dot,
                                  std::uint8_t scale) {
  return numerics::fma_rn(dot,
                          format == formats::Format::kNvfp4 ? formats::e4m3_to_float(scale)
                                                            : formats::e8m0_to_float(scale),
                          acc);
}

// The sum over K with the decode scales of A (1 where it has none) and B.
HALFBYTE_HD float scale_sum(float sum, float decode_a, float decode_b) {
  return numerics::product_rn(numerics::mul_rn(sum, decode_a), decode_b);
}

}  // namespace halfbyte::ops
