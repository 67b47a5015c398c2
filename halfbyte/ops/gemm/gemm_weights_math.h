// The prepared form of N x K weights: where each byte of codes and each scale lies
// (docs/formats.md, "Prepared weights"), host and device.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/formats/format.h"
#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::ops {

inline constexpr std::int64_t kPreparedAlignment = 16;

// PROVISIONAL, until the layout of the kernels is settled: codes row by row, then scales.
struct PreparedLayout {
  std::int64_t rows = 0, code_bytes = 0, scale_columns = 0;

  HALFBYTE_HD PreparedLayout(formats::Format format, std::int64_t n, std::int64_t k)
      : rows(n), code_bytes(k / 2), scale_columns(k / formats::block_elements(format)) {}
  // Byte `byte` of the codes of row n, and the scale of its block k.
  HALFBYTE_HD std::int64_t code_offset(std::int64_t n, std::int64_t byte) const {
    return n * code_bytes + byte;
  }
  HALFBYTE_HD std::int64_t scale_offset(std::int64_t n, std::int64_t k) const {
    return rows * code_bytes + n * scale_columns + k;
  }
  HALFBYTE_HD std::int64_t bytes() const {
    return formats::round_up_to(rows * (code_bytes + scale_columns), 128);
  }
};

// Bytes of the prepared form; 0 for no rows.
HALFBYTE_HD std::int64_t prepared_weight_bytes(formats::Format format, std::int64_t rows,
                                               std::int64_t columns) {
  return PreparedLayout(format, rows, columns).bytes();
}

}  // namespace halfbyte::ops
