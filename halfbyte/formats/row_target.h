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

// Where [begin, end) of `groups` contiguous ranges a value lies: the one that holds it, or -1.
// offsets: groups + 1 values, each range from its own to the next. Reads no further whatever the
// offsets are: in device memory nobody has looked at them.
HALFBYTE_HD std::int64_t group_of(const std::int32_t* offsets, std::int64_t groups,
                                  std::int64_t value) {
  std::int64_t low = 0, high = groups;  // the last offset <= value is in [low, high]
  if (value < offsets[0]) return -1;
  while (low < high) {
    const std::int64_t middle = (low + high + 1) / 2;
    if (offsets[middle] <= value) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low < groups ? low : -1;
}

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

  // Rows sorted by group (mixture of experts): group e has the rows from row_offsets[e] to the next
  // offset, its scales lie from row scale_row_offsets[e] of the scale arrays on, and `given` has
  // one value a group (given_stride elements between). groups == 0: row m's scales are row m.
  std::int64_t groups = 0;
  const std::int32_t* row_offsets = nullptr;        // groups + 1
  const std::int32_t* scale_row_offsets = nullptr;  // groups + 1
  std::int64_t scale_rows = 0;                      // rows of the scale arrays, without padding

  HALFBYTE_HD std::int64_t scale_columns() const { return columns / block_elements(format); }
  HALFBYTE_HD float given_scale(std::int64_t row) const {
    if (given == nullptr) return given_value;
    if (groups == 0) return given[row * given_stride];
    const std::int64_t group = group_of(row_offsets, groups, row);
    return given[(group < 0 ? 0 : group) * given_stride];
  }

  // The row of the scale arrays that a row has; -1: it is in no group, and is quantized as a row of
  // zeros without block scales.
  HALFBYTE_HD std::int64_t scale_row(std::int64_t row) const {
    if (groups == 0) return row;
    const std::int64_t group = group_of(row_offsets, groups, row);
    if (group < 0) return -1;
    const std::int64_t found = scale_row_offsets[group] + (row - row_offsets[group]);
    return found >= 0 && found < scale_rows ? found : -1;
  }
  // Whether a row of the scale arrays has a row of y, and so scales.
  HALFBYTE_HD bool has_scales(std::int64_t scale_row) const {
    if (groups == 0) return scale_row < rows;
    const std::int64_t group = group_of(scale_row_offsets, groups, scale_row);
    if (group < 0) return false;
    const std::int64_t row = row_offsets[group] + (scale_row - scale_row_offsets[group]);
    return row < row_offsets[group + 1] && row < rows;
  }

  // Whether rows have scales of their own, given or from their amax.
  HALFBYTE_HD bool scale_a_row() const { return mode == ScaleMode::kRow || given_stride != 0; }

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

  // Stores the scale of block k of a row of the scale arrays in each that is wanted.
  HALFBYTE_HD void put_scale(std::int64_t scale_row, std::int64_t k, std::uint8_t code) const {
    for (const ScaleArray& array : scales) {
      if (array.data != nullptr) {
        array.data[scale_offset(array.layout, scale_row, k, scale_columns())] = code;
      }
    }
  }

  // Writes the zero padding of a row of the scale arrays: the columns past the last scale, or the
  // whole row where no row of y has its scales there. `first` and `step` split the columns among
  // threads.
  HALFBYTE_HD void pad_row(std::int64_t row, std::int64_t first = 0, std::int64_t step = 1) const {
    for (const ScaleArray& array : scales) {
      if (array.data == nullptr || row >= padded_scale_rows(array.layout, scale_rows)) continue;
      const std::int64_t begin = has_scales(row) ? scale_columns() : 0;
      const std::int64_t end = padded_scale_columns(array.layout, scale_columns());
      for (std::int64_t k = begin + first; k < end; k += step) {
        array.data[scale_offset(array.layout, row, k, scale_columns())] = 0;
      }
    }
  }

  // Rows of y, or of scales or padding in any of the two arrays, whichever are more.
  HALFBYTE_HD std::int64_t padded_rows() const {
    std::int64_t most = rows;
    for (const ScaleArray& array : scales) {
      const std::int64_t padded =
          array.data == nullptr ? 0 : padded_scale_rows(array.layout, scale_rows);
      most = padded > most ? padded : most;
    }
    return most;
  }
};

}  // namespace halfbyte::formats
