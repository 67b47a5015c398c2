#include "halfbyte/simt/row_plan.h"

#include <gtest/gtest.h>

namespace halfbyte::simt {
namespace {

TEST(RowPlan, ThreadsCoverAShortRowWithOnePass) {
  EXPECT_EQ(row_plan(1, 16), (RowPlan{32, 1}));
  EXPECT_EQ(row_plan(1, 512), (RowPlan{32, 1}));
  EXPECT_EQ(row_plan(3, 528), (RowPlan{64, 3}));
  EXPECT_EQ(row_plan(3, 2048), (RowPlan{128, 3}));
  EXPECT_EQ(row_plan(3, 1 << 20), (RowPlan{256, 3}));
}

TEST(RowPlan, NoRowsNothingToLaunch) { EXPECT_EQ(row_plan(0, 4096).ctas, 0); }

TEST(RowPlan, MoreRowsThanAGridHolds) {
  EXPECT_EQ(row_plan(std::int64_t{1} << 40, 16).ctas, 2147483647);
}

TEST(RowPlan, Prints) { EXPECT_EQ(to_string(row_plan(7, 4096)), "7 CTAs of 256 threads"); }

}  // namespace
}  // namespace halfbyte::simt
