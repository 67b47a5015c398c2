// Every argument that rmsnorm and rmsnorm_quantize refuse: the message names it, and nothing is
// written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/ops/common/testing.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::StatusCode;
using testing::TensorSet;
using testing::TestTensor;

constexpr std::int64_t kRows = 4, kColumns = 64;

struct Call {
  TensorSet set;
  RmsNormQuantizeArgs args;
  Execution execution;

  Call() {
    args.norm.x = add("x", DType::kBF16, {kRows, kColumns});
    args.norm.weight = add("weight", DType::kBF16, {kColumns});
    args.norm.residual = add("residual", DType::kBF16, {kRows, kColumns});
    args.normed = add("normed", DType::kBF16, {kRows, kColumns});
    args.spec.scale = ScaleMode::kRow;
    args.out.codes = add("codes", DType::kU8, {kRows, kColumns / 2});
    args.out.scales = add("scales", DType::kU8, {kRows * kColumns / 16});
    args.out.row_scale = add("row_scale", DType::kF32, {kRows});
    testing::fill(args.norm.x, {1, 2, 3, -4});
    testing::fill(args.norm.residual, {1, -1, 0.5f});
  }
  TensorView add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(dtype, std::move(shape)));
    return set.view(name);
  }
};

using Change = std::function<void(Call&)>;

void expect_error(const char* argument, const Call& call, const base::Status& status,
                  const TensorSet& before) {
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << argument << ": " << status.message();
  EXPECT_NE(status.message().find(std::string(argument) + ": expected "), std::string::npos)
      << "no \"" << argument << "\" in: " << status.message();
  EXPECT_EQ(testing::first_difference(before, call.set), "") << status.message();
}

// Both operators refuse it.
void refused(const char* argument, const Change& change) {
  Call call;
  change(call);
  const TensorSet before = call.set.clone();
  expect_error(argument, call, rmsnorm_quantize(call.args, call.execution), before);
  expect_error(argument, call, rmsnorm({call.args.norm, call.args.normed}, call.execution), before);
}
void fused_refused(const char* argument, const Change& change) {
  Call call;
  change(call);
  const TensorSet before = call.set.clone();
  expect_error(argument, call, rmsnorm_quantize(call.args, call.execution), before);
}
void plain_refused(const char* argument, const Change& change) {
  Call call;
  change(call);
  const TensorSet before = call.set.clone();
  expect_error(argument, call, rmsnorm({call.args.norm, call.args.normed}, call.execution), before);
}
void accepted(const Change& change) {
  Call call;
  change(call);
  const base::Status fused = rmsnorm_quantize(call.args, call.execution);
  EXPECT_TRUE(fused.ok()) << fused.message();
  const base::Status plain = rmsnorm({call.args.norm, call.args.normed}, call.execution);
  EXPECT_TRUE(plain.ok()) << plain.message();
}

TEST(RmsnormArguments, TheseAreValid) {
  accepted([](Call&) {});
  accepted([](Call& c) { c.args.norm.residual = {}; });
  accepted([](Call& c) { c.args.norm.weight = c.add("weight", DType::kF32, {kColumns}); });
  accepted([](Call& c) { c.args.norm.eps = 0.0f; });
}

TEST(RmsnormArguments, X) {
  refused("x", [](Call& c) { c.args.norm.x = {}; });
  refused("x", [](Call& c) { c.args.norm.x.dtype = DType::kI32; });
  refused("x", [](Call& c) { c.args.norm.x.data = nullptr; });
  refused("x", [](Call& c) { c.args.norm.x.data = c.args.norm.x.as<std::byte>() + 1; });
  refused("x", [](Call& c) { c.args.norm.x.strides[1] = 2; });
  refused("x", [](Call& c) { c.args.norm.x.shape[1] = 0; });
  fused_refused("x", [](Call& c) {  // a rank's share of H that is not whole blocks
    for (TensorView* view : {&c.args.norm.x, &c.args.norm.residual, &c.args.normed}) {
      view->shape[1] = kColumns - 8;
    }
    c.args.norm.weight.shape[0] = kColumns - 8;
  });
}

TEST(RmsnormArguments, Weight) {
  refused("weight", [](Call& c) { c.args.norm.weight = {}; });
  refused("weight", [](Call& c) { c.args.norm.weight.dtype = DType::kF16; });
  refused("weight", [](Call& c) { c.args.norm.weight.dtype = DType::kU8; });
  refused("weight", [](Call& c) { c.args.norm.weight.shape[0] = kColumns - 1; });
  refused("weight", [](Call& c) { c.args.norm.weight.strides[0] = 2; });
  refused("weight", [](Call& c) { c.args.norm.weight.data = nullptr; });
  refused("weight",
          [](Call& c) { c.args.norm.weight.data = c.args.norm.weight.as<std::byte>() + 1; });
  refused("weight", [](Call& c) {
    c.args.norm.weight = c.add("weight", DType::kBF16, {1, kColumns});
  });
  refused("weight", [](Call& c) { c.args.norm.weight.device.type = base::DeviceType::kCuda; });
}

TEST(RmsnormArguments, Residual) {
  refused("residual", [](Call& c) { c.args.norm.residual.dtype = DType::kF16; });
  refused("residual", [](Call& c) {
    c.args.norm.residual = c.add("residual", DType::kF32, {kRows, kColumns});
  });
  refused("residual", [](Call& c) { c.args.norm.residual.shape[0] = kRows - 1; });
  refused("residual", [](Call& c) { c.args.norm.residual.strides[1] = 2; });
  refused("residual", [](Call& c) { c.args.norm.residual.strides[0] = 0; });
  refused("residual", [](Call& c) { c.args.norm.residual.strides[0] = kColumns - 1; });
  refused("residual", [](Call& c) { c.args.norm.residual.data = nullptr; });
  refused("residual", [](Call& c) { c.args.norm.residual.device.type = base::DeviceType::kCuda; });
  refused("residual", [](Call& c) { c.args.norm.residual = c.args.norm.x; });
  refused("residual", [](Call& c) {
    c.args.norm.residual.data = c.args.norm.x.as<std::byte>() + 2 * kColumns;
  });
}

TEST(RmsnormArguments, Options) {
  for (const float eps : {-1e-6f, -1e-45f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    refused("eps", [=](Call& c) { c.args.norm.eps = eps; });
  }
  refused("rounding", [](Call& c) { c.args.norm.rounding = static_cast<Rounding>(2); });
  refused("num_threads", [](Call& c) { c.execution.num_threads = -3; });
  refused("cpu_level", [](Call& c) { c.execution.cpu_level = static_cast<base::CpuLevel>(17); });
  refused("backend", [](Call& c) { c.execution.backend = base::Backend::kCuda; });
}

TEST(RmsnormArguments, Normed) {
  plain_refused("y", [](Call& c) { c.args.normed = {}; });
  const auto both = [](const Change& change) {
    plain_refused("y", change);
    fused_refused("normed", change);
  };
  both([](Call& c) { c.args.normed.dtype = DType::kF16; });
  both([](Call& c) { c.args.normed.shape[0] = kRows - 1; });
  both([](Call& c) { c.args.normed.strides[0] = 0; });
  both([](Call& c) { c.args.normed.strides[1] = 2; });
  both([](Call& c) { c.args.normed.device.type = base::DeviceType::kCuda; });
  both([](Call& c) { c.args.normed = c.args.norm.x; });
  both([](Call& c) { c.args.normed.data = c.args.norm.weight.data; });
  const Change over_residual = [](Call& c) { c.args.normed = c.args.norm.residual; };
  plain_refused("residual", over_residual);  // the message names both
  fused_refused("residual", over_residual);
}

TEST(RmsnormArguments, Quantization) {
  fused_refused("scale_rule", [](Call& c) { c.args.spec.scale_rule = ScaleRule::kTe; });
  fused_refused("mx_rule", [](Call& c) { c.args.spec.mx_rule = MxRule::kOcpFloor; });
  fused_refused("row_scale", [](Call& c) { c.args.out.row_scale = {}; });
  fused_refused("codes", [](Call& c) { c.args.out.codes = {}; });
  fused_refused("codes", [](Call& c) { c.args.out.codes.data = c.args.norm.x.data; });
  fused_refused("residual", [](Call& c) { c.args.out.codes.data = c.args.norm.residual.data; });
  fused_refused("codes", [](Call& c) { c.args.out.codes.strides[0] = 0; });
  fused_refused("normed", [](Call& c) { c.args.out.codes.data = c.args.normed.data; });
  fused_refused("scales", [](Call& c) { c.args.out.scales.shape[0] -= 1; });
  fused_refused("scales_second", [](Call& c) { c.args.spec.second_layout = ScaleLayout::k8x4; });
  fused_refused("global_scale", [](Call& c) {
    c.args.given.global_scale = c.add("given", DType::kF32, {1});
    testing::fill(c.args.given.global_scale, {1.0f});
  });
  fused_refused("out.global_scale", [](Call& c) {
    c.args.spec.scale = ScaleMode::kComputed;
    c.args.out.row_scale = {};
  });
}

// A non-contiguous residual is updated in place: an update made in a copy would be lost.
TEST(RmsnormArguments, ColumnSlicesOfOneBuffer) {
  accepted([](Call& c) {
    const TensorView buffer = c.add("buffer", DType::kBF16, {kRows, 3 * kColumns});
    testing::fill(buffer, {1, 2, 3});
    TensorView* views[] = {&c.args.norm.x, &c.args.norm.residual, &c.args.normed};
    for (int i = 0; i < 3; ++i) {
      views[i]->data = buffer.as<std::byte>() + 2 * i * kColumns;
      views[i]->strides[0] = 3 * kColumns;
    }
  });
  refused("residual", [](Call& c) {  // one element too close
    const TensorView buffer = c.add("buffer", DType::kBF16, {kRows, 3 * kColumns});
    c.args.norm.x.data = buffer.data;
    c.args.norm.residual.data = buffer.as<std::byte>() + 2 * (kColumns - 1);
    c.args.norm.x.strides[0] = c.args.norm.residual.strides[0] = 3 * kColumns;
  });
}

}  // namespace
}  // namespace halfbyte::ops
