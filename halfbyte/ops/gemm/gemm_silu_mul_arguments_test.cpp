// Every argument that gemm_silu_mul_quantize refuses beside gemm's and silu_mul_quantize's own: the
// message names it, and nothing is written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::StatusCode;
using testing::TensorSet;
using testing::TestTensor;

constexpr std::int64_t kM = 6, kI = 32, kN = 2 * kI, kK = 64;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr base::Device kCuda{base::DeviceType::kCuda, 0};

struct Call {
  TensorSet set;
  GemmSiluMulQuantizeArgs args;
  Execution execution;

  Call() {
    GemmArgs& product = args.product;
    product.a_packed.rows = kM;
    product.a_packed.columns = product.b.columns = kK;
    product.a_packed.codes = add("a_codes", DType::kU8, {kM, kK / 2});
    product.a_packed.scales = add("a_scales", DType::kU8, {kM, kK / 16});
    product.b.rows = kN;
    product.b.codes = add("b_codes", DType::kU8, {kN, kK / 2});
    product.b.scales = add("b_scales", DType::kU8, {kN, kK / 16});
    product.bias = add("bias", DType::kBF16, {kN});
    args.spec.scale = ScaleMode::kRow;
    args.out.codes = add("codes", DType::kU8, {kM, kI / 2});
    args.out.scales = add("scales", DType::kU8, {kM * kI / 16});
    args.out.row_scale = add("row_scale", DType::kF32, {kM});
  }
  TensorView add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(dtype, std::move(shape)));
    return set.view(name);
  }
  // W4A16: a in place of a_packed.
  void take_values() {
    args.product.a_packed = {};
    args.product.a = add("a", DType::kBF16, {kM, kK});
  }
  // Two groups, rows 1 .. 3 and 4 .. 5; out's scales from rows 0 and 8 of sixteen.
  void group() {
    GemmArgs& product = args.product;
    product.groups.count = 2;
    product.groups.row_offsets = offsets("row_offsets", {1, 4, 6});
    product.groups.scale_row_offsets = offsets("scale_row_offsets", {0, 3, 5});
    product.b.codes = add("b_codes2", DType::kU8, {2 * kN, kK / 2});
    product.b.scales = add("b_scales2", DType::kU8, {2 * kN * kK / 16});
    product.bias = add("bias2", DType::kBF16, {2, kN});
    args.out_scale_row_offsets = offsets("out_scale_row_offsets", {0, 8, 10});
    args.spec.layout = ScaleLayout::k8x4;
    args.out.scales = add("scales2", DType::kU8, {16 * 4});
  }
  TensorView offsets(const char* name, const std::vector<std::uint32_t>& values) {
    add(name, DType::kI32, {static_cast<std::int64_t>(values.size())});
    put(name, values);
    return set.view(name);
  }
  void put(const char* name, const std::vector<std::uint32_t>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      testing::set_bits(set.view(name), static_cast<std::int64_t>(i), values[i]);
    }
  }
};

using Change = std::function<void(Call&)>;

void refused(const char* argument, const Change& change,
             StatusCode code = StatusCode::kInvalidArgument) {
  Call call;
  change(call);
  const TensorSet before = call.set.clone();
  const base::Status status = gemm_silu_mul_quantize(call.args, call.execution);
  EXPECT_EQ(status.code(), code) << argument << ": " << status.message();
  EXPECT_EQ(status.message().find("gemm_silu_mul_quantize: " + std::string(argument)), 0u)
      << "no \"" << argument << "\" in: " << status.message();
  EXPECT_EQ(testing::first_difference(before, call.set), "") << status.message();
}
void accepted(const Change& change) {
  Call call;
  change(call);
  const base::Status status = gemm_silu_mul_quantize(call.args, call.execution);
  EXPECT_TRUE(status.ok()) << status.message();
  const auto bytes = gemm_silu_mul_workspace_bytes(call.args, call.execution);
  ASSERT_TRUE(bytes.ok()) << bytes.status().message();
  EXPECT_EQ(bytes.value(), 0u);
}

TEST(GemmSiluMulArguments, TheseAreValid) {
  accepted([](Call&) {});
  accepted([](Call& c) { c.take_values(); });
  accepted([](Call& c) { c.group(); });
  accepted([](Call& c) { c.args.product.bias = {}; });
  accepted([](Call& c) { c.args.product.bias = c.add("fp32", DType::kF32, {kN}); });
  accepted([](Call& c) { c.args.product.method = GemmMethod::kExact; });
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    accepted([=](Call& c) {
      c.args.dtype = dtype;
      c.args.product.bias = {};
    });
  }
  // Rows of groups whose scales lie as rows without groups do.
  accepted([](Call& c) {
    c.group();
    c.args.out_scale_row_offsets = {};
    c.args.out.scales = c.add("scales3", DType::kU8, {8 * 4});
  });
}

TEST(GemmSiluMulArguments, Product) {
  refused("c", [](Call& c) { c.args.product.c = c.add("c", DType::kBF16, {kM, kN}); });
  refused("dtype", [](Call& c) { c.args.dtype = DType::kU8; });
  refused("bias", [](Call& c) { c.args.dtype = DType::kF16; });
  refused("bias", [](Call& c) { c.args.product.bias.shape[0] = kN - 1; });
  refused("a", [](Call& c) { c.args.product.a_packed = {}; });
  refused("a", [](Call& c) { c.args.product.a = c.add("a", DType::kBF16, {kM, kK}); });
  refused("a: expected 6 rows", [](Call& c) { c.args.product.a_packed.columns = kK / 2; });
  refused("a_codes", [](Call& c) { c.args.product.a_packed.rows = kM + 1; });
  refused("a_codes", [](Call& c) { c.args.product.a_packed.rows = -1; });
  refused("b.format", [](Call& c) { c.args.product.b.format = Format::kFp8; });
  refused("b.rows", [](Call& c) { c.args.product.b.rows = -1; });
  refused("b_codes", [](Call& c) { c.args.product.b.codes = {}; });
  refused("b_scales", [](Call& c) { c.args.product.b.scales.shape[0] = 1; });
  refused("method", [](Call& c) { c.args.product.method = static_cast<GemmMethod>(6); });
  for (int method = 2; method <= 5; ++method) {
    refused("method", [=](Call& c) { c.args.product.method = static_cast<GemmMethod>(method); });
  }
  const auto values = [](const char* argument, const Change& change) {
    refused(argument, [&](Call& c) {
      c.take_values();
      change(c);
    });
  };
  values("a", [](Call& c) { c.args.product.a.dtype = DType::kF32; });
  values("a", [](Call& c) { c.args.product.a.strides[1] = 2; });
  values("a", [](Call& c) { c.args.product.a.shape[1] = kK - 16; });
  values("codes", [](Call& c) { c.args.product.a.shape[0] = kM - 1; });
}

// Of `rows` rows of b.
Change with_rows(std::int64_t rows) {
  return [=](Call& c) {
    c.args.product.b.rows = rows;
    c.args.product.b.codes = c.add("codes_of_b", DType::kU8, {rows, kK / 2});
    c.args.product.b.scales = c.add("scales_of_b", DType::kU8, {rows, kK / 16});
    c.args.product.bias = {};
  };
}

TEST(GemmSiluMulArguments, Columns) {
  refused("b.rows: expected 2I, I at least 1, got 0", [](Call& c) {
    with_rows(1)(c);
    c.args.product.b.rows = 0;
    c.args.product.b.codes.shape[0] = 0;
    c.args.product.b.scales.shape[0] = 0;
  });
  refused("b.rows: expected 2I, an even one, got 63", with_rows(63));
  refused("b.rows: expected 2I, I a multiple of 16 (nvfp4 blocks), got 66", with_rows(66));
  refused("b.rows: expected 2I, I a multiple of 8 (interleave = 8), got 68", [](Call& c) {
    with_rows(68)(c);
    c.args.activation.interleave = 8;
  });
}

TEST(GemmSiluMulArguments, Activation) {
  refused("interleave", [](Call& c) { c.args.activation.interleave = 2; });
  for (const float clamp : {0.0f, -1.0f, kNan}) {
    refused("clamp", [=](Call& c) { c.args.activation.clamp = clamp; });
  }
  refused("alpha", [](Call& c) { c.args.activation.alpha = kNan; });
  refused("up_bias", [](Call& c) { c.args.activation.up_bias = kNan; });
  refused("rounding", [](Call& c) { c.args.activation.rounding = static_cast<Rounding>(2); });
}

TEST(GemmSiluMulArguments, Quantization) {
  refused("scale_rule", [](Call& c) { c.args.spec.scale_rule = ScaleRule::kTe; });
  refused("format", [](Call& c) { c.args.spec.format = static_cast<Format>(7); });
  refused("layout", [](Call& c) { c.args.spec.layout = static_cast<ScaleLayout>(3); });
  refused("codes", [](Call& c) { c.args.out.codes = {}; });
  refused("codes", [](Call& c) { c.args.out.codes.shape[0] = kM - 1; });
  refused("codes", [](Call& c) { c.args.out.codes.device = kCuda; });
  refused("scales", [](Call& c) { c.args.out.scales = {}; });
  refused("row_scale", [](Call& c) { c.args.out.row_scale = {}; });
  refused("global_scale",
          [](Call& c) { c.args.given.global_scale = c.add("g", DType::kF32, {1}); });
  // Outputs apart from every input, and from one another.
  refused("codes", [](Call& c) { c.args.out.codes.data = c.args.product.a_packed.codes.data; });
  refused("codes", [](Call& c) { c.args.out.codes.data = c.args.product.b.codes.data; });
  refused("scales", [](Call& c) { c.args.out.scales.data = c.args.product.b.scales.data; });
  refused("row_scale", [](Call& c) { c.args.out.row_scale.data = c.args.product.bias.data; });
  refused("codes", [](Call& c) { c.args.out.scales.data = c.args.out.codes.data; });
}

TEST(GemmSiluMulArguments, Groups) {
  const auto grouped = [](const char* argument, const Change& change) {
    refused(argument, [&](Call& c) {
      c.group();
      change(c);
    });
  };
  refused("out_scale_row_offsets", [](Call& c) {
    c.args.out_scale_row_offsets = c.offsets("out_scale_row_offsets", {0, 8, 10});
  });
  grouped("row_offsets", [](Call& c) { c.put("row_offsets", {1, 7, 6}); });
  grouped("scale_row_offsets", [](Call& c) { c.put("scale_row_offsets", {0, 2, 5}); });
  grouped("out_scale_row_offsets", [](Call& c) { c.args.out_scale_row_offsets.shape[0] = 2; });
  grouped("out_scale_row_offsets", [](Call& c) { c.args.out_scale_row_offsets.device = kCuda; });
  grouped("out_scale_row_offsets: expected multiples of 8", [](Call& c) {
    c.put("out_scale_row_offsets", {0, 4, 10});
  });
  grouped("out_scale_row_offsets: expected values from 10", [](Call& c) {
    c.put("out_scale_row_offsets", {0, 8, 9});
  });
  grouped("groups: expected none, got 2 groups with scale = computed", [](Call& c) {
    c.args.spec.scale = ScaleMode::kComputed;
    c.args.out.row_scale = {};
  });
  grouped("groups: expected none, got 2 groups with fp8", [](Call& c) {
    c.args.spec.format = Format::kFp8;
    c.args.spec.layout = ScaleLayout::kLinear;
  });
  grouped("bias", [](Call& c) { c.args.product.bias.shape[0] = 1; });
}

TEST(GemmSiluMulArguments, Execution) {
  refused("num_threads", [](Call& c) { c.execution.num_threads = -1; });
  refused("backend", [](Call& c) { c.execution.backend = base::Backend::kCuda; });
  refused("cpu_level", [](Call& c) { c.execution.cpu_level = static_cast<base::CpuLevel>(17); });
  if (base::built_with_cuda()) GTEST_SKIP() << "a build with CUDA";
  refused(
      "x is on cuda:0",
      [](Call& c) {
        GemmArgs& product = c.args.product;
        for (TensorView* view : {&product.a_packed.codes, &product.a_packed.scales,
                                 &product.b.codes, &product.b.scales, &product.bias}) {
          view->device = kCuda;
        }
      },
      StatusCode::kUnsupported);
}

// Shapes alone: no memory is looked at, and neither are the outputs.
TEST(GemmSiluMulArguments, WorkspaceQuery) {
  Call call;
  call.group();
  GemmArgs& product = call.args.product;
  for (TensorView* view :
       {&product.a_packed.codes, &product.a_packed.scales, &product.b.codes, &product.b.scales,
        &product.bias, &product.groups.row_offsets, &product.groups.scale_row_offsets}) {
    view->data = nullptr;
  }
  call.args.out = {};
  const auto bytes = gemm_silu_mul_workspace_bytes(call.args);
  ASSERT_TRUE(bytes.ok()) << bytes.status().message();
  EXPECT_EQ(bytes.value(), 0u);
  product.b.columns = 0;
  const auto refused_query = gemm_silu_mul_workspace_bytes(call.args);
  ASSERT_FALSE(refused_query.ok());
  EXPECT_EQ(
      refused_query.status().message().find("gemm_silu_mul_workspace_bytes: b.columns: expected "),
      0u);
}

}  // namespace
}  // namespace halfbyte::ops
