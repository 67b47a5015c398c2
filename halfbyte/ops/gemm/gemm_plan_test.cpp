// gemm_plan: what it chooses, that every choice is compiled and fits, what it says.
#include "halfbyte/ops/gemm/gemm_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

#include "halfbyte/ops/gemm/gemm_decode_layout.h"

namespace halfbyte::ops {
namespace {

const GemmDevice kH200{90, 132, 227 * 1024, ""};

GemmProblem decode_problem(std::int64_t m, std::int64_t n, std::int64_t k) {
  GemmProblem problem;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.quantized = true;
  problem.form = WeightForm::kPrepared;
  problem.a_rows.rows = m;
  problem.a_rows.inner_rows = m;
  problem.a_rows.inner_stride = k / 2;
  return problem;
}

GemmPlan plan_of(const GemmProblem& problem, const GemmDevice& device = kH200) {
  const base::Result<GemmPlan> plan = gemm_plan(problem, device);
  EXPECT_TRUE(plan.ok());
  return plan.ok() ? plan.value() : GemmPlan{};
}

TEST(GemmPlan, EveryDecodeShapeIsCompiledAndFits) {
  for (const std::int64_t n : {1, 16, 100, 4096, 6144, 28672, 57344, 200000}) {
    for (const std::int64_t k : {16, 128, 272, 4096, 8192, 14336, 28672, 65536}) {
      for (int m = 1; m <= kDecodeMaxTokens + 1; ++m) {
        GemmProblem problem = decode_problem(m, n, k);
        problem.method = GemmMethod::kExact;
        const GemmPlan plan = plan_of(problem);
        ASSERT_EQ(plan.kind, GemmKernelKind::kDecode) << to_string(plan);
        const DecodePlan& decode = plan.decode;
        EXPECT_NE(std::find(std::begin(kDecodeShapes), std::end(kDecodeShapes), decode.shape),
                  std::end(kDecodeShapes));
        EXPECT_GE(decode.shape.tokens(), std::min(m, kDecodeMaxTokens));
        EXPECT_LE(decode.shared_bytes, kH200.shared_bytes);
        EXPECT_GE(decode.stages, 1);
        EXPECT_LE(decode.stages, kDecodeMaxStages);
        EXPECT_GE(decode.rounds * decode.shape.warps_k * decode.shape.slices(), decode.slices);
        EXPECT_EQ(decode.block_tiles * decode.blocks + decode.more_tiles, decode.tiles);
        EXPECT_EQ(plan.launches, m <= kDecodeMaxTokens ? 1 : 2);
      }
    }
  }
}

TEST(GemmPlan, WhatTheDecodeKernelDoesNotTake) {
  const auto why = [](const GemmProblem& problem, const GemmDevice& device = kH200) {
    const GemmPlan plan = plan_of(problem, device);
    EXPECT_EQ(plan.kind, GemmKernelKind::kAny);
    return plan.why;
  };
  GemmProblem problem = decode_problem(1, 64, 128);
  problem.form = WeightForm::kPlain;
  EXPECT_NE(why(problem).find("not prepared"), std::string::npos);
  problem = decode_problem(1, 64, 128);
  problem.quantized = false;
  EXPECT_NE(why(problem).find("not quantized"), std::string::npos);
  problem = decode_problem(1, 64, 128);
  problem.format = Format::kMxfp4;
  EXPECT_NE(why(problem).find("NVFP4"), std::string::npos);
  problem = decode_problem(4, 64, 128);
  problem.groups = 2;
  EXPECT_NE(why(problem).find("groups"), std::string::npos);
  EXPECT_NE(why(decode_problem(1, 64, 128), {80, 108, 163 * 1024, ""}).find("sm_90"),
            std::string::npos);
  EXPECT_NE(why(decode_problem(1, 64, 128), {120, 170, 30 * 1024, ""}).find("shared memory"),
            std::string::npos);
}

TEST(GemmPlan, MethodsThatAreNotThere) {
  GemmProblem problem = decode_problem(1, 64, 128);
  for (const GemmMethod method : {GemmMethod::kFp8, GemmMethod::kBlockScaled}) {
    problem.method = method;
    const base::Result<GemmPlan> plan = gemm_plan(problem, kH200);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(plan.status().code(), base::StatusCode::kUnsupported);
    EXPECT_NE(plan.status().message().find("method"), std::string::npos);
  }
}

TEST(GemmPlan, Dequantize) {
  // Plain weights: the tensor-core kernel does not take them.
  GemmProblem problem = decode_problem(kDequantizeRows - 1, 64, 128);
  problem.form = WeightForm::kPlain;
  EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kAny);
  problem.m = kDequantizeRows;
  EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kDequantize);
  const GemmDevice without{100, 132, 227 * 1024, "no library"};
  problem = decode_problem(kDequantizeRows, 64, 128);
  EXPECT_EQ(plan_of(problem, without).kind, GemmKernelKind::kDecode);
  problem.method = GemmMethod::kExact;
  EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kDecode);
  problem.m = 1;
  problem.method = GemmMethod::kDequantize;
  EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kDequantize);
  EXPECT_NE(gemm_plan(problem, without).status().message().find("no library"), std::string::npos);
  problem.groups = 3;
  EXPECT_NE(gemm_plan(problem, kH200).status().message().find("groups"), std::string::npos);
}

TEST(GemmPlan, SaysWhatItIs) {
  EXPECT_EQ(to_string(plan_of(decode_problem(1, 28672, 4096))),
            "decode 1 tokens, 4 slices a warp, 8 warps along K, 1 rounds, 2 stages, 132 blocks of "
            "162560 bytes, 1 launch: prepared NVFP4 weights, exact blocks on fp16 tensor cores");
}

}  // namespace
}  // namespace halfbyte::ops
