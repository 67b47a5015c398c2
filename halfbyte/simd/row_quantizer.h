// The CPU row quantizer: a row of y in cache -> codes, scales in both layouts, row scale, padding.
// The definition is ops/quantize/quantize_math.h; this gives its bits, a vector at a time.
#pragma once

#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/simd/vectors.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

using formats::Format;
using formats::RowTarget;
using formats::ScaleMode;

// The bits of the largest magnitude of `count` floats, NaN above all.
HWY_INLINE std::int32_t amax_bits(const float* y, std::int64_t count) {
  Vi most = hn::Zero(Di());
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    most = hn::Max(most, magnitude_bits(hn::LoadU(Df(), y + i)));
  }
  if (i < count) most = hn::Max(most, magnitude_bits(load_elements(y + i, count - i)));
  return hn::GetLane(hn::MaxOfLanes(Di(), most));
}

class RowQuantizer {
 public:
  // Floats of scratch a thread needs: amax and reciprocal of each block, and one code a block.
  static HWY_INLINE std::int64_t scratch_floats(const RowTarget& target) {
    return 3 * padded_blocks(target);
  }

  HWY_INLINE RowQuantizer(const RowTarget& target, float* scratch)
      : target_(target),
        blocks_(target.scale_columns()),
        amax_(scratch),
        reciprocal_(scratch + padded_blocks(target)),
        scale_code_(reinterpret_cast<std::int32_t*>(scratch + 2 * padded_blocks(target))) {}

  // y: target.columns floats, values of T.
  HWY_INLINE void quantize(std::int64_t row, const float* y) const {
    if (target_.format == Format::kFp8) {
      quantize_fp8(row, y);
      return;
    }
    const int block = formats::block_elements(target_.format);
    std::int32_t row_bits = 0;
    for (std::int64_t k = 0; k < blocks_; ++k) {
      const std::int32_t bits = amax_bits(y + k * block, block);
      amax_[k] = numerics::bits_float(static_cast<std::uint32_t>(bits));
      row_bits = bits > row_bits ? bits : row_bits;
    }
    if (target_.format == Format::kNvfp4) {
      const formats::Nvfp4Scale scale =
          target_.nvfp4_scale(row, numerics::bits_float(static_cast<std::uint32_t>(row_bits)));
      nvfp4_scales(scale);
      if (target_.mode == ScaleMode::kRow) target_.row_scale[row] = scale.decode;
    } else {
      for (std::int64_t k = 0; k < blocks_; ++k) {
        const std::uint8_t code = formats::mxfp4_block_scale(amax_[k], target_.mx_rule);
        scale_code_[k] = code;
        reciprocal_[k] = formats::mxfp4_reciprocal(code);
      }
    }
    store_scales(row);
    std::uint8_t* codes = target_.codes + target_.code_rows.offset(row);
    for (std::int64_t k = 0; k < blocks_; ++k) {
      const Vf reciprocal = hn::Set(Df(), reciprocal_[k]);
      for (int i = 0; i < block; i += static_cast<int>(kLanes)) {
        const Vf scaled = hn::Mul(hn::LoadU(Df(), y + k * block + i), reciprocal);
        store_nibbles(e2m1_codes(scaled), codes + (k * block + i) / 2);
      }
    }
  }

 private:
  static HWY_INLINE std::int64_t padded_blocks(const RowTarget& target) {
    return formats::has_block_scales(target.format)
               ? (target.scale_columns() + kLanes - 1) / kLanes * kLanes
               : 0;
  }

  // S and r of every block from its amax: formats::nvfp4_block_scale and nvfp4_reciprocal. Lanes
  // past the last block compute on whatever the scratch holds and are not read.
  HWY_INLINE void nvfp4_scales(formats::Nvfp4Scale scale) const {
    const Df d;
    const Vf zero = hn::Zero(d);
    const bool te = target_.scale_rule == formats::ScaleRule::kTe;
    const Vf encode = hn::Set(d, scale.encode), decode = hn::Set(d, scale.decode);
    const Vf sixth = hn::Set(d, formats::kOneSixth);
    const Vf te_factor = hn::Mul(encode, sixth);
    for (std::int64_t k = 0; k < blocks_; k += kLanes) {
      const Vf amax = hn::LoadU(d, amax_ + k);
      const Vf wanted = te ? hn::Mul(amax, te_factor) : hn::Mul(encode, hn::Mul(amax, sixth));
      const Vf nonzero = hn::IfThenZeroElse(hn::Eq(amax, zero), wanted);
      const Vi code = scale.poisoned ? hn::Set(Di(), formats::kE4m3Nan) : e4m3_codes(nonzero);
      const Vf s = e4m3_values(code);
      const Vf r = clamp_to_max(hn::Div(hn::Set(d, 1.0f), hn::Mul(s, decode)));
      hn::StoreU(code, Di(), scale_code_ + k);
      hn::StoreU(hn::IfThenZeroElse(hn::Eq(s, zero), r), d, reciprocal_ + k);
    }
  }

  HWY_INLINE void store_scales(std::int64_t row) const {
    for (const formats::ScaleArray& array : target_.scales) {
      if (array.data == nullptr) continue;
      for (std::int64_t k = 0; k < blocks_; ++k) {
        array.data[formats::scale_offset(array.layout, row, k, blocks_)] =
            static_cast<std::uint8_t>(scale_code_[k]);
      }
    }
  }

  HWY_INLINE void quantize_fp8(std::int64_t row, const float* y) const {
    const std::int64_t columns = target_.columns;
    const float row_amax =
        target_.mode == ScaleMode::kRow
            ? numerics::bits_float(static_cast<std::uint32_t>(amax_bits(y, columns)))
            : 0.0f;
    const formats::Fp8Scale scale = target_.fp8_scale(row, row_amax);
    const Vf encode = hn::Set(Df(), scale.encode);
    std::uint8_t* codes = target_.codes + target_.code_rows.offset(row);
    std::int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) {
      store_bytes(e4m3_codes(hn::Mul(hn::LoadU(Df(), y + i), encode)), codes + i);
    }
    if (i < columns) {
      std::uint8_t buffer[kLanes];
      store_bytes(e4m3_codes(hn::Mul(load_elements(y + i, columns - i), encode)), buffer);
      std::memcpy(codes + i, buffer, static_cast<std::size_t>(columns - i));
    }
    if (target_.mode == ScaleMode::kRow) target_.row_scale[row] = scale.decode;
  }

  const RowTarget& target_;
  std::int64_t blocks_;
  float* amax_;
  float* reciprocal_;
  std::int32_t* scale_code_;
};

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
