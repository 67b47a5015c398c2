// plan_tensor_core: when it is taken, that what it chooses fits, what it says.
#include "halfbyte/ops/gemm/gemm_tensor_core_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

#include "halfbyte/ops/gemm/gemm_plan.h"

namespace halfbyte::ops {
namespace {

const GemmDevice kH200{90, 132, 227 * 1024, ""};

GemmProblem prepared(std::int64_t m, std::int64_t n, std::int64_t k,
                     Format format = Format::kNvfp4) {
  GemmProblem problem;
  problem.format = format;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.form = WeightForm::kPrepared;
  return problem;
}

GemmPlan plan_of(const GemmProblem& problem, const GemmDevice& device = kH200) {
  const base::Result<GemmPlan> plan = gemm_plan(problem, device);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return plan.ok() ? plan.value() : GemmPlan{};
}

TEST(GemmTensorCorePlan, FitsAndCoversAll) {
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const std::int64_t m : {1, 16, 17, 33, 64, 65, 128, 200, 1024, 16384}) {
      for (const std::int64_t n : {1, 255, 256, 4096, 6144, 10240, 28672, 57344}) {
        for (const std::int64_t k : {32, 128, 160, 4096, 14336, 28672}) {
          const TensorCorePlan plan = plan_tensor_core(prepared(m, n, k, format), kH200);
          const TensorCoreShape shape{plan.tokens, plan.warps};
          ASSERT_NE(std::find(std::begin(kTensorCoreShapes), std::end(kTensorCoreShapes), shape),
                    std::end(kTensorCoreShapes));
          ASSERT_LE(plan.shared_bytes, kH200.shared_bytes);
          ASSERT_GE(plan.stages, 2);
          ASSERT_LE(plan.stages, kTensorCoreMaxStages);
          ASSERT_GE(std::int64_t{plan.tiles_m} * plan.tokens, m);
          ASSERT_GE(std::int64_t{plan.tiles_n} * plan.rows(), n);
          ASSERT_GE(std::int64_t{plan.slices} * kSliceColumns, k);
          ASSERT_GE(plan.split, 1);
          ASSERT_LE(plan.split, std::min(plan.slices, kTensorCoreMaxSplit));
          ASSERT_EQ(plan.blocks % plan.split, 0);
          if (plan.split > 1) {  // one tile a cluster, all at once
            ASSERT_EQ(plan.blocks, plan.tiles_m * plan.tiles_n * plan.split);
            ASSERT_LE(plan.tiles_m * plan.tiles_n, tensor_core_clusters(kH200, plan.split));
            ASSERT_GE(
                plan.stages * tensor_core_stage_bytes(format, {plan.tokens, plan.warps}),
                (plan.tokens / 16 + plan.split - 1) / plan.split * plan.split * plan.rows() * 64);
          } else {
            ASSERT_LE(plan.blocks, kH200.multiprocessors);
          }
          ASSERT_GE(plan.group_m, 1);
        }
      }
    }
  }
}

TEST(GemmTensorCorePlan, WhatAutoTakes) {
  GemmProblem problem = prepared(kTensorCoreFromRows, 4096, 4096);
  problem.quantized = true;
  EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kTensorCore);
  problem.m = kTensorCoreFromRows - 1;
  EXPECT_NE(plan_of(problem).kind, GemmKernelKind::kTensorCore);
  problem.method = GemmMethod::kTensorCore;
  EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kTensorCore);
  problem.m = 1000;
  problem.method = GemmMethod::kExact;
  EXPECT_NE(plan_of(problem).kind, GemmKernelKind::kTensorCore);
}

// W4A16 has two kernels for tensor cores.
TEST(GemmTensorCorePlan, WhatAutoTakesOf16Bits) {
  for (const GemmMethod method : {GemmMethod::kAuto, GemmMethod::kTensorCore}) {
    GemmProblem problem = prepared(kTensorCoreFromRows16Bit, 4096, 4096);
    problem.method = method;
    EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kTensorCore);
    problem.m = kTensorCoreFromRows16Bit - 1;
    EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kStream);
    problem.m = 64;
    EXPECT_EQ(plan_of(problem, {80, 108, 163 * 1024, "no library"}).kind, GemmKernelKind::kStream);
    problem.format = Format::kMxfp4;
    problem.x_dtype = base::DType::kF16;
    EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kStream);
  }
}

TEST(GemmTensorCorePlan, WhatItDoesNotTake) {
  const auto why = [](const GemmProblem& problem, const GemmDevice& device = kH200) {
    GemmProblem demanded = problem;
    demanded.method = GemmMethod::kTensorCore;
    const base::Result<GemmPlan> plan = gemm_plan(demanded, device);
    EXPECT_FALSE(plan.ok());
    return std::string(plan.status().message());
  };
  GemmProblem good = prepared(64, 256, 256);
  good.quantized = true;
  EXPECT_NE(why(good, {80, 108, 163 * 1024, ""}).find("sm_90"), std::string::npos);
  EXPECT_NE(why(good, {100, 148, 227 * 1024, ""}).find("sm_90"), std::string::npos);
  EXPECT_NE(why(good, {90, 132, 227 * 1024, "", false}).find("sm_90a"), std::string::npos);
  EXPECT_NE(why(good, {90, 132, 20 * 1024, ""}).find("shared memory"), std::string::npos);
  GemmProblem problem = good;
  problem.form = WeightForm::kPlain;
  EXPECT_NE(why(problem).find("not prepared"), std::string::npos);
  problem = good;
  problem.groups = kTensorCoreMaxGroups + 1;
  EXPECT_NE(why(problem).find("groups"), std::string::npos);
  problem.groups = kTensorCoreMaxGroups;  // 20 KiB of shared memory
  problem.method = GemmMethod::kTensorCore;
  EXPECT_NE(why(problem, {90, 132, 60 * 1024, ""}).find("shared memory"), std::string::npos);
}

TEST(GemmTensorCorePlan, GroupsFit) {
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const std::int64_t groups : {1, 7, 128, kTensorCoreMaxGroups}) {
      for (const std::int64_t m : {1, 8, 128, 1000, 131072}) {
        for (const std::int64_t k : {32, 768, 2048}) {
          GemmProblem problem = prepared(m, 1536, k, format);
          problem.groups = groups;
          const TensorCorePlan plan = plan_tensor_core(problem, kH200);
          ASSERT_NE(plan.tokens, 0);
          ASSERT_EQ(plan.warps, kTensorCoreMaxWarps);
          ASSERT_EQ(plan.groups, groups);
          ASSERT_LE(plan.shared_bytes, kH200.shared_bytes);
          ASSERT_GE(plan.stages, 2);
          ASSERT_GE(plan.blocks, 1);
          // Rows as unevenly spread as can be: one each, and one group the rest.
          const std::int64_t alone = std::min(m, groups) - 1;
          ASSERT_GE(plan.tiles_m, alone + (m - alone + plan.tokens - 1) / plan.tokens);
          if (plan.split > 1) {
            ASSERT_LE(plan.tiles_m * plan.tiles_n, tensor_core_clusters(kH200, plan.split));
          }
        }
      }
    }
  }
}

TEST(GemmTensorCorePlan, WhatAutoTakesOfGroups) {
  constexpr std::int64_t kGroups = 16;
  for (const bool quantized : {true, false}) {
    GemmProblem problem = prepared(0, 1536, 2048);
    problem.groups = kGroups;
    problem.quantized = quantized;
    problem.m = kGroups * (quantized ? kTensorCoreFromGroupRows : kTensorCoreFromGroupRows16Bit);
    EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kTensorCore);
    EXPECT_NE(to_string(plan_of(problem)).find("a group, on average"), std::string::npos);
    EXPECT_EQ(plan_of(problem, {80, 108, 163 * 1024, ""}).kind, GemmKernelKind::kStream);
    problem.groups = kTensorCoreMaxGroups + 1;
    EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kStream);
    problem.groups = kGroups;
    --problem.m;
    EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kStream);
    // Demanded: W4A16 of few rows has the stream kernel, which is one for tensor cores.
    problem.method = GemmMethod::kTensorCore;
    EXPECT_EQ(plan_of(problem).kind,
              quantized ? GemmKernelKind::kTensorCore : GemmKernelKind::kStream);
    problem.m = 100000;
    problem.method = GemmMethod::kExact;
    EXPECT_NE(plan_of(problem).kind, GemmKernelKind::kTensorCore);
  }
}

// Where tiles of 256 rows of N would leave multiprocessors idle.
TEST(GemmTensorCorePlan, NarrowTiles) {
  const auto rows_of = [](std::int64_t m, std::int64_t n, std::int64_t k) {
    GemmProblem problem = prepared(m, n, k);
    problem.quantized = true;
    return plan_tensor_core(problem, kH200).rows();
  };
  EXPECT_EQ(rows_of(64, 4096, 4096), 128);
  EXPECT_EQ(rows_of(256, 6144, 4096), 192);
  EXPECT_EQ(rows_of(1024, 4096, 4096), 256);
  GemmProblem groups = prepared(64, 4096, 4096);
  groups.groups = 2;
  EXPECT_EQ(plan_tensor_core(groups, kH200, {64, 8}, 1).tokens, 0);  // whole tiles alone
}

TEST(GemmTensorCorePlan, SaysWhatItIs) {
  EXPECT_EQ(to_string(plan_tensor_core(prepared(64, 28672, 4096), kH200)),
            "tensor_core 64 tokens by 256, 1 x 112 tiles, 32 slices in 1 part, 6 stages, 112 "
            "blocks of 226432 bytes");
  GemmProblem problem = prepared(2048, 1536, 2048);
  problem.groups = 128;
  EXPECT_EQ(to_string(plan_tensor_core(problem, kH200)),
            "tensor_core 32 tokens by 256, 128 groups, at most 188 x 6 tiles, 16 slices in 1 part, "
            "7 stages, 132 blocks of 206464 bytes");
}

}  // namespace
}  // namespace halfbyte::ops
