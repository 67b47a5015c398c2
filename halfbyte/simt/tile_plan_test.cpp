#include "halfbyte/simt/tile_plan.h"

#include <gtest/gtest.h>

namespace halfbyte::simt {
namespace {

constexpr std::int64_t kShared = 227 * 1024;   // of sm_90
constexpr std::int64_t kLongest = 112 * 1024;  // columns of 2 bytes in it

TilePlan plan(std::int64_t rows, std::int64_t columns, bool whole_rows = true,
              bool updates_rows = false, bool plain = true) {
  return tile_plan({.rows = rows,
                    .columns = columns,
                    .multiprocessors = 132,
                    .shared_bytes = kShared,
                    .whole_rows = whole_rows,
                    .updates_rows = updates_rows,
                    .plain = plain});
}

TilePlan general(TilePlan plan) {
  plan.plain = false;
  return plan;
}

TEST(TilePlan, EveryRowFits) {
  for (std::int64_t columns = 16; columns <= 2 * 65536; columns += 16) {
    for (const std::int64_t rows : {1, 16, 66, 264, 265, 100000}) {
      for (int options = 0; options < 8; ++options) {
        const bool whole_rows = (options & 1) != 0;
        const TilePlan p = plan(rows, columns, whole_rows, (options & 2) != 0, (options & 4) != 0);
        ASSERT_EQ(static_cast<bool>(p), !whole_rows || columns <= kLongest) << columns;
        if (!p) continue;
        if (p.shared_bytes != 0) {
          ASSERT_TRUE(whole_rows && columns > 32768) << columns;
          ASSERT_GE(p.shared_bytes, columns * 2);
          const std::int64_t ctas = 32 / p.warps;
          ASSERT_LE(ctas * (p.shared_bytes + kLongRowScratchBytes + 1024), kShared + 1024);
          ASSERT_TRUE(p.leaves_a_lane == 2 && p.split == 1);
          continue;
        }
        const std::int64_t leaves = columns / 16, of_a_warp = 32 * p.leaves_a_lane;
        const std::int64_t of_a_cta = p.warps * of_a_warp;
        ASSERT_GE(p.split * of_a_cta, leaves) << columns;
        // No CTA without leaves, shared rows apart; no warp of the only one.
        ASSERT_TRUE(p.shared || (p.split - 1) * of_a_cta < leaves) << columns;
        ASSERT_LE(p.split, p.shared ? p.warps : leaves);
        ASSERT_TRUE((p.split > 1 && !p.shared) || p.pipelined || (p.warps - 1) * of_a_warp < leaves)
            << columns;
        ASSERT_TRUE(!p.pipelined || (p.plain && p.warps * 3 * 32 < leaves)) << columns;
        ASSERT_LE(p.threads(), 512);
        ASSERT_EQ(p.split > 1 && whole_rows, p.shared);
        ASSERT_TRUE(!p.shared || (p.plain && (options & 2) == 0));
        // The kernels that there are.
        ASSERT_TRUE(p.leaves_a_lane != 1 || p.plain || p.rows_a_cta > 1);
      }
    }
  }
}

TEST(TilePlan, LeavesOtherRowsToTheGeneralKernel) {
  EXPECT_FALSE(plan(16, 4104));
  EXPECT_FALSE(plan(16, 8));
  EXPECT_FALSE(plan(16, kLongest + 16));
}

TEST(TilePlan, FewRowsTakeManyWarpsAndMultiprocessors) {
  EXPECT_EQ(plan(16, 2048), (TilePlan{1, 4, 1}));
  EXPECT_EQ(plan(16, 4096), (TilePlan{1, 8, 1, 2, true}));
  EXPECT_EQ(plan(16, 8192), (TilePlan{1, 16, 1, 4, true}));
  EXPECT_EQ(plan(16, 8192, true, true), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(34, 8192), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(16, 8192, false), (TilePlan{1, 4, 1, 4}));
  EXPECT_EQ(plan(128, 8192, false), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(256, 28672, false), (TilePlan{1, 4, 1, 14}));
  EXPECT_EQ(plan(16, 8192, true, false, false), general({2, 8, 1}));
}

TEST(TilePlan, FewLongerRowsToo) {
  EXPECT_EQ(plan(16, 16384), (TilePlan{2, 16, 1, 8, true}));
  EXPECT_EQ(plan(32, 16384), (TilePlan{2, 16, 1, 4, true}));
  EXPECT_EQ(plan(1, 28672), (TilePlan{4, 14, 1, 7, true}));
  EXPECT_EQ(plan(1, 28672, true, true), (TilePlan{4, 14, 1}));
}

// A sum on sm_90: a row over a cluster.
TEST(TilePlan, FewLongRowsTakeClusters) {
  const auto norm = [](std::int64_t rows, std::int64_t columns, bool updates_rows = false,
                       bool row_scales = false) {
    return tile_plan({.rows = rows,
                      .columns = columns,
                      .multiprocessors = 132,
                      .shared_bytes = kShared,
                      .updates_rows = updates_rows,
                      .row_scales = row_scales,
                      .clusters = true});
  };
  const auto cluster = [](int leaves_a_lane, int warps, int ctas) {
    TilePlan result{leaves_a_lane, warps, 1, ctas};
    result.cluster = true;
    return result;
  };
  EXPECT_EQ(norm(1, 28672), cluster(1, 7, 8));
  EXPECT_EQ(norm(66, 32768), cluster(1, 8, 8));
  EXPECT_FALSE(norm(67, 32768).cluster);
  EXPECT_EQ(norm(33, 16384), cluster(1, 4, 8));
  EXPECT_FALSE(norm(34, 16384).cluster);
  EXPECT_FALSE(norm(1, 12288).cluster);
  EXPECT_EQ(norm(66, 8192, true), cluster(1, 4, 4));
  EXPECT_FALSE(norm(67, 8192, true).cluster);
  EXPECT_EQ(norm(132, 16384, true), cluster(1, 4, 8));
  EXPECT_FALSE(norm(133, 16384, true).cluster);
  EXPECT_FALSE(norm(1, 5120, true).cluster);
  EXPECT_EQ(norm(33, 28672, false, true), cluster(1, 7, 8));
  EXPECT_FALSE(norm(34, 28672, true, true).cluster);
  EXPECT_FALSE(norm(1, 16384, true, true).cluster);
  // Longer than what shared memory holds, too.
  EXPECT_EQ(norm(33, 65536), cluster(2, 8, 8));
  EXPECT_EQ(norm(1, 128 * 1024, true, true), cluster(2, 16, 8));
  EXPECT_FALSE(norm(1, 128 * 1024 + 16));
  EXPECT_FALSE(norm(0, 28672).cluster);
  for (std::int64_t columns = 5136; columns <= 128 * 1024; columns += 16) {
    const TilePlan p = norm(1, columns, true);
    ASSERT_TRUE(p.cluster && p.warps <= 16 && p.split <= 8) << columns;
    ASSERT_GE(p.split * p.warps * p.leaves_a_lane * 512, columns);
  }
}

TEST(TilePlan, ManyRows) {
  EXPECT_EQ(plan(16384, 8192), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(16384, 1536), (TilePlan{1, 3, 1}));
  EXPECT_EQ(plan(16384, 8192, true, true), (TilePlan{2, 8, 1, 1, false, 2}));
  EXPECT_EQ(plan(16384, 16384, true, true), (TilePlan{2, 16, 1, 1, false, 2}));
  EXPECT_EQ(plan(256, 8192, true, true), (TilePlan{1, 16, 1}));
  EXPECT_EQ(plan(500, 8192, true, true), (TilePlan{2, 8, 1}));
  EXPECT_EQ(plan(3000, 4096, true, true), (TilePlan{2, 4, 1, 1, false, 1}));
  EXPECT_EQ(plan(132, 32768), (TilePlan{4, 16, 1}));
  TilePlan pipelined{4, 16, 1};
  pipelined.pipelined = true;
  EXPECT_EQ(plan(16384, 32768), pipelined);
  EXPECT_EQ(plan(133, 28672), pipelined);
  EXPECT_EQ(plan(16384, 24592), pipelined);
  EXPECT_EQ(plan(16384, 24576), (TilePlan{4, 12, 1}));
  EXPECT_EQ(plan(16384, 28672, true, true), (TilePlan{4, 14, 1}));
  EXPECT_EQ(plan(16384, 16384), (TilePlan{2, 16, 1}));
  EXPECT_EQ(plan(16384, 32768, false), (TilePlan{2, 4, 1, 8}));
  EXPECT_EQ(plan(16384, 28672, false), (TilePlan{2, 4, 1, 7}));
  EXPECT_EQ(plan(16384, 512), general({1, 1, 4}));
}

TEST(TilePlan, LongRows) {
  // 80 KiB of a row: two CTAs a multiprocessor; 128 KiB: one; few rows: one, larger.
  EXPECT_EQ(plan(4096, 40960).shared_bytes, 80 * 1024);
  EXPECT_EQ(plan(4096, 40960).warps, 16);
  EXPECT_EQ(plan(132, 40960).warps, 32);
  EXPECT_EQ(plan(4096, 65536).warps, 32);
  EXPECT_EQ(plan(4096, 65536).shared_bytes, 128 * 1024);
  // What is updated too, where both fit.
  EXPECT_EQ(plan(4096, 40960, true, true).shared_bytes, 160 * 1024);
  EXPECT_TRUE(plan(4096, 40960, true, true).stages_updated);
  EXPECT_FALSE(plan(4096, 65536, true, true).stages_updated);
}

// A norm that is not quantized: a CTA a row, but for few rows a multiprocessor.
TEST(TilePlan, RowsThatAreOnlyWritten) {
  const auto norm = [](std::int64_t rows, std::int64_t columns, bool updates_rows = false) {
    return tile_plan({.rows = rows,
                      .columns = columns,
                      .multiprocessors = 132,
                      .shared_bytes = kShared,
                      .updates_rows = updates_rows,
                      .quantizes = false});
  };
  EXPECT_EQ(norm(16384, 4096), (TilePlan{1, 8, 1, 1, false, 0, true}));
  EXPECT_EQ(norm(16384, 8192), (TilePlan{2, 8, 1, 1, false, 0, true}));
  EXPECT_EQ(norm(16384, 8192, true), (TilePlan{1, 16, 1, 1, false, 0, true}));
  EXPECT_EQ(norm(128, 8192), (TilePlan{1, 16, 1, 1, false, 0, true}));
  EXPECT_EQ(norm(1024, 5120), (TilePlan{2, 5, 1}));
  EXPECT_EQ(norm(16, 8192), (TilePlan{1, 16, 1, 4, true}));
  EXPECT_EQ(norm(4096, 32768).shared_bytes, 64 * 1024);
}

TEST(TilePlan, Prints) {
  EXPECT_EQ(to_string(plan(16384, 8192)), "1 rows a CTA, 8 warps, 2 leaves a lane");
  EXPECT_EQ(to_string(plan(16, 8192, false)),
            "1 rows a CTA, 4 warps, 1 leaves a lane, 4 CTAs a row");
  EXPECT_EQ(to_string(plan(16, 8192)),
            "1 rows a CTA, 16 warps, 1 leaves a lane, 4 CTAs a row that each read all of it");
  EXPECT_EQ(to_string(plan(16384, 8192, true, true)),
            "1 rows a CTA, 8 warps, 2 leaves a lane, rows one after the other: 2");
  EXPECT_EQ(to_string(plan(16384, 40960)),
            "1 rows a CTA, 16 warps, 2 leaves a lane, in shared memory");
  EXPECT_EQ(to_string(TilePlan()), "general kernel");
}

}  // namespace
}  // namespace halfbyte::simt
