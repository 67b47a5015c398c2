// Where the scale of (row m, scale column k) lies in a scale array (docs/formats.md).
//
//   linear  m * K_sf + k, no padding
//   128x4   tiles of 128 rows x 4 columns, 512 bytes: rows m%32 apart by 16 bytes, m%128/32 by 4
//   8x4     tiles of 8 rows x 4 columns, 32 bytes
//
// K_sf = columns / block. Padding exists in the tiled layouts and is always written, as zero.
#pragma once

#include <cstdint>
#include <type_traits>

#include "halfbyte/formats/format.h"

namespace halfbyte::formats {

struct ScalePosition {
  std::int64_t row = 0;
  std::int64_t column = 0;
  bool operator==(const ScalePosition&) const = default;
};

HALFBYTE_HD constexpr std::int64_t round_up_to(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

HALFBYTE_HD constexpr std::int64_t padded_scale_rows(ScaleLayout layout, std::int64_t rows) {
  return layout == ScaleLayout::kLinear  ? rows
         : layout == ScaleLayout::k128x4 ? round_up_to(rows, 128)
                                         : round_up_to(rows, 8);
}

HALFBYTE_HD constexpr std::int64_t padded_scale_columns(ScaleLayout layout, std::int64_t columns) {
  return layout == ScaleLayout::kLinear ? columns : round_up_to(columns, 4);
}

// Bytes of the scale array of `rows` rows of `columns` scales, padding included.
HALFBYTE_HD constexpr std::int64_t scale_bytes(ScaleLayout layout, std::int64_t rows,
                                               std::int64_t columns) {
  return padded_scale_rows(layout, rows) * padded_scale_columns(layout, columns);
}

// The two parts of an offset: what the row gives, and what the scale column gives. Int may be
// shorter where the array is small: a GPU counts the instructions.
template <class Int = std::int64_t>
HALFBYTE_HD constexpr Int scale_row_offset(ScaleLayout layout, std::type_identity_t<Int> row,
                                           std::type_identity_t<Int> columns) {
  if (layout == ScaleLayout::kLinear) return row * columns;
  const Int tile_columns = (columns + 3) / 4;
  if (layout == ScaleLayout::k128x4) {
    return (row / 128) * tile_columns * 512 + (row % 32) * 16 + ((row % 128) / 32) * 4;
  }
  return (row / 8) * tile_columns * 32 + (row % 8) * 4;
}
template <class Int = std::int64_t>
HALFBYTE_HD constexpr Int scale_column_offset(ScaleLayout layout,
                                              std::type_identity_t<Int> column) {
  if (layout == ScaleLayout::kLinear) return column;
  return column / 4 * (layout == ScaleLayout::k128x4 ? 512 : 32) + column % 4;
}
HALFBYTE_HD constexpr std::int64_t scale_offset(ScaleLayout layout, std::int64_t row,
                                                std::int64_t column, std::int64_t columns) {
  return scale_row_offset(layout, row, columns) + scale_column_offset(layout, column);
}

// The inverse of scale_offset; positions in the padding come back as rows >= the tensor's rows or
// columns >= its columns.
HALFBYTE_HD constexpr ScalePosition scale_position(ScaleLayout layout, std::int64_t offset,
                                                   std::int64_t columns) {
  if (layout == ScaleLayout::kLinear) return {offset / columns, offset % columns};
  const std::int64_t tile_columns = (columns + 3) / 4;
  if (layout == ScaleLayout::k128x4) {
    const std::int64_t tile = offset / 512, within = offset % 512;
    return {tile / tile_columns * 128 + within % 16 / 4 * 32 + within / 16,
            tile % tile_columns * 4 + within % 4};
  }
  const std::int64_t tile = offset / 32, within = offset % 32;
  return {tile / tile_columns * 8 + within / 4, tile % tile_columns * 4 + within % 4};
}

}  // namespace halfbyte::formats
