#include "halfbyte/simt/tile_plan.h"

#include <gtest/gtest.h>

namespace halfbyte::simt {
namespace {

TilePlan plan(std::int64_t rows, std::int64_t columns, bool memory_bound = false) {
  return tile_plan(
      {.rows = rows, .columns = columns, .multiprocessors = 132, .memory_bound = memory_bound});
}

TEST(TilePlan, EveryRowFitsOnceAndNoWarpIsIdle) {
  for (std::int64_t columns = 16; columns <= kMostTileColumns; columns += 16) {
    for (const std::int64_t rows : {1, 264, 265, 100000}) {
      for (const bool memory_bound : {false, true}) {
        const TilePlan p = plan(rows, columns, memory_bound);
        ASSERT_TRUE(p) << columns;
        const std::int64_t leaves = columns / 16, of_a_warp = 32 * p.leaves_a_lane;
        EXPECT_GE(p.warps * of_a_warp, leaves) << columns;
        EXPECT_LT((p.warps - 1) * of_a_warp, leaves) << columns;
        EXPECT_LE(p.threads(), 512);
      }
    }
  }
}

TEST(TilePlan, LeavesOtherRowsToTheGeneralKernel) {
  EXPECT_FALSE(plan(16, 4104));
  EXPECT_FALSE(plan(16, 8));
  EXPECT_FALSE(plan(16, kMostTileColumns + 16));
}

TEST(TilePlan, FewRowsTakeManyWarps) {
  EXPECT_EQ(plan(16, 8192), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(16384, 8192), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(16384, 8192, true), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(16384, 16384), (TilePlan{2, 16, 1}));
  EXPECT_EQ(plan(16384, 32768), (TilePlan{4, 16, 1}));
  EXPECT_EQ(plan(16384, 512), (TilePlan{1, 1, 4}));
}

TEST(TilePlan, Prints) {
  EXPECT_EQ(to_string(plan(16384, 8192)), "1 rows a CTA, 8 warps a row, 2 leaves a lane");
  EXPECT_EQ(to_string(TilePlan()), "general kernel");
}

}  // namespace
}  // namespace halfbyte::simt
