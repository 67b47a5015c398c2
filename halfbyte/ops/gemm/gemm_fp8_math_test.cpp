// FP4 rows in E4M3: the power of two of a row, what is exact, how far the rest is off.
#include "halfbyte/ops/gemm/gemm_fp8_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace halfbyte::ops {
namespace {

using formats::Format;

float scale_value(Format format, std::uint8_t scale) {
  return format == Format::kNvfp4 ? formats::e4m3_to_float(scale) : formats::e8m0_to_float(scale);
}
double value_of(Format format, int code, int scale) {
  return static_cast<double>(formats::e2m1_to_float(static_cast<std::uint8_t>(code))) *
         static_cast<double>(scale_value(format, static_cast<std::uint8_t>(scale)));
}
// What the E4M3 code stands for.
double value_of_fp8(Format format, int code, int scale, int shift) {
  return std::ldexp(
      static_cast<double>(formats::e4m3_to_float(fp8_of_fp4(
          format, static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(scale), shift))),
      -shift);
}

TEST(GemmFp8Math, TheLargestScaleFillsTheRange) {
  for (int rank = 1; rank <= 0x7E; ++rank) {
    const double most =
        std::ldexp(value_of(Format::kNvfp4, 7, rank), fp8_shift(Format::kNvfp4, rank));
    EXPECT_GE(most, 192) << rank;
    EXPECT_LE(most, 360) << rank;
  }
  for (int rank = 0; rank <= 254; ++rank) {
    const int shift = fp8_shift(Format::kMxfp4, rank);
    EXPECT_EQ(std::ldexp(value_of(Format::kMxfp4, 7, rank), shift), 384) << rank;
    EXPECT_EQ(static_cast<double>(fp8_factor(shift)), std::ldexp(1.0, -shift)) << rank;
  }
  EXPECT_EQ(fp8_shift(Format::kNvfp4, 0), 0);
}

TEST(GemmFp8Math, NanScalesDoNotCount) {
  EXPECT_EQ(fp8_scale_rank(Format::kNvfp4, 0x7F), 0);
  EXPECT_EQ(fp8_scale_rank(Format::kNvfp4, 0xFF), 0);
  EXPECT_EQ(fp8_scale_rank(Format::kNvfp4, 0xFE), 0x7E);
  EXPECT_EQ(fp8_scale_rank(Format::kMxfp4, 0xFF), 0);
  for (int code = 0; code < 16; ++code) {
    EXPECT_EQ(fp8_of_fp4(Format::kNvfp4, static_cast<std::uint8_t>(code), 0x7F, 3), 0x7F);
    EXPECT_EQ(fp8_of_fp4(Format::kMxfp4, static_cast<std::uint8_t>(code), 0xFF, 3), 0x7F);
  }
}

// docs/numerics.md: half a unit in the last place of E4M3, or of its smallest number where the
// scale is far below the row's largest.
TEST(GemmFp8Math, Nvfp4IsWithinItsBound) {
  int exact = 0, all = 0;
  for (int rank = 1; rank <= 0x7E; ++rank) {
    const int shift = fp8_shift(Format::kNvfp4, rank);
    const double largest = value_of(Format::kNvfp4, 2, rank);  // S
    for (int scale = 0; scale <= 255; ++scale) {
      if ((scale & 0x7F) > rank) continue;
      for (int code = 0; code < 16; ++code) {
        const double v = value_of(Format::kNvfp4, code, scale);
        const double error = std::fabs(value_of_fp8(Format::kNvfp4, code, scale, shift) - v);
        ASSERT_LE(error, std::max(std::ldexp(std::fabs(v), -4), std::ldexp(largest, -15)));
        if (scale == rank) exact += error == 0, ++all;
      }
    }
  }
  // Of the products with a row's largest scale: powers of two times any scale, and scales of few
  // bits times 3.
  EXPECT_GT(exact, all * 3 / 4);
  EXPECT_LT(exact, all);
}

TEST(GemmFp8Math, Mxfp4IsExactOverFifteenBinades) {
  for (int rank = 0; rank <= 254; ++rank) {
    const int shift = fp8_shift(Format::kMxfp4, rank);
    for (int scale = 0; scale <= rank; ++scale) {
      for (int code = 0; code < 16; ++code) {
        const double v = value_of(Format::kMxfp4, code, scale);
        const double error = std::fabs(value_of_fp8(Format::kMxfp4, code, scale, shift) - v);
        if (rank - scale <= 14) {
          ASSERT_EQ(error, 0) << rank << ", " << scale;
        }
        ASSERT_LE(error, std::ldexp(value_of(Format::kMxfp4, 2, rank), -16));
      }
    }
  }
}

}  // namespace
}  // namespace halfbyte::ops
