// THE definition of a quantized row, in terms of the block definitions of formats/. The reference
// runs it as it stands; the CPU and CUDA row quantizers are compared with it bit by bit.
#pragma once

#include <cstdint>

#include "halfbyte/formats/fp8.h"
#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/numerics/float_bits.h"

namespace halfbyte::ops {

// The largest magnitude of values(begin) .. values(end - 1); NaN if any is NaN, 0 of nothing.
template <class Values>
HALFBYTE_HD float amax_of(const Values& values, std::int64_t begin, std::int64_t end) {
  std::uint32_t most = 0;
  for (std::int64_t k = begin; k < end; ++k) {
    const std::uint32_t bits = numerics::abs_bits(values(k));
    most = bits > most ? bits : most;
  }
  return numerics::bits_float(most);
}

namespace quantize_detail {

// One FP4 block: its scale code, then two codes a byte.
template <class Values>
HALFBYTE_HD void put_fp4_block(const formats::RowTarget& target, std::int64_t row, std::int64_t k,
                               std::uint8_t scale, float reciprocal, const Values& y) {
  const int block = formats::block_elements(target.format);
  std::uint8_t* codes = target.codes + target.code_rows.offset(row) + k * (block / 2);
  for (int i = 0; i < block; i += 2) {
    const std::int64_t column = k * block + i;
    const std::uint8_t even = formats::e2m1_from_float(numerics::mul_rn(y(column), reciprocal));
    const std::uint8_t odd = formats::e2m1_from_float(numerics::mul_rn(y(column + 1), reciprocal));
    codes[i / 2] = formats::e2m1_pack(even, odd);
  }
  target.put_scale(target.scale_row(row), k, scale);
}

// A row of zeros, without block scales.
HALFBYTE_HD void put_row_of_no_group(const formats::RowTarget& target, std::int64_t row) {
  std::uint8_t* codes = target.codes + target.code_rows.offset(row);
  for (std::int64_t i = 0; i < formats::code_bytes(target.format, target.columns); ++i) {
    codes[i] = 0;
  }
  if (target.mode == formats::ScaleMode::kRow) {
    target.row_scale[row] = formats::nvfp4_scale_from_amax(0.0f, target.scale_rule).decode;
  }
}

}  // namespace quantize_detail

// Quantizes row `row` < target.rows, whose column k is y(k) (fp32, already rounded to T): codes,
// block scales and row scale. Padding is RowTarget::pad_row's.
template <class Values>
HALFBYTE_HD void quantize_row(const formats::RowTarget& target, std::int64_t row, const Values& y) {
  using formats::Format;
  using formats::ScaleMode;
  if (target.scale_row(row) < 0) {
    quantize_detail::put_row_of_no_group(target, row);
    return;
  }
  const float row_amax = target.mode == ScaleMode::kRow ? amax_of(y, 0, target.columns) : 0.0f;

  if (target.format == Format::kNvfp4) {
    const formats::Nvfp4Scale scale = target.nvfp4_scale(row, row_amax);
    for (std::int64_t k = 0; k < target.scale_columns(); ++k) {
      const float amax = amax_of(y, k * formats::kNvfp4Block, (k + 1) * formats::kNvfp4Block);
      const std::uint8_t code = formats::nvfp4_block_scale(amax, scale, target.scale_rule);
      quantize_detail::put_fp4_block(target, row, k, code, formats::nvfp4_reciprocal(code, scale),
                                     y);
    }
    if (target.mode == ScaleMode::kRow) target.row_scale[row] = scale.decode;
  } else if (target.format == Format::kMxfp4) {
    for (std::int64_t k = 0; k < target.scale_columns(); ++k) {
      const float amax = amax_of(y, k * formats::kMxfp4Block, (k + 1) * formats::kMxfp4Block);
      const std::uint8_t code = formats::mxfp4_block_scale(amax, target.mx_rule);
      quantize_detail::put_fp4_block(target, row, k, code, formats::mxfp4_reciprocal(code), y);
    }
  } else {
    const formats::Fp8Scale scale = target.fp8_scale(row, row_amax);
    std::uint8_t* codes = target.codes + target.code_rows.offset(row);
    for (std::int64_t k = 0; k < target.columns; ++k) codes[k] = formats::fp8_encode(y(k), scale);
    if (target.mode == ScaleMode::kRow) target.row_scale[row] = scale.decode;
  }
}

}  // namespace halfbyte::ops
