#include "halfbyte/simt/tile_plan.h"

#include <gtest/gtest.h>

namespace halfbyte::simt {
namespace {

TilePlan plan(std::int64_t rows, std::int64_t columns, bool whole_rows = true,
              bool updates_rows = false, bool plain = true) {
  return tile_plan({.rows = rows,
                    .columns = columns,
                    .multiprocessors = 132,
                    .whole_rows = whole_rows,
                    .updates_rows = updates_rows,
                    .plain = plain});
}

TEST(TilePlan, EveryRowFits) {
  for (std::int64_t columns = 16; columns <= 2 * kMostTileColumns; columns += 16) {
    for (const std::int64_t rows : {1, 16, 66, 264, 265, 100000}) {
      for (int options = 0; options < 8; ++options) {
        const bool whole_rows = (options & 1) != 0;
        const TilePlan p = plan(rows, columns, whole_rows, (options & 2) != 0, (options & 4) != 0);
        ASSERT_EQ(static_cast<bool>(p), !whole_rows || columns <= kMostTileColumns) << columns;
        if (!p) continue;
        const std::int64_t leaves = columns / 16, of_a_warp = 32 * p.leaves_a_lane;
        const std::int64_t of_a_cta = p.warps * of_a_warp;
        ASSERT_GE(p.split * of_a_cta, leaves) << columns;
        // No CTA without leaves, shared rows apart; no warp of the only one.
        ASSERT_TRUE(p.shared || (p.split - 1) * of_a_cta < leaves) << columns;
        ASSERT_LE(p.split, p.shared ? p.warps : leaves);
        ASSERT_TRUE((p.split > 1 && !p.shared) || (p.warps - 1) * of_a_warp < leaves) << columns;
        ASSERT_LE(p.threads(), 512);
        ASSERT_EQ(p.split > 1 && whole_rows, p.shared);
        ASSERT_TRUE(!p.shared || (p.leaves_a_lane == 1 && p.plain && (options & 2) == 0));
        // The kernels that there are.
        ASSERT_TRUE(p.leaves_a_lane != 1 || p.plain || p.rows_a_cta > 1);
        ASSERT_TRUE(p.leaves_a_lane != 4 || whole_rows);
      }
    }
  }
}

TEST(TilePlan, LeavesOtherRowsToTheGeneralKernel) {
  EXPECT_FALSE(plan(16, 4104));
  EXPECT_FALSE(plan(16, 8));
  EXPECT_FALSE(plan(16, kMostTileColumns + 16));
}

TEST(TilePlan, FewRowsTakeManyWarpsAndMultiprocessors) {
  EXPECT_EQ(plan(16, 2048), (TilePlan{1, 4, 1}));
  EXPECT_EQ(plan(16, 4096), (TilePlan{1, 8, 1, 2, true}));
  EXPECT_EQ(plan(16, 8192), (TilePlan{1, 16, 1, 4, true}));
  EXPECT_EQ(plan(16, 8192, true, true), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(34, 8192), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(16, 8192, false), (TilePlan{1, 4, 1, 4}));
  EXPECT_EQ(plan(128, 8192, false), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(16, 8192, true, false, false), (TilePlan{2, 8, 1, 1, false, true, false}));
}

TEST(TilePlan, ManyRows) {
  EXPECT_EQ(plan(16384, 8192), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(16384, 8192, true, true), (TilePlan{2, 8, 1, 1, false, false}));
  EXPECT_EQ(plan(16384, 16384, true, true), (TilePlan{2, 16, 1, 1, false, false}));
  EXPECT_EQ(plan(256, 8192, true, true), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(16384, 16384), (TilePlan{2, 16, 1}));
  EXPECT_EQ(plan(16384, 32768), (TilePlan{4, 16, 1}));
  EXPECT_EQ(plan(16384, 32768, false), (TilePlan{2, 8, 1, 4}));
  EXPECT_EQ(plan(16384, 512), (TilePlan{1, 1, 4, 1, false, true, false}));
}

TEST(TilePlan, Prints) {
  EXPECT_EQ(to_string(plan(16384, 8192)), "1 rows a CTA, 8 warps, 2 leaves a lane");
  EXPECT_EQ(to_string(plan(16, 8192, false)),
            "1 rows a CTA, 4 warps, 1 leaves a lane, 4 CTAs a row");
  EXPECT_EQ(to_string(plan(16, 8192)),
            "1 rows a CTA, 16 warps, 1 leaves a lane, 4 CTAs a row that each read all of it");
  EXPECT_EQ(to_string(plan(16384, 8192, true, true)),
            "1 rows a CTA, 8 warps, 2 leaves a lane, two rows a CTA");
  EXPECT_EQ(to_string(TilePlan()), "general kernel");
}

}  // namespace
}  // namespace halfbyte::simt
