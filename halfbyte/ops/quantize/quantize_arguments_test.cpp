// Every argument that quantize, dequantize and amax refuse: the message names it, and nothing is
// written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <utility>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/ops/quantize/quantize_testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::StatusCode;
using testing::TensorSet;
using testing::TestTensor;

constexpr std::int64_t kRows = 4, kColumns = 64;

// One buffer for everything a call may take, so that tests can point any argument at any other.
struct Call {
  TensorSet set;
  QuantizeArgs args;
  Execution execution;

  explicit Call(Format format = Format::kNvfp4, ScaleMode mode = ScaleMode::kTensor) {
    args.spec.format = format;
    args.spec.scale = mode;
    args.x = add("x", DType::kBF16, {kRows, kColumns});
    testing::fill(args.x, {1, 2, 3, -4});
    args.out.codes = add("codes", DType::kU8, {kRows, formats::code_bytes(format, kColumns)});
    if (format != Format::kFp8) {
      args.out.scales =
          add("scales", DType::kU8, {kRows * kColumns / formats::block_elements(format)});
    }
    if (mode == ScaleMode::kRow) args.out.row_scale = add("row_scale", DType::kF32, {kRows});
    if (mode == ScaleMode::kComputed) {
      args.out.global_scale = add("global_scale", DType::kF32, {1});
      args.out.decode_scale = add("decode_scale", DType::kF32, {1});
    }
    if (format == Format::kFp8 && mode == ScaleMode::kTensor) {
      args.given.decode_scale = add("given", DType::kF32, {1});
      testing::fill(args.given.decode_scale, {0.5f});
    }
  }
  TensorView add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(dtype, std::move(shape)));
    return set.view(name);
  }
  TensorView scale(float value, DType dtype = DType::kF32) {
    const TensorView view = add("given", dtype, {1});
    testing::fill(view, {value});
    return view;
  }
};

void expect_unchanged(const TensorSet& before, const TensorSet& after, const base::Status& status,
                      const std::string& argument, StatusCode code) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(argument + ": expected "), std::string::npos)
      << "no \"" << argument << "\" in: " << status.message();
  EXPECT_EQ(testing::first_difference(before, after), "") << status.message();
}

void expect_refused(const Call& call, const std::string& argument) {
  const TensorSet before = call.set.clone();
  expect_unchanged(before, call.set, quantize(call.args, call.execution), argument,
                   StatusCode::kInvalidArgument);
}
void expect_accepted(const Call& call) {
  const base::Status status = quantize(call.args, call.execution);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(QuantizeArguments, TheseAreValid) {
  for (const Format format : {Format::kNvfp4, Format::kMxfp4, Format::kFp8}) {
    expect_accepted(Call(format));
  }
  expect_accepted(Call(Format::kNvfp4, ScaleMode::kRow));
  expect_accepted(Call(Format::kNvfp4, ScaleMode::kComputed));
  expect_accepted(Call(Format::kFp8, ScaleMode::kRow));
}

TEST(QuantizeArguments, X) {
  Call call;
  const TensorView x = call.args.x;
  const auto with = [&](const std::function<void(TensorView&)>& change) {
    call.args.x = x;
    change(call.args.x);
    expect_refused(call, "x");
  };
  with([](TensorView& v) { v = {}; });
  with([](TensorView& v) { v.ndim = 0; });
  with([](TensorView& v) { v.dtype = DType::kU8; });
  with([](TensorView& v) { v.dtype = DType::kI32; });
  with([](TensorView& v) { v.data = nullptr; });
  with([](TensorView& v) { v.data = v.as<std::byte>() + 1; });
  with([](TensorView& v) { v.shape[1] = 0; });
  with([](TensorView& v) { v.shape[0] = -1; });
  with([](TensorView& v) { v.shape[1] = kColumns - 1; });  // not whole blocks
  with([](TensorView& v) { v.shape[1] = kColumns / 2, v.strides[1] = 2; });
  with([](TensorView& v) {  // three strides that do not fold into two levels
    v.ndim = 4;
    v.shape = {2, 2, 2, 16};
    v.strides = {100, 40, 16, 1};
  });
  Call mx(Format::kMxfp4);  // 48 columns are whole NVFP4 blocks and not whole MXFP4 ones
  mx.args.x.shape[1] = 48;
  expect_refused(mx, "x");
}

// A CUDA tensor in a build without CUDA, or on no device at all, or mixed with CPU tensors.
TEST(QuantizeArguments, Devices) {
  const base::Device cuda{base::DeviceType::kCuda, 0};
  for (TensorView QuantizeOutputs::*output : {&QuantizeOutputs::codes, &QuantizeOutputs::scales}) {
    Call call;
    (call.args.out.*output).device = cuda;
    expect_refused(call, output == &QuantizeOutputs::codes ? "codes" : "scales");
  }
  Call given;
  given.args.given.global_scale = given.scale(1.0f);
  given.args.given.global_scale.device = cuda;
  expect_refused(given, "global_scale");
  Call cpu_backend;
  cpu_backend.args.x.device = cuda;
  for (const base::Backend backend : {base::Backend::kCpu, base::Backend::kReference}) {
    cpu_backend.execution.backend = backend;
    expect_refused(cpu_backend, "backend");
  }
  Call cuda_backend;
  cuda_backend.execution.backend = base::Backend::kCuda;
  expect_refused(cuda_backend, "backend");
  if (!base::built_with_cuda()) {
    Call call;
    call.args.x.device = cuda;
    const base::Status status = quantize(call.args, call.execution);
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find("cuda:0"), std::string::npos) << status.message();
  }
}

TEST(QuantizeArguments, Execution) {
  Call threads;
  threads.execution.num_threads = -1;
  expect_refused(threads, "num_threads");
  Call level;
  level.execution.cpu_level = base::CpuLevel::kNeon;
#if defined(__aarch64__)
  level.execution.cpu_level = base::CpuLevel::kV3;
#endif
  expect_refused(level, "cpu_level");
  level.execution.cpu_level = static_cast<base::CpuLevel>(17);
  expect_refused(level, "cpu_level");
}

TEST(QuantizeArguments, GivenScales) {
  for (const float bad : {0.0f, -0.0f, -1.0f, testing::kNan, testing::kInf, -testing::kInf}) {
    Call nvfp4;
    nvfp4.args.given.global_scale = nvfp4.scale(bad);
    expect_refused(nvfp4, "global_scale");
    Call fp8(Format::kFp8);
    testing::fill(fp8.args.given.decode_scale, {bad});
    expect_refused(fp8, "decode_scale");
    Call rows;
    rows.args.given.global_scale = rows.add("given", DType::kF32, {kRows});
    testing::fill(rows.args.given.global_scale, {1, 1, 1, bad});
    expect_refused(rows, "global_scale");
  }
  Call bf16;  // a bf16 tensor passed as the fp32 scale was misread elsewhere
  bf16.args.given.global_scale = bf16.scale(1.0f, DType::kBF16);
  expect_refused(bf16, "global_scale");
  Call shape;
  shape.args.given.global_scale = shape.add("given", DType::kF32, {kRows - 1});
  expect_refused(shape, "global_scale");
  shape.args.given.global_scale = shape.add("given", DType::kF32, {2, kRows / 2});
  expect_refused(shape, "global_scale");
  Call null;
  null.args.given.global_scale = null.scale(1.0f);
  null.args.given.global_scale.data = nullptr;
  expect_refused(null, "global_scale");
  Call misaligned;
  misaligned.args.given.global_scale = misaligned.scale(1.0f);
  misaligned.args.given.global_scale.data = misaligned.args.given.global_scale.as<std::byte>() + 2;
  expect_refused(misaligned, "global_scale");

  // Where a format or mode takes none: an error, never ignored.
  const std::pair<Format, ScaleMode> refuse_global[] = {{Format::kMxfp4, ScaleMode::kTensor},
                                                        {Format::kFp8, ScaleMode::kTensor},
                                                        {Format::kFp8, ScaleMode::kRow},
                                                        {Format::kNvfp4, ScaleMode::kRow},
                                                        {Format::kNvfp4, ScaleMode::kComputed}};
  for (const auto& [format, mode] : refuse_global) {
    Call call(format, mode);
    call.args.given.global_scale = call.add("global", DType::kF32, {1});
    testing::fill(call.args.given.global_scale, {1.0f});
    expect_refused(call, "global_scale");
  }
  const std::pair<Format, ScaleMode> refuse_decode[] = {{Format::kMxfp4, ScaleMode::kTensor},
                                                        {Format::kFp8, ScaleMode::kRow},
                                                        {Format::kNvfp4, ScaleMode::kTensor},
                                                        {Format::kNvfp4, ScaleMode::kRow}};
  for (const auto& [format, mode] : refuse_decode) {
    Call call(format, mode);
    call.args.given.decode_scale = call.scale(1.0f);
    expect_refused(call, "decode_scale");
  }
  Call missing(Format::kFp8);
  missing.args.given.decode_scale = {};
  expect_refused(missing, "decode_scale");
  Call per_row(Format::kFp8);
  per_row.args.given.decode_scale = per_row.add("given", DType::kF32, {kRows});
  expect_refused(per_row, "decode_scale");
}

TEST(QuantizeArguments, Spec) {
  const auto with = [](const char* argument, Format format, ScaleMode mode,
                       const std::function<void(QuantizeSpec&)>& change) {
    Call call(format, mode);
    change(call.args.spec);
    expect_refused(call, argument);
  };
  const ScaleMode tensor = ScaleMode::kTensor;
  with("scale_rule", Format::kMxfp4, tensor, [](auto& s) { s.scale_rule = ScaleRule::kTe; });
  with("scale_rule", Format::kFp8, tensor, [](auto& s) { s.scale_rule = ScaleRule::kTe; });
  with("mx_rule", Format::kNvfp4, tensor, [](auto& s) { s.mx_rule = MxRule::kOcpFloor; });
  with("mx_rule", Format::kFp8, tensor, [](auto& s) { s.mx_rule = MxRule::kOcpFloor; });
  with("scale", Format::kMxfp4, ScaleMode::kRow, [](auto&) {});
  with("scale", Format::kMxfp4, ScaleMode::kComputed, [](auto&) {});
  with("scale", Format::kFp8, ScaleMode::kComputed, [](auto&) {});
  with("layout", Format::kFp8, tensor, [](auto& s) { s.layout = ScaleLayout::k128x4; });
  with("second_layout", Format::kFp8, tensor,
       [](auto& s) { s.second_layout = ScaleLayout::kLinear; });
  with("format", Format::kNvfp4, tensor, [](auto& s) { s.format = static_cast<Format>(3); });
  with("layout", Format::kNvfp4, tensor, [](auto& s) { s.layout = static_cast<ScaleLayout>(3); });
  with("second_layout", Format::kNvfp4, tensor,
       [](auto& s) { s.second_layout = static_cast<ScaleLayout>(-1); });
  with("scale", Format::kNvfp4, tensor, [](auto& s) { s.scale = static_cast<ScaleMode>(9); });
  with("scale_rule", Format::kNvfp4, tensor,
       [](auto& s) { s.scale_rule = static_cast<ScaleRule>(2); });
  with("mx_rule", Format::kMxfp4, tensor, [](auto& s) { s.mx_rule = static_cast<MxRule>(2); });
}

TEST(QuantizeArguments, Outputs) {
  const auto with = [](const char* argument, Format format, ScaleMode mode,
                       const std::function<void(Call&)>& change) {
    Call call(format, mode);
    change(call);
    expect_refused(call, argument);
  };
  const Format nvfp4 = Format::kNvfp4;
  const ScaleMode tensor = ScaleMode::kTensor;
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes = {}; });
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes.dtype = DType::kI32; });
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes.shape[0] = kRows - 1; });
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes.shape[1] = kColumns; });
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes.data = nullptr; });
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes.strides[0] = 0; });
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes.strides[0] = kColumns / 2 - 1; });
  with("codes", nvfp4, tensor, [](Call& c) { c.args.out.codes.strides[1] = 2; });
  with("scales", nvfp4, tensor, [](Call& c) { c.args.out.scales = {}; });
  with("scales", nvfp4, tensor, [](Call& c) { c.args.out.scales.shape[0] -= 1; });
  with("scales", nvfp4, tensor, [](Call& c) { c.args.out.scales.shape[0] += 1; });
  with("scales", nvfp4, tensor, [](Call& c) { c.args.out.scales.strides[0] = 2; });
  with("scales", nvfp4, tensor, [](Call& c) { c.args.out.scales.dtype = DType::kF32; });
  with("scales", nvfp4, tensor, [](Call& c) { c.args.spec.layout = ScaleLayout::k128x4; });
  with("scales", Format::kFp8, tensor,
       [](Call& c) { c.args.out.scales = c.add("scales", DType::kU8, {16}); });
  with("scales_second", nvfp4, tensor,
       [](Call& c) { c.args.spec.second_layout = ScaleLayout::kLinear; });
  with("scales_second", nvfp4, tensor,
       [](Call& c) { c.args.out.scales_second = c.add("second", DType::kU8, {16}); });
  with("row_scale", nvfp4, ScaleMode::kRow, [](Call& c) { c.args.out.row_scale = {}; });
  with("row_scale", nvfp4, ScaleMode::kRow, [](Call& c) { c.args.out.row_scale.shape[0] = 1; });
  with("row_scale", nvfp4, ScaleMode::kRow,
       [](Call& c) { c.args.out.row_scale.dtype = DType::kBF16; });
  with("row_scale", nvfp4, tensor,
       [](Call& c) { c.args.out.row_scale = c.add("row_scale", DType::kF32, {kRows}); });
  with("out.global_scale", nvfp4, ScaleMode::kComputed,
       [](Call& c) { c.args.out.global_scale = {}; });
  with("out.decode_scale", nvfp4, ScaleMode::kComputed,
       [](Call& c) { c.args.out.decode_scale = {}; });
  with("out.global_scale", nvfp4, tensor,
       [](Call& c) { c.args.out.global_scale = c.add("g", DType::kF32, {1}); });
  with("out.decode_scale", Format::kFp8, tensor,
       [](Call& c) { c.args.out.decode_scale = c.add("d", DType::kF32, {1}); });
}

TEST(QuantizeArguments, Overlap) {
  Call over_x;
  over_x.args.out.codes.data = over_x.args.x.data;
  expect_refused(over_x, "codes");
  Call last_byte;  // the last byte of codes is the first of x
  last_byte.args.out.codes.data = last_byte.args.x.as<std::byte>() - kRows * kColumns / 2 + 1;
  expect_refused(last_byte, "codes");
  Call scales;
  scales.args.out.scales.data = scales.args.out.codes.data;
  expect_refused(scales, "codes");
  Call given(Format::kNvfp4, ScaleMode::kTensor);
  given.args.given.global_scale = given.scale(1.0f);
  given.args.out.scales.data = given.args.given.global_scale.data;
  expect_refused(given, "scales");
  Call second;
  second.args.spec.second_layout = ScaleLayout::kLinear;
  second.args.out.scales_second = second.args.out.scales;
  expect_refused(second, "scales");
}

// Codes and x as column slices of one buffer: rows interleave, no byte is shared.
TEST(QuantizeArguments, InterleavedColumnsAreAccepted) {
  Call call(Format::kFp8, ScaleMode::kRow);
  const TensorView buffer = call.add("buffer", DType::kU8, {kRows, 4 * kColumns});
  call.args.x.data = buffer.data;
  call.args.x.strides[0] = 2 * kColumns;
  call.args.out.codes.data = buffer.as<std::byte>() + 2 * kColumns;
  call.args.out.codes.strides[0] = 4 * kColumns;
  expect_accepted(call);
  call.args.out.codes.data = buffer.as<std::byte>() + 2 * kColumns - 1;  // one byte of x
  expect_refused(call, "codes");
}

TEST(DequantizeArguments, EveryRefusal) {
  const auto with = [](const char* argument, const std::function<void(DequantizeArgs&)>& change) {
    TensorSet set;
    set.add("x", TestTensor(DType::kF32, {kRows, kColumns}));
    set.add("codes", TestTensor(DType::kU8, {kRows, kColumns / 2}));
    set.add("scales", TestTensor(DType::kU8, {kRows * kColumns / 16}));
    set.add("scale", TestTensor(DType::kF32, {1}));
    DequantizeArgs args;
    args.packed = {Format::kNvfp4,    ScaleLayout::kLinear,       kRows,
                   kColumns,          set.view("codes"),          set.view("scales"),
                   set.view("scale"), formats::ScaleKind::kEncode};
    args.x = set.view("x");
    change(args);
    const TensorSet before = set.clone();
    expect_unchanged(before, set, dequantize(args), argument, StatusCode::kInvalidArgument);
  };
  with("x", [](auto& a) { a.x = {}; });
  with("x", [](auto& a) { a.x.dtype = DType::kU8; });
  with("x", [](auto& a) { a.x.strides[0] = 0; });
  with("x", [](auto& a) { a.packed.rows = kRows + 1; });
  with("x", [](auto& a) { a.x.data = a.packed.codes.data; });
  with("columns", [](auto& a) { a.packed.columns = a.x.shape[1] = kColumns - 8; });
  with("codes", [](auto& a) { a.packed.codes = {}; });
  with("codes", [](auto& a) { a.packed.codes.shape[1] = kColumns; });
  with("codes", [](auto& a) { a.packed.codes.device.type = base::DeviceType::kCuda; });
  with("scales", [](auto& a) { a.packed.scales = {}; });
  with("scales", [](auto& a) { a.packed.scales.shape[0] -= 1; });
  with("scale", [](auto& a) { a.packed.scale = {}; });
  with("scale", [](auto& a) { a.packed.scale.dtype = DType::kBF16; });
  with("scale", [](auto& a) { a.packed.scale.shape[0] = kRows - 1; });
  with("scale", [](auto& a) { a.packed.scale_kind = formats::ScaleKind::kNone; });
  with("scale", [](auto& a) {
    a.packed.format = Format::kMxfp4;
    a.packed.scales.shape[0] = kRows * kColumns / 32;
  });
  with("format", [](auto& a) { a.packed.format = static_cast<Format>(5); });
  with("layout", [](auto& a) { a.packed.layout = static_cast<ScaleLayout>(5); });
  with("scale_kind", [](auto& a) { a.packed.scale_kind = static_cast<formats::ScaleKind>(5); });
}

TEST(AmaxArguments, EveryRefusal) {
  const auto with = [](const char* argument, const std::function<void(AmaxArgs&)>& change) {
    TensorSet set;
    set.add("x", TestTensor(DType::kF32, {kRows, kColumns}));
    set.add("amax", TestTensor(DType::kF32, {kRows}));
    AmaxArgs args{set.view("x"), set.view("amax"), true};
    change(args);
    const TensorSet before = set.clone();
    expect_unchanged(before, set, amax(args), argument, StatusCode::kInvalidArgument);
  };
  with("x", [](auto& a) { a.x = {}; });
  with("x", [](auto& a) { a.x.dtype = DType::kI64; });
  with("amax", [](auto& a) { a.amax = {}; });
  with("amax", [](auto& a) { a.per_row = false; });
  with("amax", [](auto& a) { a.amax.dtype = DType::kBF16; });
  with("amax", [](auto& a) { a.amax.data = a.x.data; });
}

}  // namespace
}  // namespace halfbyte::ops
