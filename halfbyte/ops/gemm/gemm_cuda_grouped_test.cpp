// Groups of rows (experts) by method = tensor_core on CUDA: within its bound of the exact product,
// the same bits every time, rows of no group +0.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/gemm/gemm_cuda_bounded_testing.h"

#ifdef HALFBYTE_WITH_CUDA
#include <cuda_runtime.h>

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::BoundedCase;
using testing::expect_within_bound;
using testing::has_sm_90;
using testing::Random;
using Offsets = std::vector<std::int32_t>;

// Sorted, perhaps with empty groups, perhaps not of all rows.
Offsets random_offsets(Random& random, std::int64_t m, std::int64_t groups) {
  Offsets offsets;
  for (std::int64_t e = 0; e <= groups; ++e) {
    offsets.push_back(static_cast<std::int32_t>(random.in(0, m)));
  }
  std::sort(offsets.begin(), offsets.end());
  if (!random.one_in(3)) offsets.front() = 0;
  if (!random.one_in(3)) offsets.back() = static_cast<std::int32_t>(m);
  return offsets;
}
Offsets all_in_one(std::int64_t m, std::int64_t groups, std::int64_t one) {
  Offsets offsets(static_cast<std::size_t>(groups + 1), 0);
  for (std::int64_t e = one + 1; e <= groups; ++e)
    offsets[static_cast<std::size_t>(e)] = static_cast<std::int32_t>(m);
  return offsets;
}

BoundedCase random_case(Random& random) {
  BoundedCase of;
  of.format = random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4});
  of.m = random.one_in(3) ? random.in(1, 20) : random.in(1, 300);
  if (random.one_in(4)) of.m = random.in(300, 800);
  of.n = random.one_in(3) ? 256 * random.in(1, 3) : random.in(1, 600);
  of.k = of.block() * random.in(1, random.one_in(3) ? 64 : 12);
  of.a = random.pick({DType::kU8, DType::kU8, DType::kBF16, DType::kF16});
  if (of.format == Format::kMxfp4 && of.a == DType::kF16) of.a = DType::kBF16;
  of.c = random.pick({DType::kF32, DType::kBF16, DType::kF16});
  // Sums of MXFP4 exceed fp16's range; those of NVFP4 are scaled.
  if (of.format == Format::kMxfp4 && of.c == DType::kF16) of.c = DType::kBF16;
  of.bias = random.one_in(2);
  of.layout = static_cast<ScaleLayout>(random.in(0, 2));
  const bool nvfp4 = of.quantized() && of.format == Format::kNvfp4;
  of.encode_per_group = nvfp4 && random.one_in(2);
  of.per_row = nvfp4 && !of.encode_per_group && random.one_in(2);
  if (random.one_in(3)) of.more_a = of.quantized() ? 2 * random.in(1, 9) : 8 * random.in(1, 2);
  if (!of.quantized() && random.one_in(8)) of.more_a = 3;  // A is copied
  if (random.one_in(3)) of.more_c = random.in(1, 16);
  if (random.one_in(2)) {
    of.tokens = random.pick({16, 32, 64, 96, 128});
    of.split = static_cast<int>(random.in(1, 4));
    of.shares = random.one_in(2);
    if (of.shares) of.split = 1;
  }
  const std::int64_t groups = random.one_in(8) ? random.in(30, 70) : random.in(1, 9);
  if (groups > 20) of.n = std::min<std::int64_t>(of.n, 272);
  of.offsets = random.one_in(6) ? all_in_one(of.m, groups, random.in(0, groups - 1))
                                : random_offsets(random, of.m, groups);
  return of;
}

TEST(GemmCudaGrouped, Random) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (std::uint64_t seed = 70'000'000; seed < 70'000'150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    expect_within_bound(random_case(random));
    if (::testing::Test::HasFailure()) break;
  }
}
TEST(GemmCudaGrouped, OneGroupHasAll) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const std::int64_t one : {0, 5, 11}) {
    expect_within_bound({.m = 1100,
                         .n = 768,
                         .k = 272,
                         .c = DType::kBF16,
                         .bias = true,
                         .layout = ScaleLayout::k128x4,
                         .offsets = all_in_one(1100, 12, one)});
  }
}
// The sizes of a model's experts, and more tiles than multiprocessors.
TEST(GemmCudaGrouped, ManyGroups) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  Random random(1);
  for (const std::int64_t m : {8, 100, 700}) {
    BoundedCase of{.m = m, .n = 640, .k = 768, .c = DType::kBF16, .encode_per_group = true};
    of.layout = ScaleLayout::k128x4;
    of.offsets = random_offsets(random, m, 128);
    expect_within_bound(of);
  }
  BoundedCase of{.m = 300, .n = 48, .k = 160, .a = DType::kBF16};
  of.offsets = random_offsets(random, 300, 1024);
  expect_within_bound(of);
}
// Few rows of long K: blocks of a cluster divide it.
TEST(GemmCudaGrouped, DividedK) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const std::int64_t m : {1, 4, 9}) {
    expect_within_bound(
        {.m = m,
         .n = 520,
         .k = 4112,
         .bias = true,
         .offsets = {0, 0, static_cast<std::int32_t>(m / 2), static_cast<std::int32_t>(m / 2),
                     static_cast<std::int32_t>(m)}});
  }
}
TEST(GemmCudaGrouped, NoRowsInGroups) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const DType a : {DType::kU8, DType::kF16}) {
    expect_within_bound(
        {.m = 37, .n = 300, .k = 64, .a = a, .bias = true, .more_c = 4, .offsets = {20, 20, 20}});
  }
}

// One graph; the offsets change between its replays.
TEST(GemmCudaGrouped, ReplayedWithOtherOffsets) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const DType a : {DType::kU8, DType::kBF16}) {
    Random random(2);
    BoundedCase of{.m = 333, .n = 264, .k = 400, .a = a, .c = DType::kBF16, .bias = true};
    of.layout = ScaleLayout::k8x4;
    of.offsets = random_offsets(random, of.m, 12);
    const testing::BoundedOperands operands(of);
    testing::BoundedProduct product(of, operands);
    ASSERT_TRUE(product.ok());
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    const base::Status status = product.launch(stream);
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    for (int replay = 0; replay < 4; ++replay) {
      BoundedCase now = of;
      if (replay > 0) now.offsets = random_offsets(random, of.m, 12);
      if (replay == 2) now.offsets = all_in_one(of.m, 12, 7);
      testing::BoundedOperands changed = operands;
      changed.offsets = now.offsets, changed.scale_offsets = now.scale_offsets();
      product.set_offsets(changed.offsets, changed.scale_offsets);
      product.poison();
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
      SCOPED_TRACE(now.text());
      expect_within_bound(now, changed, product.result());
    }
    EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  }
}

// Offsets in device memory are not looked at: rows whose scales would lie outside are as rows of no
// group, and others as they were.
TEST(GemmCudaGrouped, ScalesOutside) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  BoundedCase of{.m = 60, .n = 256, .k = 64};
  of.offsets = {0, 20, 40, 60};
  const testing::BoundedOperands operands(of);
  testing::BoundedProduct product(of, operands);
  ASSERT_TRUE(product.ok());
  ASSERT_TRUE(product.launch().ok());
  const std::vector<std::uint8_t> all = product.result();
  const auto rows = static_cast<std::int32_t>(operands.a_scales.size()) / 4;  // 4 blocks a row
  product.set_offsets(of.offsets, {-5, 20, rows - 7, 0});
  product.poison();
  ASSERT_TRUE(product.launch().ok());
  const std::vector<std::uint8_t> some = product.result();
  const std::size_t row_bytes = static_cast<std::size_t>(of.n) * 4;
  for (std::size_t row = 0; row < 60; ++row) {
    SCOPED_TRACE(row);
    const bool outside = row < 5 || row >= 47, same = row >= 20 && row < 40;
    const std::vector<std::uint8_t> zeros(row_bytes, 0);
    const auto of_row = [&](const std::vector<std::uint8_t>& c) {
      const auto begin = c.begin() + static_cast<std::ptrdiff_t>(row * row_bytes);
      return std::vector<std::uint8_t>(begin, begin + static_cast<std::ptrdiff_t>(row_bytes));
    };
    EXPECT_EQ(of_row(some) == zeros, outside);
    if (same) {
      EXPECT_EQ(of_row(some), of_row(all));
    }
  }
  // Anything at all: nothing is written outside (compute-sanitizer sees what is read).
  product.set_offsets({60, -1000, 2000000000, 3}, {-2000000000, 2000000000, 7, 0});
  ASSERT_TRUE(product.launch().ok());
  (void)product.result();
}

}  // namespace
}  // namespace halfbyte::ops
#endif
