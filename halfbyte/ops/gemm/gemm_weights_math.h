// The prepared form of N x K weights, "tile16" (docs/formats.md, "Prepared weights"): where each
// code and each scale lies, host and device. Fragments of tensor-core products in the order of use,
// their codes spread so that one shift and two masks make fp16 of them.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/format.h"
#include "halfbyte/ops/gemm/gemm_math.h"

namespace halfbyte::ops {

inline constexpr std::int64_t kPreparedAlignment = 16;  // 128 is fast
inline constexpr int kTileRows = 16;                    // rows of N a tile
inline constexpr int kUnitColumns = kSliceColumns;      // columns of K a unit
inline constexpr int kUnitCodeBytes = kTileRows * kUnitColumns / 2;

// A unit is one tile by kUnitColumns columns: its codes, then its scales.
HALFBYTE_HD constexpr int unit_blocks(formats::Format format) {
  return kUnitColumns / formats::block_elements(format);
}
HALFBYTE_HD constexpr int unit_bytes(formats::Format format) {
  return kUnitCodeBytes + kTileRows * unit_blocks(format);
}

// Bytes of the prepared form: units tile by tile, within a tile by K.
HALFBYTE_HD constexpr std::int64_t prepared_weight_bytes(formats::Format format, std::int64_t rows,
                                                         std::int64_t columns) {
  return (rows + kTileRows - 1) / kTileRows * ((columns + kUnitColumns - 1) / kUnitColumns) *
         unit_bytes(format);
}
HALFBYTE_HD constexpr std::int64_t unit_offset(formats::Format format, std::int64_t columns,
                                               std::int64_t tile, std::int64_t slice) {
  return (tile * ((columns + kUnitColumns - 1) / kUnitColumns) + slice) * unit_bytes(format);
}

// A 32-bit word of a unit holds eight codes, of the rows `row` and row + 8 (row < 8) and of four
// columns of block `block` of 16: 2t, 2t + 1, 2t + 8, 2t + 9, with pair = t.
HALFBYTE_HD constexpr int word_offset(int row, int pair, int block) {
  return block / 4 * 512 + (row * 4 + pair) * 16 + block % 4 * 4;
}
// Its two halves, four bytes each, of the columns below 8 (low) and from 8 on (high). A byte has
// the sign in bit 7 and the magnitude in bits 1 to 3; byte i is the code of row (i odd ? row : row
// + 8), of the even column where i < 2.
struct SpreadCodes {
  std::uint32_t low = 0, high = 0;
};
inline constexpr std::uint32_t kSpreadMask = 0x8E8E8E8Eu;
HALFBYTE_HD constexpr std::uint32_t spread_code(std::uint32_t code) {
  return (code & 8u) << 4 | (code & 7u) << 1;
}
HALFBYTE_HD constexpr std::uint32_t code_of_spread(std::uint32_t byte) {
  return (byte & 0x80u) >> 4 | (byte & 0x0Eu) >> 1;
}
HALFBYTE_HD constexpr int spread_byte(int row_in_tile, int column) {
  return column % 2 * 2 + (row_in_tile < 8 ? 1 : 0);
}
HALFBYTE_HD constexpr SpreadCodes spread_of_word(std::uint32_t word) {
  return {word & kSpreadMask, (word >> 3 ^ word << 7) & kSpreadMask};
}
HALFBYTE_HD constexpr std::uint32_t word_of_spread(SpreadCodes codes) {
  std::uint32_t word = codes.low;
  word |= ((codes.high ^ codes.low >> 3) & 0x80808080u) >> 7;
  for (int i = 0; i < 4; ++i) {
    std::uint32_t magnitude = codes.high >> (8 * i + 1) & 7u;
    if (i > 0) magnitude ^= word >> (8 * i - 6) & 7u;
    word |= magnitude << (8 * i + 4);
  }
  return word;
}

// NVFP4: the magnitude of an E4M3 scale S as bits 14 to 7 of fp16(S * 128), which is normal, 0 or
// NaN. A negative scale is stored as its magnitude, and its block's codes with the other sign.
HALFBYTE_HD constexpr std::uint8_t prepared_scale(std::uint8_t e4m3) {
  const int magnitude = e4m3 & 0x7F;
  if (magnitude == formats::kE4m3Nan) return 0xFC;
  if (magnitude >= 8) return static_cast<std::uint8_t>(magnitude + 120);
  if (magnitude == 0) return 0;
  // magnitude * 2^-9 * 2^7, normalised: 1.xx * 2^(top - 2).
  const int top = magnitude >= 4 ? 2 : magnitude >= 2 ? 1 : 0;
  return static_cast<std::uint8_t>((top + 13) * 8 + (magnitude << (3 - top) & 7));
}
HALFBYTE_HD constexpr std::uint8_t e4m3_of_prepared_scale(std::uint8_t scale) {
  if (scale >= 0xF8) return formats::kE4m3Nan;
  if (scale >= 128) return static_cast<std::uint8_t>(scale - 120);
  if (scale == 0) return 0;
  return static_cast<std::uint8_t>((8 + scale % 8) >> (16 - scale / 8));
}
HALFBYTE_HD constexpr bool flips_codes(formats::Format format, std::uint8_t scale) {
  return format == formats::Format::kNvfp4 && (scale & 0x80) != 0;
}

// NVFP4 scales of rows row and row + 8 (row < 8) and of blocks 2j and 2j + 1: a rotated word.
HALFBYTE_HD constexpr int scale_word_offset(int row, int j) {
  return kUnitCodeBytes + row * 16 + j * 4;
}
HALFBYTE_HD constexpr std::uint32_t scale_word(const std::uint8_t (&scales)[4]) {
  const std::uint32_t word =
      static_cast<std::uint32_t>(scales[0]) | static_cast<std::uint32_t>(scales[1]) << 8 |
      static_cast<std::uint32_t>(scales[2]) << 16 | static_cast<std::uint32_t>(scales[3]) << 24;
  return word << 7 | word >> 25;
}
HALFBYTE_HD constexpr std::uint8_t scale_of_word(std::uint32_t word, int index) {
  return static_cast<std::uint8_t>((word >> 7 | word << 25) >> (8 * index));
}
// MXFP4 scales are their bytes.
HALFBYTE_HD constexpr int mxfp4_scale_offset(int row_in_tile, int block) {
  return kUnitCodeBytes + row_in_tile % 8 * 8 + row_in_tile / 8 * 4 + block;
}

// Bytes of a word in memory: little endian, at any address.
HALFBYTE_HD constexpr std::uint32_t load_word(const std::uint8_t* p) {
  return static_cast<std::uint32_t>(p[0]) | static_cast<std::uint32_t>(p[1]) << 8 |
         static_cast<std::uint32_t>(p[2]) << 16 | static_cast<std::uint32_t>(p[3]) << 24;
}
HALFBYTE_HD constexpr void store_word(std::uint32_t word, std::uint8_t* p) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

// What the prepared form of an N x K matrix holds at row n. A negative scale comes back positive,
// with the signs in the codes.
struct PreparedRow {
  const std::uint8_t* units = nullptr;  // the tile's first
  formats::Format format = formats::Format::kNvfp4;
  int row = 0;  // in its tile

  HALFBYTE_HD PreparedRow(const std::uint8_t* prepared, formats::Format of, std::int64_t columns,
                          std::int64_t n)
      : units(prepared + unit_offset(of, columns, n / kTileRows, 0)),
        format(of),
        row(static_cast<int>(n % kTileRows)) {}

  HALFBYTE_HD std::uint8_t code(std::int64_t k) const {
    const std::uint8_t* unit = units + k / kUnitColumns * unit_bytes(format);
    const int column = static_cast<int>(k % kUnitColumns), within = column % 16;
    const SpreadCodes codes =
        spread_of_word(load_word(unit + word_offset(row % 8, within % 8 / 2, column / 16)));
    const std::uint32_t part = within < 8 ? codes.low : codes.high;
    return static_cast<std::uint8_t>(
        code_of_spread(part >> (8 * spread_byte(row, column)) & 0xFFu));
  }
  HALFBYTE_HD std::uint8_t scale(std::int64_t k) const {  // of block k of the row
    const int blocks = unit_blocks(format), block = static_cast<int>(k % blocks);
    const std::uint8_t* unit = units + k / blocks * unit_bytes(format);
    if (format == formats::Format::kMxfp4) return unit[mxfp4_scale_offset(row, block)];
    const std::uint32_t word = load_word(unit + scale_word_offset(row % 8, block / 2));
    return e4m3_of_prepared_scale(scale_of_word(word, row / 8 * 2 + block % 2));
  }
};

// Plain weights, as prepare_weights reads them: code(n, k) and scale(n, block), called for n < rows
// and k < columns alone. Writes one word of codes, or one of scales, of a unit; padding is code 0
// and scale 0 (NVFP4) or 127 (MXFP4).
template <class Weights>
HALFBYTE_HD void prepare_codes(const Weights& weights, std::int64_t tile, std::int64_t slice,
                               int row, int pair, int block, std::uint8_t* unit) {
  SpreadCodes codes;
  const std::int64_t first = slice * kUnitColumns + block * 16 + pair * 2;
  for (int i = 0; i < 8; ++i) {
    const int odd = i & 1, up = i >> 1 & 1, high = i >> 2;
    const std::int64_t n = tile * kTileRows + row + up * 8, k = first + odd + high * 8;
    if (n >= weights.rows || k >= weights.columns) continue;
    std::uint32_t code = weights.code(n, k);
    if (flips_codes(weights.format,
                    weights.scale(n, k / formats::block_elements(weights.format)))) {
      code ^= 8u;
    }
    const std::uint32_t placed = spread_code(code) << (8 * spread_byte(row + up * 8, odd));
    (high != 0 ? codes.high : codes.low) |= placed;
  }
  store_word(word_of_spread(codes), unit + word_offset(row, pair, block));
}
template <class Weights>
HALFBYTE_HD void prepare_scales(const Weights& weights, std::int64_t tile, std::int64_t slice,
                                int row, int index, std::uint8_t* unit) {
  const bool nvfp4 = weights.format == formats::Format::kNvfp4;
  const std::int64_t blocks = weights.columns / formats::block_elements(weights.format);
  const std::int64_t first = slice * unit_blocks(weights.format);
  const auto scale_at = [&](int up, int block) -> std::uint8_t {
    const std::int64_t n = tile * kTileRows + row + up * 8, k = first + block;
    if (n >= weights.rows || k >= blocks) return nvfp4 ? 0 : 127;
    return nvfp4 ? prepared_scale(weights.scale(n, k)) : weights.scale(n, k);
  };
  if (nvfp4) {  // index: a pair of blocks, 0 .. 3
    const std::uint8_t scales[4] = {scale_at(0, 2 * index), scale_at(0, 2 * index + 1),
                                    scale_at(1, 2 * index), scale_at(1, 2 * index + 1)};
    store_word(scale_word(scales), unit + scale_word_offset(row, index));
  } else {  // a block, 0 .. 3
    for (int up = 0; up < 2; ++up)
      unit[mxfp4_scale_offset(row + 8 * up, index)] = scale_at(up, index);
  }
}

}  // namespace halfbyte::ops
