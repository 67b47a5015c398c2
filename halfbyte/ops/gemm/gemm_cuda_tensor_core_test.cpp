// method = tensor_core on CUDA: within its bound of the exact product, the same bits every time,
// nothing written beside C.
#include <gtest/gtest.h>

#include <vector>

#include "halfbyte/ops/gemm/gemm_cuda_bounded_testing.h"
#include "halfbyte/ops/gemm/gemm_device.h"

#ifdef HALFBYTE_WITH_CUDA

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::BoundedCase;
using testing::expect_within_bound;
using testing::has_sm_90;

TEST(GemmCudaTensorCore, Quantized) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    expect_within_bound({.m = 1, .n = 32, .k = 32, .format = format});
    expect_within_bound({.m = 16, .n = 256, .k = 1024, .format = format, .c = DType::kBF16});
    expect_within_bound({.m = 65, .n = 96, .k = 288, .format = format, .bias = true});
    expect_within_bound({.m = 40, .n = 300, .k = 2048, .format = format, .more_c = 4});
    expect_within_bound({.m = 200,
                         .n = 520,
                         .k = 416,
                         .format = format,
                         .c = DType::kBF16,
                         .bias = true,
                         .layout = ScaleLayout::k128x4});
    expect_within_bound({.m = 130, .n = 77, .k = 160, .format = format, .more_a = 6, .more_c = 3});
  }
  expect_within_bound({.m = 97, .n = 256, .k = 4096, .c = DType::kBF16, .per_row = true});
  expect_within_bound({.m = 300, .n = 1024, .k = 272, .c = DType::kBF16, .per_row = true});
}
TEST(GemmCudaTensorCore, SixteenBits) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  expect_within_bound({.m = 33, .n = 128, .k = 256, .a = DType::kBF16});
  expect_within_bound({.m = 70, .n = 100, .k = 528, .a = DType::kF16, .c = DType::kBF16});
  expect_within_bound({.m = 70, .n = 512, .k = 4096, .a = DType::kBF16, .c = DType::kBF16});
  expect_within_bound({.m = 19,
                       .n = 264,
                       .k = 1040,
                       .a = DType::kBF16,
                       .c = DType::kBF16,
                       .more_a = 8,
                       .more_c = 8});
  expect_within_bound({.m = 19, .n = 264, .k = 1040, .a = DType::kF16, .more_a = 3});  // copied
  expect_within_bound(
      {.m = 150, .n = 300, .k = 1056, .format = Format::kMxfp4, .a = DType::kBF16, .bias = true});
}
// Few rows: the stream kernel.
TEST(GemmCudaTensorCore, SixteenBitsFewRows) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const DType a : {DType::kBF16, DType::kF16}) {
      expect_within_bound({.m = 1, .n = 300, .k = 4096, .format = format, .a = a, .bias = true});
      expect_within_bound({.m = 1, .n = 40, .k = 32, .format = format, .a = a});
      expect_within_bound({.m = 5, .n = 4400, .k = 1056, .format = format, .a = a});
      expect_within_bound(
          {.m = 8, .n = 270, .k = 8224, .format = format, .a = a, .c = DType::kBF16});
      expect_within_bound(
          {.m = 7, .n = 100, .k = 544, .format = format, .a = a, .more_a = 3, .more_c = 2});
      expect_within_bound({.m = 3, .n = 64, .k = 28672, .format = format, .a = a, .more_a = 8});
      expect_within_bound({.m = 8, .n = 100, .k = 14336, .format = format, .a = a});
      expect_within_bound({.m = 7, .n = 100, .k = 28672, .format = format, .a = a});
    }
  }
}
// A row of C depends on its row of A alone.
TEST(GemmCudaTensorCore, SixteenBitsRowsAlone) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const std::int64_t m : {2, 5, 8}) {
      const BoundedCase of{.m = m, .n = 1100, .k = 2080, .format = format, .a = DType::kBF16};
      const testing::BoundedOperands operands(of);
      const auto product = [](const BoundedCase& what, const testing::BoundedOperands& with) {
        testing::BoundedProduct computed(what, with);
        EXPECT_TRUE(computed.launch().ok());
        return computed.result();
      };
      const std::vector<std::uint8_t> all = product(of, operands);
      for (const std::int64_t row : {std::int64_t{0}, m / 2, m - 1}) {
        BoundedCase alone = of;
        alone.m = 1;
        testing::BoundedOperands one = operands;
        one.x.assign(operands.x.begin() + row * of.k, operands.x.begin() + (row + 1) * of.k);
        const auto begin = all.begin() + row * of.n * 4;
        EXPECT_EQ(product(alone, one), std::vector<std::uint8_t>(begin, begin + of.n * 4));
      }
    }
  }
}
// More tiles than multiprocessors: blocks that take several.
TEST(GemmCudaTensorCore, ManyTiles) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  expect_within_bound({.m = 1100, .n = 4096, .k = 144, .a = DType::kBF16, .c = DType::kBF16});
  expect_within_bound({.m = 700, .n = 8200, .k = 160, .c = DType::kBF16, .per_row = true});
}

// Every height of a tile, with K divided in every way, whatever a plan would choose.
TEST(GemmCudaTensorCore, EveryPlan) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const TensorCoreShape& shape : kTensorCoreShapes) {
    for (int split = 1; split <= kTensorCoreMaxSplit; ++split) {
      for (const bool shares : {false, true}) {
        if (shares && split > 1) continue;
        for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
          BoundedCase of{.m = 230, .n = 520, .k = 1184, .format = format, .c = DType::kBF16};
          of.bias = split == 2;
          of.tokens = shape.tokens, of.warps = shape.warps;
          of.split = split, of.shares = shares;
          GemmProblem sizes;
          sizes.format = format, sizes.m = of.m, sizes.n = of.n, sizes.k = of.k;
          if (plan_tensor_core(sizes, {}, shape, split, shares).tokens == 0) continue;
          expect_within_bound(of);
          of.a = DType::kBF16;
          if (split == 1) expect_within_bound(of);
        }
      }
    }
  }
}
// Few tiles of many slices, and more tiles than blocks, the last ones shared.
TEST(GemmCudaTensorCore, SharedTiles) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const TensorCoreShape& shape : kTensorCoreShapes) {
    BoundedCase of{.m = 5, .n = 300, .k = 20000};
    of.tokens = shape.tokens, of.warps = shape.warps, of.shares = true;
    expect_within_bound(of);
    of.m = shape.tokens * 2 - 3, of.n = 256 * 70 + 100, of.k = 400, of.c = DType::kBF16;
    expect_within_bound(of);
    of.a = DType::kF16, of.more_a = 3;  // copied
    expect_within_bound(of);
    of = {.m = 1, .n = 16, .k = 16};  // fewer slices than blocks
    of.tokens = shape.tokens, of.warps = shape.warps, of.shares = true;
    expect_within_bound(of);
  }
}

}  // namespace
}  // namespace halfbyte::ops
#endif
