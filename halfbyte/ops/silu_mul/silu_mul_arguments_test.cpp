// Every argument that silu_mul and silu_mul_quantize refuse: the message names it, and nothing is
// written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/ops/common/testing.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::StatusCode;
using testing::TensorSet;
using testing::TestTensor;

constexpr std::int64_t kRows = 4, kColumns = 64;  // of y
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Call {
  TensorSet set;
  SiluMulQuantizeArgs args;
  TensorView y;
  Execution execution;

  Call() {
    args.gate_up = add("gate_up", DType::kBF16, {kRows, 2 * kColumns});
    y = add("y", DType::kBF16, {kRows, kColumns});
    args.spec.scale = ScaleMode::kRow;
    args.out.codes = add("codes", DType::kU8, {kRows, kColumns / 2});
    args.out.scales = add("scales", DType::kU8, {kRows * kColumns / 16});
    args.out.row_scale = add("row_scale", DType::kF32, {kRows});
    testing::fill(args.gate_up, {1, 2, 3, -4});
  }
  TensorView add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(dtype, std::move(shape)));
    return set.view(name);
  }
  base::Status fused() const { return silu_mul_quantize(args, execution); }
  base::Status plain() const { return silu_mul({args.gate_up, args.activation, y}, execution); }
};

using Change = std::function<void(Call&)>;

void expect_error(const char* argument, const Call& call, const base::Status& status,
                  const TensorSet& before) {
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << argument << ": " << status.message();
  EXPECT_NE(status.message().find(std::string(argument) + ": expected "), std::string::npos)
      << "no \"" << argument << "\" in: " << status.message();
  EXPECT_EQ(testing::first_difference(before, call.set), "") << status.message();
}

void fused_refused(const char* argument, const Change& change) {
  Call call;
  change(call);
  const TensorSet before = call.set.clone();
  expect_error(argument, call, call.fused(), before);
}
void plain_refused(const char* argument, const Change& change) {
  Call call;
  change(call);
  const TensorSet before = call.set.clone();
  expect_error(argument, call, call.plain(), before);
}
// Both operators refuse it.
void refused(const char* argument, const Change& change) {
  fused_refused(argument, change);
  plain_refused(argument, change);
}
void accepted(const Change& change) {
  Call call;
  change(call);
  const base::Status fused = call.fused();
  EXPECT_TRUE(fused.ok()) << fused.message();
  const base::Status plain = call.plain();
  EXPECT_TRUE(plain.ok()) << plain.message();
}

// Shrinks I to `columns` everywhere.
void set_columns(Call& call, std::int64_t gate_up_columns) {
  call.args.gate_up.shape[1] = gate_up_columns;
  call.y.shape[1] = gate_up_columns / 2;
}

TEST(SiluMulArguments, TheseAreValid) {
  accepted([](Call&) {});
  for (const int interleave : {0, 1, 8}) {
    accepted([=](Call& c) { c.args.activation.interleave = interleave; });
  }
  accepted([](Call& c) { c.args.activation.clamp = 7.0f; });
  accepted([](Call& c) { c.args.activation.clamp = std::numeric_limits<float>::max(); });
  accepted([](Call& c) { c.args.activation.clamp = 0x1p-149f; });
  accepted([](Call& c) { c.args.activation.alpha = 0.0f; });
  accepted([](Call& c) { c.args.activation.alpha = -1.702f; });
  accepted([](Call& c) { c.args.activation.up_bias = -1.0f; });
  accepted([](Call& c) { c.args.activation.rounding = Rounding::kHuggingFace; });
}

TEST(SiluMulArguments, GateUp) {
  using C = Call;
  refused("gate_up", [](C& c) { c.args.gate_up = {}; });
  refused("gate_up", [](C& c) { c.args.gate_up.dtype = DType::kI32; });
  refused("gate_up", [](C& c) { c.args.gate_up.data = nullptr; });
  refused("gate_up", [](C& c) { c.args.gate_up.data = c.args.gate_up.as<std::byte>() + 1; });
  refused("gate_up", [](C& c) { c.args.gate_up.strides[1] = 2; });
  refused("gate_up", [](C& c) { c.args.gate_up.shape[1] = 0; });
  refused("gate_up", [](C& c) { set_columns(c, 2 * kColumns - 1); });         // odd
  fused_refused("gate_up", [](C& c) { set_columns(c, 2 * kColumns - 16); });  // half a block
  fused_refused("gate_up", [](C& c) {
    c.args.spec.format = Format::kMxfp4;
    c.args.spec.scale = ScaleMode::kTensor;
    set_columns(c, 2 * kColumns - 32);
  });
}

TEST(SiluMulArguments, Interleave) {
  for (const int interleave : {-1, 2, 4, 16, std::numeric_limits<int>::min()}) {
    refused("interleave", [=](Call& c) { c.args.activation.interleave = interleave; });
  }
  plain_refused("gate_up", [](Call& c) {  // I = 60 has no groups of 8
    c.args.activation.interleave = 8;
    set_columns(c, 120);
  });
  fused_refused("gate_up", [](Call& c) {
    c.args.activation.interleave = 8;
    c.args.spec.format = Format::kFp8;
    set_columns(c, 120);
  });
}

TEST(SiluMulArguments, Options) {
  for (const float clamp : {0.0f, -0.0f, -7.0f, kNan, kInf, -kInf}) {
    refused("clamp", [=](Call& c) { c.args.activation.clamp = clamp; });
  }
  for (const float value : {kNan, kInf, -kInf}) {
    refused("alpha", [=](Call& c) { c.args.activation.alpha = value; });
    refused("up_bias", [=](Call& c) { c.args.activation.up_bias = value; });
  }
  refused("rounding", [](Call& c) { c.args.activation.rounding = static_cast<Rounding>(2); });
  refused("num_threads", [](Call& c) { c.execution.num_threads = -3; });
  refused("cpu_level", [](Call& c) { c.execution.cpu_level = static_cast<base::CpuLevel>(17); });
  refused("backend", [](Call& c) { c.execution.backend = base::Backend::kCuda; });
}

TEST(SiluMulArguments, Y) {
  plain_refused("y", [](Call& c) { c.y = {}; });
  plain_refused("y", [](Call& c) { c.y.dtype = DType::kF16; });
  plain_refused("y", [](Call& c) { c.y.shape[0] = kRows - 1; });
  plain_refused("y", [](Call& c) { c.y.shape[1] = kColumns - 1; });
  plain_refused("y", [](Call& c) { c.y = c.add("y", DType::kBF16, {kRows * kColumns}); });
  plain_refused("y", [](Call& c) { c.y.strides[0] = 0; });
  plain_refused("y", [](Call& c) { c.y.strides[1] = 2; });
  plain_refused("y", [](Call& c) { c.y.device.type = base::DeviceType::kCuda; });
  plain_refused("y", [](Call& c) {  // over the gate half
    c.y.data = c.args.gate_up.data;
    c.y.strides[0] = 2 * kColumns;
  });
}

TEST(SiluMulArguments, Quantization) {
  fused_refused("scale_rule", [](Call& c) { c.args.spec.scale_rule = ScaleRule::kTe; });
  fused_refused("format", [](Call& c) { c.args.spec.format = static_cast<Format>(9); });
  fused_refused("mx_rule", [](Call& c) { c.args.spec.mx_rule = MxRule::kOcpFloor; });
  fused_refused("row_scale", [](Call& c) { c.args.out.row_scale = {}; });
  fused_refused("codes", [](Call& c) { c.args.out.codes = {}; });
  fused_refused("codes", [](Call& c) { c.args.out.codes.shape[1] = kColumns; });  // I, not 2I
  fused_refused("codes", [](Call& c) { c.args.out.codes.data = c.args.gate_up.data; });
  fused_refused("codes", [](Call& c) { c.args.out.codes.strides[0] = 0; });
  fused_refused("scales", [](Call& c) { c.args.out.scales.shape[0] -= 1; });
  fused_refused("scales", [](Call& c) { c.args.out.scales.data = c.args.gate_up.data; });
  fused_refused("scales_second", [](Call& c) { c.args.spec.second_layout = ScaleLayout::k8x4; });
  fused_refused("global_scale", [](Call& c) {
    c.args.given.global_scale = c.add("given", DType::kF32, {1});
    testing::fill(c.args.given.global_scale, {1.0f});
  });
  fused_refused("out.global_scale", [](Call& c) {
    c.args.spec.scale = ScaleMode::kComputed;
    c.args.out.row_scale = {};
  });
  fused_refused("decode_scale", [](Call& c) {
    c.args.spec.format = Format::kFp8;
    c.args.spec.scale = ScaleMode::kTensor;
    c.args.out.scales = c.args.out.row_scale = {};
  });
}

TEST(SiluMulArguments, ColumnSlicesOfOneBuffer) {
  const auto slices = [](Call& c, std::int64_t distance) {
    const TensorView buffer = c.add("buffer", DType::kBF16, {kRows, 3 * kColumns});
    testing::fill(buffer, {1, 2, 3});
    c.args.gate_up.data = buffer.data;
    c.y.data = buffer.as<std::byte>() + 2 * distance;
    c.args.gate_up.strides[0] = c.y.strides[0] = 3 * kColumns;
  };
  accepted([&](Call& c) { slices(c, 2 * kColumns); });
  plain_refused("y", [&](Call& c) { slices(c, 2 * kColumns - 1); });  // one element too close
}

TEST(SiluMulArguments, CudaTensorsInABuildWithoutCuda) {
  if (base::built_with_cuda()) GTEST_SKIP() << "built with CUDA";
  Call call;
  call.args.gate_up.device.type = base::DeviceType::kCuda;
  const TensorSet before = call.set.clone();
  EXPECT_FALSE(call.fused().ok());
  EXPECT_FALSE(call.plain().ok());
  EXPECT_EQ(testing::first_difference(before, call.set), "");
}

}  // namespace
}  // namespace halfbyte::ops
