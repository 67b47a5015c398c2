#include "halfbyte/simt/tile_plan.h"

#include <gtest/gtest.h>

namespace halfbyte::simt {
namespace {

TilePlan plan(std::int64_t rows, std::int64_t columns, bool clusters = true,
              bool updates_rows = false) {
  return tile_plan({.rows = rows,
                    .columns = columns,
                    .multiprocessors = 132,
                    .clusters = clusters,
                    .updates_rows = updates_rows});
}

TEST(TilePlan, EveryRowFits) {
  for (const bool clusters : {false, true}) {
    const std::int64_t most = clusters ? kMostClusterColumns : kMostTileColumns;
    for (std::int64_t columns = 16; columns <= most; columns += 16) {
      for (const std::int64_t rows : {1, 16, 264, 265, 100000}) {
        for (const bool updates_rows : {false, true}) {
          const TilePlan p = plan(rows, columns, clusters, updates_rows);
          ASSERT_TRUE(p) << columns;
          const std::int64_t leaves = columns / 16, of_a_warp = 32 * p.leaves_a_lane;
          const std::int64_t of_a_cta = p.warps * of_a_warp;
          ASSERT_GE(p.cluster * of_a_cta, leaves) << columns;
          // No half of a cluster without leaves, and no warp of a CTA.
          ASSERT_LT(p.cluster / 2 * of_a_cta, leaves) << columns;
          ASSERT_TRUE(p.cluster > 1 || (p.warps - 1) * of_a_warp < leaves) << columns;
          ASSERT_LE(p.threads(), 512);
          ASSERT_TRUE(clusters || p.cluster == 1);
        }
      }
    }
  }
}

TEST(TilePlan, LeavesOtherRowsToTheGeneralKernel) {
  EXPECT_FALSE(plan(16, 4104));
  EXPECT_FALSE(plan(16, 8));
  EXPECT_FALSE(plan(16, kMostTileColumns + 16, false));
  EXPECT_FALSE(plan(16, kMostClusterColumns + 16));
}

TEST(TilePlan, TakesTheKernelsThatThereAre) {
  TileProblem problem{.rows = 16, .columns = 8192, .multiprocessors = 132};
  problem.plain = problem.four_leaves = false;
  EXPECT_EQ(tile_plan(problem), (TilePlan{2, 8, 1, 1, true, false}));
  problem.columns = 32768;
  EXPECT_FALSE(tile_plan(problem));
  problem.four_leaves = true;
  EXPECT_EQ(tile_plan(problem), (TilePlan{4, 16, 1, 1, true, false}));
}

TEST(TilePlan, FewRowsTakeManyWarpsAndMultiprocessors) {
  EXPECT_EQ(plan(16, 2048), (TilePlan{1, 4, 1}));
  EXPECT_EQ(plan(16, 8192), (TilePlan{1, 4, 1, 4}));
  EXPECT_EQ(plan(16, 8192, false), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(128, 8192), (TilePlan{1, 16, 1}));
}

TEST(TilePlan, ManyRows) {
  EXPECT_EQ(plan(16384, 8192), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(16384, 8192, true, true), (TilePlan{2, 8, 1, 1, false}));
  EXPECT_EQ(plan(16384, 16384), (TilePlan{2, 16, 1}));
  EXPECT_EQ(plan(16384, 32768), (TilePlan{2, 16, 1, 2}));
  EXPECT_EQ(plan(16384, 32768, false), (TilePlan{4, 16, 1}));
  EXPECT_EQ(plan(16384, 65536), (TilePlan{2, 16, 1, 4}));
  EXPECT_EQ(plan(16384, 512), (TilePlan{1, 1, 4, 1, true, false}));
}

TEST(TilePlan, Prints) {
  EXPECT_EQ(to_string(plan(16384, 8192)), "1 rows a CTA, 8 warps, 2 leaves a lane");
  EXPECT_EQ(to_string(plan(16, 8192)), "1 rows a CTA, 4 warps, 1 leaves a lane, clusters of 4");
  EXPECT_EQ(to_string(TilePlan()), "general kernel");
}

}  // namespace
}  // namespace halfbyte::simt
