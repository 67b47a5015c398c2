// Every argument that gemm, prepare_weights and unprepare_weights refuse: the message names it, and
// nothing is written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::StatusCode;
using testing::TensorSet;
using testing::TestTensor;

constexpr std::int64_t kM = 6, kN = 20, kK = 64;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr base::Device kCuda{base::DeviceType::kCuda, 0};

struct Call {
  TensorSet set;
  GemmArgs args;
  Execution execution;

  Call() {
    args.a_packed.rows = kM;
    args.a_packed.columns = kK;
    args.a_packed.codes = add("a_codes", DType::kU8, {kM, kK / 2});
    args.a_packed.scales = add("a_scales", DType::kU8, {kM, kK / 16});
    args.a_packed.scale = add("a_scale", DType::kF32, {kM});
    args.a_packed.scale_kind = ScaleKind::kDecode;
    args.b.rows = kN;
    args.b.columns = kK;
    args.b.codes = add("b_codes", DType::kU8, {kN, kK / 2});
    args.b.scales = add("b_scales", DType::kU8, {kN, kK / 16});
    args.b.scale = add("b_scale", DType::kF32, {1});
    args.b.scale_kind = ScaleKind::kEncode;
    args.bias = add("bias", DType::kBF16, {kN});
    args.c = add("c", DType::kBF16, {kM, kN});
    for (const char* name : {"a_scale", "b_scale"}) testing::fill(set.view(name), {0.5f});
    testing::fill(args.bias, {1.0f, -2.0f});
  }
  TensorView add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(dtype, std::move(shape)));
    return set.view(name);
  }
  // W4A16: a in place of a_packed.
  void take_values() {
    args.a_packed = {};
    args.a = add("a", DType::kBF16, {kM, kK});
  }
  void prepare() {
    args.b.form = WeightForm::kPrepared;
    args.b.codes = args.b.scales = {};
    args.b.prepared =
        add("b_prepared", DType::kU8, {prepared_weight_bytes(Format::kNvfp4, kN, kK)});
  }
  // Two groups, rows 1 .. 3 and 4 .. 5; their scales from rows 0 and 8 of sixteen.
  void group() {
    args.groups.count = 2;
    args.groups.row_offsets = add("row_offsets", DType::kI32, {3});
    args.groups.scale_row_offsets = add("scale_row_offsets", DType::kI32, {3});
    offsets("row_offsets", {1, 4, 6});
    offsets("scale_row_offsets", {0, 8, 10});
    args.a_packed.scales = add("a_scales2", DType::kU8, {16 * kK / 16});
    args.a_packed.layout = ScaleLayout::k8x4;
    args.b.codes = add("b_codes2", DType::kU8, {2 * kN, kK / 2});
    args.b.scales = add("b_scales2", DType::kU8, {2 * kN * kK / 16});
    args.bias = add("bias2", DType::kBF16, {2, kN});
  }
  void offsets(const char* name, const std::vector<std::uint32_t>& values) {
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
  const base::Status status = gemm(call.args, call.execution);
  EXPECT_EQ(status.code(), code) << argument << ": " << status.message();
  EXPECT_NE(status.message().find("gemm: " + std::string(argument)), std::string::npos)
      << "no \"" << argument << "\" in: " << status.message();
  EXPECT_EQ(testing::first_difference(before, call.set), "") << status.message();
}
void accepted(const Change& change) {
  Call call;
  change(call);
  const base::Status status = gemm(call.args, call.execution);
  EXPECT_TRUE(status.ok()) << status.message();
  const auto bytes = gemm_workspace_bytes(call.args, call.execution);
  ASSERT_TRUE(bytes.ok()) << bytes.status().message();
  EXPECT_EQ(bytes.value(), 0u);
}

TEST(GemmArguments, TheseAreValid) {
  accepted([](Call&) {});
  accepted([](Call& c) { c.take_values(); });
  accepted([](Call& c) { c.prepare(); });
  accepted([](Call& c) { c.group(); });
  accepted([](Call& c) { c.args.bias = {}; });
  accepted([](Call& c) { c.args.bias = c.add("fp32", DType::kF32, {kN}); });
  accepted([](Call& c) { c.args.method = GemmMethod::kExact; });
  accepted([](Call& c) {
    c.args.b.scale = {};
    c.args.b.scale_kind = ScaleKind::kNone;
  });
  // A decode scale may be what quantize gives for rows of zeros (te) and of NaN.
  accepted([](Call& c) { testing::fill(c.args.a_packed.scale, {0.0f, kNan, kInf, -1.0f}); });
  accepted([](Call& c) { c.args.c.strides[0] = kN; });
}

TEST(GemmArguments, Weights) {
  refused("b.format", [](Call& c) { c.args.b.format = Format::kFp8; });
  refused("b.format", [](Call& c) { c.args.b.format = static_cast<Format>(9); });
  refused("b.form", [](Call& c) { c.args.b.form = static_cast<WeightForm>(2); });
  refused("b.rows", [](Call& c) { c.args.b.rows = -1; });
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  refused("b.rows", [](Call& c) { c.args.b.rows = kMost; });
  refused("b.rows", [](Call& c) { c.args.b.rows = kMost / 64; });
  refused("b.rows", [](Call& c) { c.args.groups.count = kMost; });
  refused("b.rows", [](Call& c) { c.args.b.columns = kMost / 16 * 16; });
  for (const std::int64_t columns : {0, -16, 8, 65}) {
    refused("b.columns", [=](Call& c) { c.args.b.columns = columns; });
  }
  refused("b_codes", [](Call& c) { c.args.b.codes = {}; });
  refused("b_codes", [](Call& c) { c.args.b.codes.dtype = DType::kI32; });
  refused("b_codes", [](Call& c) { c.args.b.codes.shape[0] = kN - 1; });
  refused("b_codes", [](Call& c) { c.args.b.codes.shape[1] = kK; });
  refused("b_codes", [](Call& c) { c.args.b.codes.strides[1] = 2; });
  refused("b_codes", [](Call& c) { c.args.b.codes.data = nullptr; });
  refused("b_codes", [](Call& c) { c.args.b.codes.device = kCuda; });
  refused("b_scales", [](Call& c) { c.args.b.scales = {}; });
  refused("b_scales", [](Call& c) { c.args.b.scales.shape[0] = kN - 1; });
  refused("b_scales", [](Call& c) { c.args.b.layout = ScaleLayout::k128x4; });
  refused("b_layout", [](Call& c) { c.args.b.layout = static_cast<ScaleLayout>(3); });
  refused("b_prepared", [](Call& c) { c.args.b.prepared = c.args.b.codes; });
  refused("b_scale", [](Call& c) { c.args.b.scale = {}; });
  refused("b_scale", [](Call& c) { c.args.b.scale_kind = ScaleKind::kNone; });
  refused("b_scale_kind", [](Call& c) { c.args.b.scale_kind = static_cast<ScaleKind>(3); });
  refused("b_scale", [](Call& c) { c.args.b.scale.dtype = DType::kBF16; });
  refused("b_scale", [](Call& c) { c.args.b.scale = c.add("many", DType::kF32, {kN}); });
  for (const float g : {0.0f, -1.0f, kNan, kInf}) {
    refused("b_scale", [=](Call& c) { testing::fill(c.args.b.scale, {g}); });
  }
}

TEST(GemmArguments, PreparedWeights) {
  const auto prepared = [](const char* argument, const Change& change) {
    refused(argument, [&](Call& c) {
      c.prepare();
      change(c);
    });
  };
  prepared("b_prepared", [](Call& c) { c.args.b.prepared = {}; });
  prepared("b_prepared", [](Call& c) { c.args.b.prepared.shape[0] -= 16; });
  prepared("b_prepared", [](Call& c) { c.args.b.prepared.dtype = DType::kF32; });
  prepared("b_prepared", [](Call& c) { c.args.b.prepared.data = nullptr; });
  prepared("b_prepared",
           [](Call& c) { c.args.b.prepared.data = c.args.b.prepared.as<std::byte>() + 8; });
  prepared("b_codes", [](Call& c) { c.args.b.codes = c.add("codes", DType::kU8, {kN, kK / 2}); });
  prepared("b_scales", [](Call& c) { c.args.b.scales = c.set.view("b_scales"); });
}

TEST(GemmArguments, QuantizedInput) {
  refused("a", [](Call& c) { c.args.a_packed.codes = {}; });
  refused("a", [](Call& c) { c.args.a = c.add("a", DType::kBF16, {kM, kK}); });
  refused("a.format", [](Call& c) { c.args.a_packed.format = Format::kMxfp4; });
  refused("a.format", [](Call& c) { c.args.a_packed.format = Format::kFp8; });
  refused("a", [](Call& c) { c.args.a_packed.rows = kM - 1; });
  refused("a", [](Call& c) { c.args.a_packed.columns = kK / 2; });
  refused("a_codes", [](Call& c) { c.args.a_packed.codes.shape[0] = kM - 1; });
  refused("a_codes", [](Call& c) { c.args.a_packed.codes.device = kCuda; });
  refused("a_scales", [](Call& c) { c.args.a_packed.scales = {}; });
  refused("a_scales", [](Call& c) { c.args.a_packed.layout = ScaleLayout::k8x4; });
  refused("a_scales", [](Call& c) { c.args.a_packed.scales.dtype = DType::kF32; });
  refused("a_layout", [](Call& c) { c.args.a_packed.layout = static_cast<ScaleLayout>(-1); });
  refused("a_scale", [](Call& c) { c.args.a_packed.scale.shape[0] = kM - 1; });
  refused("a_scale", [](Call& c) { c.args.a_packed.scale_kind = ScaleKind::kNone; });
  refused("a_scale", [](Call& c) {  // one a row, the third of them zero
    c.args.a_packed.scale_kind = ScaleKind::kEncode;
    testing::set(c.args.a_packed.scale, 2, 0.0f);
  });
}

TEST(GemmArguments, Mxfp4HasNoFp32Scale) {
  const Change mxfp4 = [](Call& c) {
    c.args.a_packed.format = c.args.b.format = Format::kMxfp4;
    c.args.a_packed.scales = c.add("as", DType::kU8, {kM, kK / 32});
    c.args.b.scales = c.add("bs", DType::kU8, {kN, kK / 32});
  };
  refused("b_scale", mxfp4);
  refused("a_scale", [&](Call& c) {
    mxfp4(c);
    c.args.b.scale = {};
    c.args.b.scale_kind = ScaleKind::kNone;
  });
  accepted([&](Call& c) {
    mxfp4(c);
    c.args.b.scale = c.args.a_packed.scale = {};
    c.args.b.scale_kind = c.args.a_packed.scale_kind = ScaleKind::kNone;
  });
}

TEST(GemmArguments, Values) {
  const auto values = [](const char* argument, const Change& change) {
    refused(argument, [&](Call& c) {
      c.take_values();
      change(c);
    });
  };
  values("a", [](Call& c) { c.args.a = {}; });
  values("a", [](Call& c) { c.args.a.dtype = DType::kF32; });
  values("a", [](Call& c) { c.args.a.shape[0] = kM - 1; });
  values("a", [](Call& c) { c.args.a.shape[1] = kK - 16; });
  values("a", [](Call& c) { c.args.a.strides[1] = 2; });
  values("a", [](Call& c) { c.args.a.data = c.args.a.as<std::byte>() + 1; });
  values("a", [](Call& c) { c.args.a.device = kCuda; });
  values("a_scales", [](Call& c) { c.args.a_packed.scales = c.set.view("a_scales"); });
  values("a_scale", [](Call& c) { c.args.a_packed.scale = c.set.view("a_scale"); });
}

TEST(GemmArguments, Output) {
  refused("c", [](Call& c) { c.args.c = {}; });
  refused("c", [](Call& c) { c.args.c.dtype = DType::kU8; });
  refused("c", [](Call& c) { c.args.c.shape[1] = kN - 1; });
  refused("c", [](Call& c) { c.args.c.strides[1] = 2; });
  refused("c", [](Call& c) { c.args.c.strides[0] = kN - 1; });
  refused("c", [](Call& c) { c.args.c.data = c.args.b.codes.data; });
  refused("c", [](Call& c) { c.args.c.data = c.args.a_packed.codes.data; });
  refused("c", [](Call& c) { c.args.c.data = c.args.bias.data; });
  refused("a", [](Call& c) { c.args.c.shape[0] = kM - 1; });
  refused("bias", [](Call& c) { c.args.bias.shape[0] = kN - 1; });
  refused("bias", [](Call& c) { c.args.bias.dtype = DType::kF16; });
  refused("bias", [](Call& c) { c.args.bias.strides[0] = 2; });
  refused("bias", [](Call& c) { c.args.bias.device = kCuda; });
}

TEST(GemmArguments, Options) {
  refused("method", [](Call& c) { c.args.method = static_cast<GemmMethod>(6); });
  for (int method = 2; method <= 5; ++method) {
    refused("method", [=](Call& c) { c.args.method = static_cast<GemmMethod>(method); });
  }
  refused("num_threads", [](Call& c) { c.execution.num_threads = -1; });
  refused("backend", [](Call& c) { c.execution.backend = base::Backend::kCuda; });
  refused("cpu_level", [](Call& c) { c.execution.cpu_level = static_cast<base::CpuLevel>(17); });
}

TEST(GemmArguments, Groups) {
  const auto grouped = [](const char* argument, const Change& change) {
    refused(argument, [&](Call& c) {
      c.group();
      change(c);
    });
  };
  grouped("groups.count", [](Call& c) { c.args.groups.count = -1; });
  refused("row_offsets",
          [](Call& c) { c.args.groups.row_offsets = c.add("row_offsets", DType::kI32, {3}); });
  refused("scale_row_offsets", [](Call& c) {
    c.args.groups.scale_row_offsets = c.add("scale_row_offsets", DType::kI32, {3});
  });
  grouped("row_offsets", [](Call& c) { c.args.groups.row_offsets = {}; });
  grouped("row_offsets", [](Call& c) { c.args.groups.row_offsets.shape[0] = 2; });
  grouped("scale_row_offsets", [](Call& c) { c.args.groups.scale_row_offsets = {}; });
  grouped("row_offsets", [](Call& c) { c.offsets("row_offsets", {1, 7, 6}); });
  grouped("row_offsets", [](Call& c) { c.offsets("row_offsets", {3, 2, 6}); });
  grouped("scale_row_offsets", [](Call& c) { c.offsets("scale_row_offsets", {0, 4, 10}); });
  grouped("scale_row_offsets", [](Call& c) { c.offsets("scale_row_offsets", {0, 2, 10}); });
  grouped("a_scales", [](Call& c) { c.args.a_packed.scales.shape[0] -= 4; });
  grouped("b_codes", [](Call& c) { c.args.b.codes.shape[0] = kN; });
  grouped("b_scales", [](Call& c) { c.args.b.scales.shape[0] = kN * kK / 16; });
  grouped("bias", [](Call& c) { c.args.bias.shape[0] = 1; });
  grouped("a_scale", [](Call& c) {  // an encode scale is one a group here, not one a row
    c.args.a_packed.scale_kind = ScaleKind::kEncode;
  });
  grouped("scale_row_offsets", [](Call& c) {
    c.take_values();
    c.args.bias = {};
  });
}

TEST(GemmArguments, ThereIsNoCudaHere) {
  if (base::built_with_cuda()) GTEST_SKIP() << "a build with CUDA";
  refused(
      "x is on cuda:0",
      [](Call& c) {
        for (TensorView* view :
             {&c.args.a_packed.codes, &c.args.a_packed.scales, &c.args.a_packed.scale,
              &c.args.b.codes, &c.args.b.scales, &c.args.b.scale, &c.args.bias, &c.args.c}) {
          view->device = kCuda;
        }
      },
      StatusCode::kUnsupported);
}

// Shapes alone: no memory is looked at.
TEST(GemmArguments, WorkspaceQuery) {
  Call call;
  call.group();
  for (TensorView* view :
       {&call.args.a_packed.codes, &call.args.a_packed.scales, &call.args.a_packed.scale,
        &call.args.b.codes, &call.args.b.scales, &call.args.b.scale, &call.args.bias, &call.args.c,
        &call.args.groups.row_offsets, &call.args.groups.scale_row_offsets}) {
    view->data = nullptr;
  }
  const auto bytes = gemm_workspace_bytes(call.args);
  ASSERT_TRUE(bytes.ok()) << bytes.status().message();
  EXPECT_EQ(bytes.value(), 0u);
  call.args.b.columns = 0;
  const auto refused_query = gemm_workspace_bytes(call.args);
  ASSERT_FALSE(refused_query.ok());
  EXPECT_EQ(refused_query.status().message().find("gemm_workspace_bytes: b.columns: expected "),
            0u);
}

struct PrepareCall {
  TensorSet set;
  PrepareWeightsArgs args;
  Execution execution;

  PrepareCall() {
    args.plain.rows = kN;
    args.plain.columns = kK;
    args.plain.codes = add("codes", {kN, kK / 2});
    args.plain.scales = add("scales", {kN, kK / 16});
    args.prepared = add("prepared", {prepared_weight_bytes(Format::kNvfp4, kN, kK)});
  }
  TensorView add(const char* name, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(DType::kU8, std::move(shape)));
    return set.view(name);
  }
};

void prepare_refused(const char* argument, const std::function<void(PrepareCall&)>& change) {
  for (const bool forward : {true, false}) {
    PrepareCall call;
    change(call);
    const TensorSet before = call.set.clone();
    const base::Status status = forward ? prepare_weights(call.args, call.execution)
                                        : unprepare_weights(call.args, call.execution);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.message();
    const std::string start =
        std::string(forward ? "prepare_weights: " : "unprepare_weights: ") + argument + ": ";
    EXPECT_EQ(status.message().find(start + "expected "), 0u) << status.message();
    EXPECT_EQ(testing::first_difference(before, call.set), "") << status.message();
  }
}

TEST(GemmArguments, PrepareWeights) {
  prepare_refused("format", [](PrepareCall& c) { c.args.plain.format = Format::kFp8; });
  prepare_refused("layout", [](PrepareCall& c) { c.args.plain.layout = ScaleLayout{7}; });
  prepare_refused("rows", [](PrepareCall& c) { c.args.plain.rows = -1; });
  prepare_refused("rows", [](PrepareCall& c) { c.args.plain.rows = std::int64_t{1} << 58; });
  prepare_refused("columns", [](PrepareCall& c) { c.args.plain.columns = 24; });
  prepare_refused("codes", [](PrepareCall& c) { c.args.plain.codes = {}; });
  prepare_refused("codes", [](PrepareCall& c) { c.args.plain.codes.shape[0] = 1; });
  prepare_refused("codes", [](PrepareCall& c) { c.args.plain.codes.device = kCuda; });
  prepare_refused("scales", [](PrepareCall& c) { c.args.plain.scales = {}; });
  prepare_refused("scales", [](PrepareCall& c) { c.args.plain.scales.shape[0] = 1; });
  prepare_refused("scale", [](PrepareCall& c) { c.args.plain.scale = c.args.plain.codes; });
  prepare_refused("prepared", [](PrepareCall& c) { c.args.prepared = {}; });
  prepare_refused("prepared", [](PrepareCall& c) { c.args.prepared.shape[0] += 16; });
  prepare_refused("prepared", [](PrepareCall& c) {
    c.args.prepared.data = c.args.prepared.as<std::byte>() + 1;
  });
  prepare_refused("num_threads", [](PrepareCall& c) { c.execution.num_threads = -1; });
  PrepareCall overlapping;
  overlapping.args.prepared.data = overlapping.args.plain.codes.data;
  EXPECT_EQ(prepare_weights(overlapping.args).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(unprepare_weights(overlapping.args).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace halfbyte::ops
