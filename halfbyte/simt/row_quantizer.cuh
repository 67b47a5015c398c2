// The GPU row quantizer: one CTA turns a row of y into codes, scales in both layouts, row scale and
// padding. The definition is ops/quantize/quantize_math.h; this gives its bits, a block a thread.
//
// A row comes from a Source:  void load(int64_t column, float (&y)[16]) const
// gives the values of 16 columns from `column` on (fp32 values of T), +0 past the row's end. It may
// be called any number of times and gives the same bits each time.
#pragma once

#include <cstdint>

#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/simt/collectives.cuh"
#include "halfbyte/simt/vectors.cuh"

namespace halfbyte::simt {

using formats::Format;
using formats::RowTarget;
using formats::ScaleMode;

__device__ inline std::uint32_t amax_bits(const float (&y)[kVectorElems]) {
  std::uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < kVectorElems; ++i) most = max(most, numerics::abs_bits(y[i]));
  return most;
}

// The amax of a row, in every thread; NaN if any element is.
template <class Source>
__device__ float row_amax(const Source& source, std::int64_t columns, CollectiveScratch& scratch) {
  std::uint32_t most = 0;
  for (std::int64_t column = threadIdx.x * kVectorElems; column < columns;
       column += blockDim.x * kVectorElems) {
    float y[kVectorElems];
    source.load(column, y);
    most = max(most, amax_bits(y));
  }
  return numerics::bits_float(block_max(most, scratch));
}

// The 8 bytes of 16 codes.
__device__ inline void put_fp4_codes(const float (&y)[kVectorElems], float reciprocal,
                                     std::uint8_t* codes) {
  std::uint32_t words[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < kVectorElems; ++i) {
    const std::uint32_t code = formats::e2m1_from_float(numerics::mul_rn(y[i], reciprocal));
    words[i / 8] |= code << (4 * (i % 8));
  }
  store_bytes<8>(words, codes, 8);
}

template <class Source>
__device__ void quantize_row_nvfp4(const RowTarget& target, std::int64_t row,
                                   std::int64_t scale_row, float amax_of_row,
                                   const Source& source) {
  const formats::Nvfp4Scale scale = target.nvfp4_scale(row, amax_of_row);
  std::uint8_t* codes = target.codes + target.code_rows.offset(row);
  for (std::int64_t k = threadIdx.x; k < target.scale_columns(); k += blockDim.x) {
    float y[formats::kNvfp4Block];
    source.load(k * formats::kNvfp4Block, y);
    const float amax = numerics::bits_float(amax_bits(y));
    const std::uint8_t code = formats::nvfp4_block_scale(amax, scale, target.scale_rule);
    put_fp4_codes(y, formats::nvfp4_reciprocal(code, scale), codes + k * 8);
    target.put_scale(scale_row, k, code);
  }
  if (target.mode == ScaleMode::kRow && threadIdx.x == 0) target.row_scale[row] = scale.decode;
}

template <class Source>
__device__ void quantize_row_mxfp4(const RowTarget& target, std::int64_t row,
                                   std::int64_t scale_row, const Source& source) {
  std::uint8_t* codes = target.codes + target.code_rows.offset(row);
  for (std::int64_t k = threadIdx.x; k < target.scale_columns(); k += blockDim.x) {
    float low[kVectorElems], high[kVectorElems];
    source.load(k * formats::kMxfp4Block, low);
    source.load(k * formats::kMxfp4Block + kVectorElems, high);
    const float amax = numerics::bits_float(max(amax_bits(low), amax_bits(high)));
    const std::uint8_t code = formats::mxfp4_block_scale(amax, target.mx_rule);
    const float reciprocal = formats::mxfp4_reciprocal(code);
    put_fp4_codes(low, reciprocal, codes + k * 16);
    put_fp4_codes(high, reciprocal, codes + k * 16 + 8);
    target.put_scale(scale_row, k, code);
  }
}

template <class Source>
__device__ void quantize_row_fp8(const RowTarget& target, std::int64_t row, float amax_of_row,
                                 const Source& source) {
  const formats::Fp8Scale scale = target.fp8_scale(row, amax_of_row);
  std::uint8_t* codes = target.codes + target.code_rows.offset(row);
  for (std::int64_t column = threadIdx.x * kVectorElems; column < target.columns;
       column += blockDim.x * kVectorElems) {
    float y[kVectorElems];
    source.load(column, y);
    std::uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kVectorElems; ++i) {
      words[i / 4] |= static_cast<std::uint32_t>(formats::fp8_encode(y[i], scale)) << (8 * (i % 4));
    }
    store_bytes<16>(words, codes + column, target.columns - column);
  }
  if (target.mode == ScaleMode::kRow && threadIdx.x == 0) target.row_scale[row] = scale.decode;
}

// A row of zeros, without block scales.
__device__ inline void put_row_of_no_group(const RowTarget& target, std::int64_t row) {
  std::uint8_t* codes = target.codes + target.code_rows.offset(row);
  const std::int64_t bytes = formats::code_bytes(target.format, target.columns);
  for (std::int64_t i = threadIdx.x; i < bytes; i += blockDim.x) codes[i] = 0;
  if (target.mode == ScaleMode::kRow && threadIdx.x == 0) {
    target.row_scale[row] = formats::nvfp4_scale_from_amax(0.0f, target.scale_rule).decode;
  }
}

// All threads of the CTA call it with the same arguments; row < target.rows.
template <class Source>
__device__ void quantize_row(const RowTarget& target, std::int64_t row, const Source& source,
                             CollectiveScratch& scratch) {
  const std::int64_t scale_row = target.scale_row(row);
  if (scale_row < 0) {
    put_row_of_no_group(target, row);
    return;
  }
  const float amax_of_row =
      target.mode == ScaleMode::kRow ? row_amax(source, target.columns, scratch) : 0.0f;
  if (target.format == Format::kNvfp4) {
    quantize_row_nvfp4(target, row, scale_row, amax_of_row, source);
  } else if (target.format == Format::kMxfp4) {
    quantize_row_mxfp4(target, row, scale_row, source);
  } else {
    quantize_row_fp8(target, row, amax_of_row, source);
  }
}

}  // namespace halfbyte::simt
