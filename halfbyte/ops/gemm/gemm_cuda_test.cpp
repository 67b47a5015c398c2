// CUDA at sizes that take the decode kernel through its loops (several tiles a block, teams, passes
// over K, groups of tiles, more rows than one launch takes), and the short stream kernel.
#include <gtest/gtest.h>

#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

void expect_equal(const testing::GemmShape& shape, int seeds = 2) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  const auto make = [&](testing::Random& random) {
    return testing::gemm_case(testing::random_gemm(
        random, {.plain_weights = false, .method = GemmMethod::kExact, .any_layout = false},
        shape));
  };
  testing::expect_equals_reference(make, 26'000'000, seeds, runners);
}

TEST(GemmCuda, OneRowManyTiles) {
  expect_equal({.m = 1, .n = 4144, .k = 1024});  // several tiles a block
  expect_equal({.m = 1, .n = 13000, .k = 272});  // teams of eight warps, a ragged slice
  expect_equal({.m = 1, .n = 2200, .k = 8192});  // one pass
}
TEST(GemmCuda, OneRowManyPasses) { expect_equal({.m = 1, .n = 77, .k = 65536}); }
TEST(GemmCuda, OneRowShortPass) {
  expect_equal({.m = 1, .n = 600, .k = 28672});
  expect_equal({.m = 1, .n = 77, .k = 65536 + 48});
}
TEST(GemmCuda, FewRows) {
  expect_equal({.m = 2, .n = 13001, .k = 384});
  expect_equal({.m = 2, .n = 500, .k = 14352});
  expect_equal({.m = 3, .n = 2300, .k = 2064});
  expect_equal({.m = 4, .n = 333, .k = 14352});
  expect_equal({.m = 8, .n = 2130, .k = 1040});
  expect_equal({.m = 7, .n = 140, .k = 28672});
}
TEST(GemmCuda, MoreRows) {
  expect_equal({.m = 16, .n = 2200, .k = 640});
  expect_equal({.m = 13, .n = 90, .k = 14352});
  expect_equal({.m = 32, .n = 2200, .k = 512});
  expect_equal({.m = 25, .n = 70, .k = 14336});
  expect_equal({.m = 71, .n = 200, .k = 2064});  // three launches
  // The reference's groups of tiles: sums of many passes wait in shared memory.
  expect_equal({.m = 9, .n = 16 * 132 * 3, .k = 4720}, 1);
}
// The short stream kernel: A held, copied first, shared by two CTAs; parts of 8 and of 16 slices,
// and smaller ones at the end.
TEST(GemmCuda, ShortKernel) {
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const std::int64_t m : {1, 2, 3, 5, 8, 9, 16}) {
      expect_equal({.format = format, .m = m, .n = 300, .k = 4096}, 1);
    }
    expect_equal({.format = format, .m = 4, .n = 72, .k = 28672}, 1);
    expect_equal({.format = format, .m = 5, .n = 70, .k = 14336}, 1);
    expect_equal({.format = format, .m = 8, .n = 70, .k = 14336}, 1);
    expect_equal({.format = format, .m = 12, .n = 1000, .k = 2560}, 1);
    expect_equal({.format = format, .m = 16, .n = 1100, .k = 8192}, 1);
  }
}
TEST(GemmCuda, ShortKernelManyTiles) {
  expect_equal({.m = 8, .n = 4300, .k = 8192}, 1);
  expect_equal({.m = 16, .n = 2200, .k = 4096}, 1);
  expect_equal({.m = 16, .n = 4300, .k = 8192}, 1);
}

}  // namespace
}  // namespace halfbyte::ops
