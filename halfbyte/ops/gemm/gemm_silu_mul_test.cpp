// gemm_silu_mul_quantize on products whose gate_up is known: values by hand, NaN, groups, one row
// whatever the others are; and what the CUDA plan asks of the workspace.
#include <gtest/gtest.h>

#include <cmath>

#include "halfbyte/formats/e4m3.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_plan.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_testing.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::TensorSet;
using testing::TestTensor;

constexpr std::uint8_t kOne = 0x38;  // E4M3

// gate_up of one row is what the rows of B are: A is 1 in its first column and 0 beyond, B's first
// column has the codes given, and row n of it the block scale given.
struct Picked {
  std::int64_t m, n;
  TensorSet set;
  GemmSiluMulQuantizeArgs args;

  Picked(std::int64_t rows, const std::vector<std::uint8_t>& codes,
         const std::vector<std::uint8_t>& scales, Format format = Format::kFp8)
      : m(rows), n(static_cast<std::int64_t>(codes.size())) {
    args.product.a_packed.rows = m;
    args.product.a_packed.columns = args.product.b.columns = 16;
    args.product.a_packed.codes = add("a_codes", DType::kU8, {m, 8});
    args.product.a_packed.scales = add("a_scales", DType::kU8, {m, 1});
    args.product.b.rows = n;
    args.product.b.codes = add("b_codes", DType::kU8, {n, 8});
    args.product.b.scales = add("b_scales", DType::kU8, {n, 1});
    for (std::int64_t row = 0; row < m; ++row) {
      testing::set_bits(set.view("a_codes"), row * 8, 2);  // 1.0, and zeros
      for (int byte = 1; byte < 8; ++byte) {
        testing::set_bits(set.view("a_codes"), row * 8 + byte, 0);
      }
      testing::set_bits(set.view("a_scales"), row, kOne);
    }
    for (std::int64_t row = 0; row < n; ++row) {
      for (int byte = 0; byte < 8; ++byte) {
        testing::set_bits(set.view("b_codes"), row * 8 + byte, 0x77);
      }
      testing::set_bits(set.view("b_codes"), row * 8, codes[static_cast<std::size_t>(row)]);
      testing::set_bits(set.view("b_scales"), row, scales[static_cast<std::size_t>(row)]);
    }
    args.spec.format = format;
    args.spec.scale = ScaleMode::kTensor;
    args.out.codes = add("codes", DType::kU8, {m, formats::code_bytes(format, n / 2)});
    if (format == Format::kFp8) {
      args.given.decode_scale = add("decode_scale", DType::kF32, {1});
      testing::fill(args.given.decode_scale, {1.0f});
    } else {
      args.out.scales = add("scales", DType::kU8, {m * n / 32});
    }
  }
  TensorView add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(dtype, std::move(shape)));
    return set.view(name);
  }
  // y as FP8 codes with d = 1.
  std::vector<float> values() {
    const base::Status status = gemm_silu_mul_quantize(args);
    EXPECT_TRUE(status.ok()) << status.message();
    std::vector<float> y;
    for (const std::uint8_t code : testing::bytes(set.view("codes"))) {
      y.push_back(formats::e4m3_to_float(code));
    }
    return y;
  }
};

// Codes of 1, 2, 6 and -6: gates of 6 * 2^6 have a sigmoid of 1, of -6 * 2^6 one of 0.
constexpr std::uint8_t kCode1 = 2, kCode2 = 4, kCode6 = 7, kCodeMinus6 = 15, kCode0 = 0;
constexpr std::uint8_t kTimes64 = 0x68;

TEST(GemmSiluMul, ByHand) {
  // Columns of gate_up: gates 384, -384, 0; ups 1/4 (a scale of 1/4), 1, 2.
  const std::vector<std::uint8_t> codes = {kCode6, kCodeMinus6, kCode0, kCode1, kCode1, kCode2};
  const std::vector<std::uint8_t> scales = {kTimes64, kTimes64, kOne, 0x28, kOne, kOne};
  Picked halves(1, codes, scales);
  EXPECT_EQ(halves.values(), (std::vector<float>{96, -0.0f, 0}));
  halves.args.activation.clamp = 16.0f;  // E4M3(16 / 4 * sig(16)); -384 stays below
  EXPECT_EQ(halves.values(), (std::vector<float>{4, -0.0f, 0}));
  halves.args.activation.up_bias = 1.0f;
  EXPECT_EQ(halves.values(), (std::vector<float>{20, -0.0f, 0}));
  // The same in pairs.
  Picked pairs(1, {kCode6, kCode1, kCodeMinus6, kCode1, kCode0, kCode2},
               {kTimes64, 0x28, kTimes64, kOne, kOne, kOne});
  pairs.args.activation.interleave = 1;
  EXPECT_EQ(pairs.values(), (std::vector<float>{96, -0.0f, 0}));
}

// The product is rounded to T before the activation: 1 + 2^-10 is 1 in bf16, and 1 + 2^-10 in fp16.
TEST(GemmSiluMul, RoundsToTheType) {
  Picked call(1, std::vector<std::uint8_t>(32, kCode1), std::vector<std::uint8_t>(32, kOne),
              Format::kNvfp4);
  call.args.product.bias = call.add("bias", DType::kF32, {32});
  testing::fill(call.args.product.bias, {std::ldexp(1.0f, -10)});
  call.args.spec.scale = ScaleMode::kRow;
  call.args.out.row_scale = call.add("row_scale", DType::kF32, {1});
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    call.args.dtype = dtype;
    ASSERT_TRUE(gemm_silu_mul_quantize(call.args).ok());
    TensorSet expected;
    expected.add("gate_up", TestTensor(dtype, {1, 32}));
    expected.add("y", TestTensor(dtype, {1, 16}));
    testing::fill(expected.view("gate_up"), {1 + std::ldexp(1.0f, -10)});
    ASSERT_TRUE(silu_mul({expected.view("gate_up"), {}, expected.view("y")}).ok());
    EXPECT_EQ(testing::get(call.set.view("row_scale"), 0),
              testing::get(expected.view("y"), 0) / 2688);
  }
}

TEST(GemmSiluMul, NanScaleReachesItsColumnAlone) {
  std::vector<std::uint8_t> scales(64, kOne);
  scales[20] = 0x7F;  // the gate of column 20: the second block of y
  Picked call(2, std::vector<std::uint8_t>(64, kCode2), scales, Format::kNvfp4);
  ASSERT_TRUE(gemm_silu_mul_quantize(call.args).ok());
  const std::vector<std::uint8_t> blocks = testing::bytes(call.set.view("scales"));
  const std::vector<std::uint8_t> codes = testing::bytes(call.set.view("codes"));
  for (std::size_t row = 0; row < 2; ++row) {
    EXPECT_EQ(blocks[2 * row + 1], 0x7F);
    EXPECT_EQ(codes[16 * row + 8], 0x77);
    EXPECT_NE(blocks[2 * row], 0x7F);
  }
}

// A row of no group is +0 in gate_up, without bias: its y is 0 * up_bias.
TEST(GemmSiluMul, RowsOfNoGroup) {
  Picked call(3, std::vector<std::uint8_t>(32, kCode2), std::vector<std::uint8_t>(32, kOne),
              Format::kNvfp4);
  const auto offsets = [&](const char* name, std::vector<std::uint32_t> values) {
    const TensorView view = call.add(name, DType::kI32, {2});
    for (int i = 0; i < 2; ++i) testing::set_bits(view, i, values[static_cast<std::size_t>(i)]);
    return view;
  };
  call.args.product.bias = call.add("bias", DType::kF32, {32});
  testing::fill(call.args.product.bias, {1.0f});
  call.args.activation.up_bias = -1.0f;
  call.args.product.groups = {.row_offsets = offsets("row_offsets", {1, 2}),
                              .scale_row_offsets = offsets("scale_row_offsets", {0, 1}),
                              .count = 1};
  ASSERT_TRUE(gemm_silu_mul_quantize(call.args).ok());
  // 3 * sigmoid(3) * (3 - 1) is 5.72 in bf16, and 5.72 / 6 is 0x37 in E4M3.
  EXPECT_EQ(testing::bytes(call.set.view("scales")), (std::vector<std::uint8_t>{0, 0x37, 0}));
  const std::vector<std::uint8_t> codes = testing::bytes(call.set.view("codes"));
  EXPECT_EQ(codes[0], 0x88);  // -0
  EXPECT_EQ(codes[8], 0x77);
  // By group: a row of none has codes 0, and its scales are nowhere.
  call.args.out_scale_row_offsets = offsets("out_scale_row_offsets", {2, 3});
  ASSERT_TRUE(gemm_silu_mul_quantize(call.args).ok());
  // 3 * sigmoid(3) * (3 - 1) is 5.72 in bf16, and 5.72 / 6 is 0x37 in E4M3.
  EXPECT_EQ(testing::bytes(call.set.view("scales")), (std::vector<std::uint8_t>{0, 0, 0x37}));
  EXPECT_EQ(testing::bytes(call.set.view("codes"))[0], 0);
}

// Row 37 of 70 is what it is alone, whatever the threads.
TEST(GemmSiluMul, ARowDependsOnItselfAlone) {
  testing::Random random(7);
  testing::GateUpCase test;
  do {  // one scale for all, or one a row that is its own
    test = random_gate_up(random, {}, {.m = 70, .k = 1040}, 96);
  } while (test.spec.scale == ScaleMode::kComputed || test.spec.layout != ScaleLayout::kLinear ||
           test.spec.format == Format::kFp8 || test.spec.second_layout ||
           test.product.args.a_packed.layout != ScaleLayout::kLinear ||
           (test.set().view("global_scale") && test.set().view("global_scale").numel() > 1) ||
           (test.set().view("a_scale") && test.set().view("a_scale").numel() > 1));
  const TensorSet all = test.set().clone();
  base::Execution execution;
  execution.num_threads = 2;
  ASSERT_TRUE(run_gate_up(test, all, execution).ok());
  GemmSiluMulQuantizeArgs one = gate_up_args(test, all);
  const auto row_of = [](TensorView& view, std::int64_t row, std::int64_t rows) {
    const std::int64_t stride = view.ndim == 1 ? view.numel() / rows : view.strides[0];
    view.data = view.as<std::byte>() + row * stride * base::dtype_bytes(view.dtype);
    view.shape[0] = view.ndim == 1 ? stride : 1;
  };
  one.product.a_packed.rows = 1;
  row_of(one.product.a_packed.codes, 37, 70);
  row_of(one.product.a_packed.scales, 37, 70);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(one.out.codes.shape[1])),
      scales(static_cast<std::size_t>(one.out.scales.numel() / 70));
  std::vector<float> row_scale(1);
  row_of(one.out.codes, 37, 70);
  row_of(one.out.scales, 37, 70);
  const std::vector<std::uint8_t> expected_codes = testing::bytes(one.out.codes),
                                  expected_scales = testing::bytes(one.out.scales);
  one.out.codes = TensorView(codes.data(), DType::kU8, {1, one.out.codes.shape[1]});
  one.out.scales = TensorView(scales.data(), DType::kU8, {one.out.scales.shape[0]});
  if (one.out.row_scale) one.out.row_scale = TensorView(row_scale.data(), DType::kF32, {1});
  for (const int threads : {1, 3}) {
    execution.num_threads = threads;
    const base::Status status = gemm_silu_mul_quantize(one, execution);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(codes, expected_codes);
    EXPECT_EQ(scales, expected_scales);
  }
}

// Rows in three parts, the largest value in the first of them, or in the second, or in the last.
TEST(GemmSiluMul, ComputedScaleIsThatOfAllParts) {
  constexpr std::int64_t kParts = 129, kLong = 32768;
  for (const std::int64_t largest : {3, 70, 128}) {
    TensorSet set;
    const auto add = [&](const char* name, DType dtype, std::vector<std::int64_t> shape) {
      set.add(name, TestTensor(dtype, std::move(shape)));
      return set.view(name);
    };
    GemmSiluMulQuantizeArgs args;
    args.product.a = add("a", DType::kBF16, {kParts, kLong});
    args.product.b.rows = 32;
    args.product.b.columns = kLong;
    args.product.b.codes = add("b_codes", DType::kU8, {32, kLong / 2});
    args.product.b.scales = add("b_scales", DType::kU8, {32, kLong / 16});
    testing::fill(args.product.a, {0.0f});
    for (std::int64_t row = 0; row < kParts; ++row) {
      testing::set(args.product.a, row * kLong, row == largest ? 2.0f : 1.0f);
    }
    for (std::int64_t i = 0; i < 32 * kLong / 2; ++i) {
      testing::set_bits(args.product.b.codes, i, i % (kLong / 2) == 0 ? kCode1 : 0);
    }
    for (std::int64_t i = 0; i < 32 * kLong / 16; ++i) {
      testing::set_bits(args.product.b.scales, i, kOne);
    }
    args.spec.scale = ScaleMode::kComputed;
    args.out.codes = add("codes", DType::kU8, {kParts, 8});
    args.out.scales = add("scales", DType::kU8, {kParts, 1});
    args.out.global_scale = add("global_scale", DType::kF32, {1});
    args.out.decode_scale = add("decode_scale", DType::kF32, {1});
    ASSERT_TRUE(gemm_silu_mul_quantize(args).ok());

    TensorSet expected;  // y of a row of twos
    expected.add("gate_up", TestTensor(DType::kBF16, {1, 32}));
    expected.add("y", TestTensor(DType::kBF16, {1, 16}));
    testing::fill(expected.view("gate_up"), {2.0f});
    ASSERT_TRUE(silu_mul({expected.view("gate_up"), {}, expected.view("y")}).ok());
    EXPECT_EQ(testing::get(args.out.decode_scale, 0), testing::get(expected.view("y"), 0) / 2688);
    for (const std::int64_t row : {std::int64_t{0}, largest, kParts - 1}) {
      // 448 of the largest, 448 * 0.731 / 3.52 (93.0) of the others.
      EXPECT_EQ(testing::get_bits(args.out.scales, row), row == largest ? 0x7Eu : 0x6Cu) << row;
    }
  }
}

TEST(GemmSiluMulPlan, WhatOneKernelTakes) {
  GateUpProblem good;
  good.product.quantized = true;
  good.product.form = WeightForm::kPrepared;
  good.product.m = kGateUpMaxTokens;
  good.product.n = 28672;
  good.product.k = 4096;
  good.product.a_rows = {.rows = 8, .inner_rows = 8, .inner_stride = 2048};
  good.product.c_dtype = DType::kBF16;
  good.product.c_rows = {.rows = 8, .inner_rows = 8, .inner_stride = 28672};
  const auto plan_of = [](const GateUpProblem& problem) {
    const base::Result<GateUpPlan> plan = gate_up_plan(problem, {});
    EXPECT_TRUE(plan.ok());
    return plan.ok() ? plan.value() : GateUpPlan{};
  };
  const GateUpPlan plan = plan_of(good);
  EXPECT_EQ(plan.kind, GateUpKernelKind::kStream) << to_string(plan);
  EXPECT_LE(plan.stream.shared_bytes, GemmDevice{}.shared_bytes);
  EXPECT_EQ(plan.stream.block_tiles * plan.stream.blocks + plan.stream.more_tiles, 28672 / 32);
  const auto expect_composed = [&](const GateUpProblem& problem, const char* why) {
    const GateUpPlan composed = plan_of(problem);
    EXPECT_EQ(composed.kind, GateUpKernelKind::kComposed);
    EXPECT_NE(composed.why.find(why), std::string::npos) << composed.why;
  };
  GateUpProblem problem = good;
  problem.interleave = 1;
  expect_composed(problem, "interleaved");
  problem = good;
  problem.target.format = Format::kMxfp4;
  expect_composed(problem, "NVFP4");
  problem = good;
  problem.target.mode = ScaleMode::kRow;
  expect_composed(problem, "scale");
  problem = good;
  problem.product.groups = kGateUpMaxTokens;  // a row each
  expect_composed(problem, "groups");
  problem = good;
  problem.product.m = kGateUpMaxTokens + 1;
  expect_composed(problem, "rows");
}

TEST(GemmSiluMulPlan, ComposedHasTheProductInTheWorkspace) {
  GateUpProblem problem;
  problem.product.quantized = true;
  problem.product.form = WeightForm::kPrepared;
  problem.product.m = 3;
  problem.product.n = 64;
  problem.product.k = 256;
  problem.product.a_rows = {.rows = 3, .inner_rows = 3, .inner_stride = 128};
  problem.product.c_dtype = DType::kBF16;
  problem.product.c_rows = {.rows = 3, .inner_rows = 3, .inner_stride = 64};
  problem.interleave = 8;
  const base::Result<GateUpPlan> plan = gate_up_plan(problem, {});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan.value().kind, GateUpKernelKind::kComposed);
  EXPECT_EQ(plan.value().product.kind, GemmKernelKind::kStream);
  EXPECT_EQ(to_string(plan.value()).find("product, then activation"), 0u);
  const ComposedWorkspace plain = composed_workspace(problem, 300);
  EXPECT_EQ(plain.gate_up, 512u);
  EXPECT_EQ(plain.total, 512u + 3 * 64 * 2);
  problem.target.mode = ScaleMode::kComputed;
  const ComposedWorkspace computed = composed_workspace(problem, 300);
  EXPECT_EQ(computed.amax, 512u);
  EXPECT_EQ(computed.gate_up, 768u);
  problem.product.method = GemmMethod::kBlockScaled;
  EXPECT_FALSE(gate_up_plan(problem, {}).ok());
}

}  // namespace
}  // namespace halfbyte::ops
