// Scale layouts: golden offsets by hand, and bijections on ragged shapes.
#include "halfbyte/formats/scale_layout.h"

#include <gtest/gtest.h>

#include <vector>

namespace halfbyte::formats {
namespace {

constexpr ScaleLayout kLayouts[] = {ScaleLayout::kLinear, ScaleLayout::k128x4, ScaleLayout::k8x4};

// Offsets of a row of 9 scales, so 3 tile columns, worked out from the table of docs/numerics.md.
constexpr std::int64_t swizzled(std::int64_t m, std::int64_t k) {
  return scale_offset(ScaleLayout::k128x4, m, k, 9);
}
static_assert(swizzled(0, 0) == 0);
static_assert(swizzled(0, 3) == 3);
static_assert(swizzled(0, 4) == 512);        // the next tile to the right
static_assert(swizzled(1, 0) == 16);         // neighbours in m are 16 bytes apart
static_assert(swizzled(31, 0) == 496);       // .. up to 32 of them
static_assert(swizzled(32, 0) == 4);         // .. then between the first ones
static_assert(swizzled(96, 1) == 13);        // 3 * 4 + 1
static_assert(swizzled(127, 3) == 511);      // the last byte of a tile
static_assert(swizzled(128, 0) == 3 * 512);  // a tile row holds three tiles
static_assert(swizzled(300, 8) == 8 * 512 + 12 * 16 + 1 * 4 + 0);  // 300 = 2 * 128 + 32 + 12

constexpr std::int64_t narrow(std::int64_t m, std::int64_t k) {
  return scale_offset(ScaleLayout::k8x4, m, k, 9);
}
static_assert(narrow(0, 3) == 3);
static_assert(narrow(0, 4) == 32);
static_assert(narrow(1, 0) == 4);
static_assert(narrow(7, 3) == 31);
static_assert(narrow(8, 0) == 3 * 32);
static_assert(narrow(13, 6) == (1 * 3 + 1) * 32 + 5 * 4 + 2);

static_assert(scale_offset(ScaleLayout::kLinear, 13, 6, 9) == 13 * 9 + 6);
static_assert(scale_position(ScaleLayout::k128x4, 4292, 9) == ScalePosition{300, 8});
static_assert(scale_position(ScaleLayout::k8x4, 150, 9) == ScalePosition{13, 6});
static_assert(scale_position(ScaleLayout::kLinear, 123, 9) == ScalePosition{13, 6});

static_assert(scale_bytes(ScaleLayout::kLinear, 300, 9) == 2700);
static_assert(scale_bytes(ScaleLayout::k128x4, 300, 9) == 384 * 12);
static_assert(scale_bytes(ScaleLayout::k8x4, 300, 9) == 304 * 12);
static_assert(scale_bytes(ScaleLayout::k128x4, 1, 1) == 512);
static_assert(scale_bytes(ScaleLayout::k8x4, 1, 1) == 32);
static_assert(scale_bytes(ScaleLayout::k128x4, 0, 9) == 0);
static_assert(scale_bytes(ScaleLayout::k8x4, 8, 4) == 32);

// 2^31 bytes and more: the arithmetic is 64-bit.
static_assert(scale_offset(ScaleLayout::k128x4, 1 << 20, 0, 8192) == std::int64_t{8192} << 20);

TEST(ScaleLayout, EveryOffsetHoldsExactlyOnePosition) {
  std::vector<std::int64_t> column_counts = {64, 100};
  for (std::int64_t columns = 1; columns <= 9; ++columns) column_counts.push_back(columns);
  for (const ScaleLayout layout : kLayouts) {
    for (const std::int64_t rows : {1, 7, 8, 9, 31, 32, 33, 127, 128, 129, 255, 256, 257, 300}) {
      for (const std::int64_t columns : column_counts) {
        SCOPED_TRACE(std::string(layout_name(layout)) + ", rows " + std::to_string(rows) +
                     ", columns " + std::to_string(columns));
        const std::int64_t bytes = scale_bytes(layout, rows, columns);
        const std::int64_t padded_rows = padded_scale_rows(layout, rows);
        const std::int64_t padded_columns = padded_scale_columns(layout, columns);
        ASSERT_GE(padded_rows, rows);
        ASSERT_GE(padded_columns, columns);
        ASSERT_EQ(bytes, padded_rows * padded_columns);
        std::vector<int> hits(static_cast<std::size_t>(bytes), 0);
        for (std::int64_t m = 0; m < padded_rows; ++m) {
          for (std::int64_t k = 0; k < padded_columns; ++k) {
            const std::int64_t offset = scale_offset(layout, m, k, columns);
            ASSERT_TRUE(offset >= 0 && offset < bytes) << m << ' ' << k;
            ASSERT_EQ(++hits[static_cast<std::size_t>(offset)], 1) << m << ' ' << k;
            ASSERT_EQ(scale_position(layout, offset, columns), (ScalePosition{m, k}));
          }
        }
      }
    }
  }
}

// A slice of whole tile rows of an array is the array of those rows.
TEST(ScaleLayout, TileRowsStandOnTheirOwn) {
  for (const std::int64_t columns : {1, 4, 9}) {
    EXPECT_EQ(scale_offset(ScaleLayout::k128x4, 128 + 5, 0, columns),
              scale_bytes(ScaleLayout::k128x4, 128, columns) +
                  scale_offset(ScaleLayout::k128x4, 5, 0, columns));
    EXPECT_EQ(scale_offset(ScaleLayout::k8x4, 8 + 5, 0, columns),
              scale_bytes(ScaleLayout::k8x4, 8, columns) +
                  scale_offset(ScaleLayout::k8x4, 5, 0, columns));
  }
}

}  // namespace
}  // namespace halfbyte::formats
