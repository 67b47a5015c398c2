// gemm_plan: what it chooses, that every choice is compiled and fits, what it says.
#include "halfbyte/ops/gemm/gemm_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "halfbyte/ops/gemm/gemm_decode_layout.h"
#include "halfbyte/ops/gemm/gemm_stream_layout.h"

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
  problem.c_rows = {m, m, n, 0};
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
        if (plan.kind == GemmKernelKind::kStream) {  // the short kernel is the faster one
          EXPECT_TRUE(m <= kStreamMaxTokens && plan.stream.simple);
          continue;
        }
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

// The short kernels for groups.
void expect_sound_groups(const GemmProblem& problem, const StreamPlan& stream) {
  EXPECT_EQ(stream.rounds * stream.split, 1);
  EXPECT_EQ(stream.full.slices, stream.slices);
  EXPECT_GE(stream.group_tiles, 1);
  const int row_bytes = stream.slices * kStreamGroupStride * 4;
  EXPECT_LE(stream.part_offset + stream.group_tiles * stream.chunk_rows * row_bytes,
            stream.shared_bytes);
  if (stream.chunk_blocks == 0) {
    for (int rows = 1; rows <= stream.chunk_rows; ++rows) {
      EXPECT_GE(stream.row_tiles[rows - 1], stream.group_tiles);
      EXPECT_LE(stream.part_offset + stream.row_tiles[rows - 1] * rows * row_bytes,
                stream.shared_bytes);
    }
    return;
  }
  EXPECT_LE(problem.groups, kStreamTokenGroups);
  EXPECT_EQ(stream.chunk_rows, std::min<std::int64_t>(problem.m, kStreamTokenRows));
  // Chunks have a row at least; all but the last of a group have kStreamTokenRows.
  EXPECT_LE(
      stream.chunk_blocks * std::min(problem.m, problem.groups + problem.m / kStreamTokenRows),
      stream.blocks);
  EXPECT_GE(stream.chunk_blocks * stream.group_tiles, stream.tiles);
  EXPECT_LE(stream.group_tiles * stream.slices, (kStreamWarps - 1) * kStreamTokenSlices);
}

// What the kernel relies on, for any sizes.
void expect_sound(const GemmProblem& problem, const GemmDevice& device) {
  GemmPlan plan;
  plan.kind = GemmKernelKind::kStream;
  ASSERT_EQ(no_stream(problem, device), nullptr);
  plan.stream = plan_stream(problem, device);
  const StreamPlan& stream = plan.stream;
  SCOPED_TRACE(to_string(plan));
  if (stream.simple && stream.chunks == 0) {
    EXPECT_LE(stream.shared_bytes, device.shared_bytes);
    expect_sound_groups(problem, stream);
    return;
  }
  EXPECT_TRUE(stream.token_tiles == 1 || stream.token_tiles == 2);
  EXPECT_LE(stream.chunk_rows, stream.token_tiles * 8);
  EXPECT_LE(stream.shared_bytes, device.shared_bytes);
  EXPECT_EQ(stream.stages, kStreamStages);
  EXPECT_EQ(stream.blocks % stream.split, 0);
  EXPECT_TRUE(stream.rounds == 1 || stream.split == 1);
  if (stream.simple) {
    EXPECT_EQ(stream.buffers, 1);
    EXPECT_EQ(stream.split * stream.full.slices, stream.slices);
    EXPECT_LE(stream.blocks / stream.split, tensor_core_clusters(device, stream.split));
  }
  const int pieces = stream.rounds * stream.split;
  EXPECT_GE(pieces * stream.full.slices, stream.slices);
  EXPECT_LT((pieces - 1) * stream.full.slices, stream.slices);  // the last has some
  if (stream.rounds > 1) {                                      // its sum is a node of the tree
    EXPECT_EQ(stream.full.slices & (stream.full.slices - 1), 0);
    EXPECT_GE(1 << stream.levels, stream.rounds);
  }
  if (pieces > 1) {  // whole parts
    EXPECT_EQ(stream.full.slices % (stream.simple ? 1 << stream.part_shift : kStreamPartSlices), 0);
  }
  if (stream.buffers == 1) {  // one phase
    EXPECT_EQ(stream.rounds, 1);
    EXPECT_EQ(stream.chunks, 1);
    EXPECT_GE(stream.group_tiles * (stream.blocks / stream.split), stream.tiles);
  }
}

TEST(GemmPlan, EveryStreamPlanIsSound) {
  for (const std::int64_t n : {1, 16, 100, 4096, 6144, 28672, 57344, 200000}) {
    for (const std::int64_t k : {32, 128, 288, 4096, 8192, 14336, 28672, 65536, 524288}) {
      for (const int m : {1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 64, 1000}) {
        for (const int groups : {0, 3, 128}) {
          for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
            for (const bool quantized : {true, false}) {
              GemmProblem problem = decode_problem(m, n, k);
              problem.format = format;
              problem.quantized = quantized;
              problem.groups = groups;
              problem.method = quantized ? GemmMethod::kExact : GemmMethod::kTensorCore;
              expect_sound(problem, kH200);
            }
          }
        }
      }
    }
  }
  expect_sound(decode_problem(1, 4096, 4096), {80, 108, 163 * 1024, ""});
  expect_sound(decode_problem(32, 4096, 28672), {89, 128, 99 * 1024, ""});
}

TEST(GemmPlan, WhatNoFastKernelTakes) {
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
  problem.method = GemmMethod::kExact;
  EXPECT_NE(why(problem).find("W4A16"), std::string::npos);
  EXPECT_NE(why(decode_problem(1, 64, 128), {75, 72, 64 * 1024, ""}).find("sm_80"),
            std::string::npos);
  EXPECT_NE(why(decode_problem(1, 64, 128), {120, 170, 30 * 1024, ""}).find("shared memory"),
            std::string::npos);
}

TEST(GemmPlan, WhatTheStreamKernelTakes) {
  const auto kind = [](const GemmProblem& problem, const GemmDevice& device = kH200) {
    return plan_of(problem, device).kind;
  };
  GemmProblem problem = decode_problem(kStreamMaxTokens, 4096, 4096);
  EXPECT_EQ(kind(problem), GemmKernelKind::kStream);
  problem = decode_problem(kStreamMaxTokens, 4096, 28672);  // A's fragments do not fit
  EXPECT_EQ(kind(problem), GemmKernelKind::kDecode);
  EXPECT_EQ(kind(problem, {80, 108, 163 * 1024, ""}), GemmKernelKind::kStream);
  problem.groups = 100;
  EXPECT_EQ(kind(problem), GemmKernelKind::kStream);
  problem = decode_problem(16, 4096, 4096);
  problem.format = Format::kMxfp4;
  EXPECT_EQ(kind(problem), GemmKernelKind::kStream);
  problem.quantized = false;
  problem.m = kTensorCoreFromRows16Bit - 1;
  EXPECT_EQ(kind(problem), GemmKernelKind::kStream);
  problem.method = GemmMethod::kTensorCore;
  EXPECT_EQ(kind(problem), GemmKernelKind::kStream);
}

std::string refusal(const GemmProblem& problem, const GemmDevice& device) {
  const base::Result<GemmPlan> plan = gemm_plan(problem, device);
  EXPECT_FALSE(plan.ok());
  if (plan.ok()) return to_string(plan.value());
  EXPECT_EQ(plan.status().code(), base::StatusCode::kUnsupported);
  return plan.status().message();
}

TEST(GemmPlan, Fp8) {
  GemmProblem problem = decode_problem(1, 77, 272);
  problem.method = GemmMethod::kFp8;
  for (const int capability : {89, 90, 100, 120}) {
    EXPECT_EQ(to_string(plan_of(problem, {capability, 132, 227 * 1024, ""})),
              "fp8, cuBLASLt: demanded");
  }
  problem.form = WeightForm::kPlain;
  problem.quantized = false;
  problem.format = Format::kMxfp4;
  EXPECT_EQ(plan_of(problem).kind, GemmKernelKind::kFp8);
  EXPECT_EQ(refusal(problem, {80, 108, 163 * 1024, ""}),
            "method: fp8: the device has no FP8 tensor cores (sm_89)");
  EXPECT_EQ(refusal(problem, {90, 132, 227 * 1024, "no library"}), "method: fp8: no library");
  problem.groups = 2;
  EXPECT_EQ(refusal(problem, kH200), "method: fp8: rows are in groups");
  problem.groups = 0;
  problem.k = 0;
  EXPECT_EQ(refusal(problem, kH200), "method: fp8: K is 0");
}

TEST(GemmPlan, BlockScaled) {
  const GemmDevice kB200{100, 148, 227 * 1024, ""};
  GemmProblem problem = decode_problem(4096, 64, 128);
  EXPECT_NE(plan_of(problem, kB200).kind, GemmKernelKind::kBlockScaled);  // auto leaves it alone
  problem.method = GemmMethod::kBlockScaled;
  problem.form = WeightForm::kPlain;
  problem.a_layout = problem.b_layout = ScaleLayout::k128x4;
  problem.b_rows = {64, 64, 64, 0};
  for (const int capability : {100, 103, 120}) {
    EXPECT_EQ(to_string(plan_of(problem, {capability, 148, 99 * 1024, ""})),
              "block_scaled, cuBLASLt: demanded");
  }
  const auto refused = [&](const char* says, const auto& change) {
    GemmProblem changed = problem;
    change(changed);
    EXPECT_NE(refusal(changed, kB200).find(std::string("method: block_scaled: ") + says),
              std::string::npos)
        << says;
  };
  EXPECT_EQ(refusal(problem, kH200),
            "method: block_scaled: the device has no FP4 tensor cores (sm_100 on)");
  refused("rows are in groups", [](GemmProblem& p) { p.groups = 2; });
  refused("A is not quantized", [](GemmProblem& p) { p.quantized = false; });
  refused("the format is not NVFP4", [](GemmProblem& p) { p.format = Format::kMxfp4; });
  refused("the weights are prepared", [](GemmProblem& p) { p.form = WeightForm::kPrepared; });
  refused("the scales of a", [](GemmProblem& p) { p.a_layout = ScaleLayout::kLinear; });
  refused("the scales of b", [](GemmProblem& p) { p.b_layout = ScaleLayout::k8x4; });
  refused("K and N", [](GemmProblem& p) { p.n = 48; });
  refused("K and N", [](GemmProblem& p) { p.k = 144; });
  refused("rows of codes", [](GemmProblem& p) { p.a_rows.inner_stride = 80; });
  refused("rows of codes", [](GemmProblem& p) { p.b_rows.inner_stride = 80; });
  EXPECT_EQ(refusal(problem, {100, 148, 227 * 1024, "no library"}),
            "method: block_scaled: no library");
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
  EXPECT_EQ(
      to_string(plan_of(decode_problem(16, 57344, 8192))),
      "decode 16 tokens, 2 slices a warp, 16 warps along K, 2 rounds, 2 stages, 132 blocks of "
      "226048 bytes, 1 launch: prepared NVFP4 weights, exact blocks on fp16 tensor cores");
  GemmProblem values = decode_problem(1, 28672, 4096);
  values.quantized = false;
  values.x_rows = {1, 1, 4096, 0};
  EXPECT_EQ(
      to_string(plan_of(values)),
      "stream 1 rows at a time, 14 tiles by 32 slices a phase, 1 rounds, clusters of 1, 2 "
      "stages, 132 blocks of 87552 bytes, short: prepared weights, A in 16 bits on fp16 tensor "
      "cores, bounded");
}

}  // namespace
}  // namespace halfbyte::ops
