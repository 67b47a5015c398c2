// RowTarget: where and how the rows of y are quantized, resolved to pointers and validated. The
// reference, simd/ and simt/ row quantizers take the same one; a room fills it through
// ops/common/quantize_target.h.
#pragma once

#include <cstdint>

#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/format.h"
#include "halfbyte/formats/fp8.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::formats {

// One output of block scales; data == nullptr: not wanted.
struct ScaleArray {
  std::uint8_t* data = nullptr;
  ScaleLayout layout = ScaleLayout::kLinear;
};

struct RowTarget {
  Format format = Format::kNvfp4;
  ScaleMode mode = ScaleMode::kTensor;
  ScaleRule scale_rule = ScaleRule::kKernel;
  MxRule mx_rule = MxRule::kRoundUp;
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  std::uint8_t* codes = nullptr;
  base::RowMap code_rows;  // strides in bytes
  ScaleArray scales[2];

  // The given fp32 scale: the encode scale of NVFP4, the decode scale of FP8. nullptr:
  // `given_value` (a scalar that the host has read; 1 if none was given).
  const float* given = nullptr;
  std::int64_t given_stride = 0;  // 0: one for the tensor; else elements between rows
  float given_value = 1.0f;

  // mode == kComputed: the tensor's amax, and where to report the scale. mode == kRow: row_scale.
  const float* tensor_amax = nullptr;
  float* computed_encode = nullptr;
  float* computed_decode = nullptr;
  float* row_scale = nullptr;  // decode scales [rows]

  HALFBYTE_HD std::int64_t scale_columns() const { return columns / block_elements(format); }
  HALFBYTE_HD float given_scale(std::int64_t row) const {
    return given != nullptr ? given[row * given_stride] : given_value;
  }

  // The NVFP4 scale of a row; `row_amax` is read in mode kRow only.
  HALFBYTE_HD Nvfp4Scale nvfp4_scale(std::int64_t row, float row_amax) const {
    if (mode == ScaleMode::kTensor) return nvfp4_scale_given(given_scale(row));
    return nvfp4_scale_from_amax(mode == ScaleMode::kRow ? row_amax : *tensor_amax, scale_rule);
  }
  // mode == kComputed: reports the scale that the tensor's amax gives.
  HALFBYTE_HD void put_computed_scale() const {
    const Nvfp4Scale scale = nvfp4_scale_from_amax(*tensor_amax, scale_rule);
    *computed_encode = scale.encode;
    *computed_decode = scale.decode;
  }
  HALFBYTE_HD Fp8Scale fp8_scale(std::int64_t row, float row_amax) const {
    return mode == ScaleMode::kRow ? fp8_scale_from_amax(row_amax)
                                   : fp8_scale_given(given_scale(row));
  }

  // Stores the scale of block k of a row in every array that is wanted.
  HALFBYTE_HD void put_scale(std::int64_t row, std::int64_t k, std::uint8_t code) const {
    for (const ScaleArray& array : scales) {
      if (array.data != nullptr) {
        array.data[scale_offset(array.layout, row, k, scale_columns())] = code;
      }
    }
  }

  // Writes the zero padding of a row of the scale arrays: the columns past the last scale, or the
  // whole row where row >= rows. `first` and `step` split the columns among threads.
  HALFBYTE_HD void pad_row(std::int64_t row, std::int64_t first = 0, std::int64_t step = 1) const {
    for (const ScaleArray& array : scales) {
      if (array.data == nullptr || row >= padded_scale_rows(array.layout, rows)) continue;
      const std::int64_t begin = row < rows ? scale_columns() : 0;
      const std::int64_t end = padded_scale_columns(array.layout, scale_columns());
      for (std::int64_t k = begin + first; k < end; k += step) {
        array.data[scale_offset(array.layout, row, k, scale_columns())] = 0;
      }
    }
  }

  // Rows that have scales or padding in any of the two arrays; at least `rows`.
  HALFBYTE_HD std::int64_t padded_rows() const {
    std::int64_t most = rows;
    for (const ScaleArray& array : scales) {
      const std::int64_t padded = array.data == nullptr ? 0 : padded_scale_rows(array.layout, rows);
      most = padded > most ? padded : most;
    }
    return most;
  }
};

}  // namespace halfbyte::formats
