#include "apps/halfbyte/op_run.h"

#include <optional>
#include <utility>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::TensorView;
using formats::Format;
using formats::ScaleLayout;
using formats::ScaleMode;

constexpr std::pair<std::string_view, Format> kFormats[] = {
    {"nvfp4", Format::kNvfp4}, {"mxfp4", Format::kMxfp4}, {"fp8", Format::kFp8}};
constexpr std::pair<std::string_view, ScaleLayout> kLayouts[] = {
    {"linear", ScaleLayout::kLinear}, {"128x4", ScaleLayout::k128x4}, {"8x4", ScaleLayout::k8x4}};
constexpr std::pair<std::string_view, ScaleMode> kModes[] = {
    {"tensor", ScaleMode::kTensor}, {"row", ScaleMode::kRow}, {"computed", ScaleMode::kComputed}};
constexpr std::pair<std::string_view, formats::ScaleRule> kScaleRules[] = {
    {"kernel", formats::ScaleRule::kKernel}, {"te", formats::ScaleRule::kTe}};
constexpr std::pair<std::string_view, formats::MxRule> kMxRules[] = {
    {"round_up", formats::MxRule::kRoundUp}, {"ocp_floor", formats::MxRule::kOcpFloor}};
constexpr std::pair<std::string_view, ops::Rounding> kRoundings[] = {
    {"float32", ops::Rounding::kFloat32}, {"huggingface", ops::Rounding::kHuggingFace}};
constexpr std::pair<std::string_view, DType> kDTypes[] = {
    {"bf16", DType::kBF16}, {"fp16", DType::kF16}, {"fp32", DType::kF32}};

std::vector<std::int64_t> shape_of(const TensorView& view) {
  return {view.shape.begin(), view.shape.begin() + view.ndim};
}

// M and H of a [.., H] tensor; the operator checks the rest.
struct Extent {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};
Result<Extent> extent_of(const char* argument, const TensorView& view) {
  if (view.ndim == 0) return base::invalid_argument(argument, "shape [.., H]", "[]");
  Extent extent{1, view.shape[view.ndim - 1]};
  for (int i = 0; i + 1 < view.ndim; ++i) extent.rows *= view.shape[i];
  return extent;
}

ops::QuantizeSpec quantize_spec(const Settings& settings) {
  ops::QuantizeSpec spec;
  spec.format = settings.choice("format", kFormats);
  spec.layout = settings.choice("layout", kLayouts);
  if (!settings.text("second_layout").empty()) {
    spec.second_layout = settings.choice("second_layout", kLayouts);
  }
  spec.scale = settings.choice("scale", kModes);
  spec.scale_rule = settings.choice("scale_rule", kScaleRules);
  spec.mx_rule = settings.choice("mx_rule", kMxRules);
  return spec;
}

ops::GivenScale given_scale(const OpCall& call) {
  return {call.input("global_scale"), call.input("decode_scale")};
}

// The outputs that apply to `spec`, allocated.
Status add_quantize_outputs(OpCall& call, const ops::QuantizeSpec& spec, Extent x,
                            ops::QuantizeOutputs& out) {
  const std::int64_t scale_columns = x.columns / formats::block_elements(spec.format);
  HALFBYTE_RETURN_IF_ERROR(call.add_output(
      "codes", DType::kU8, {x.rows, formats::code_bytes(spec.format, x.columns)}, out.codes));
  if (formats::has_block_scales(spec.format)) {
    const auto bytes = [&](ScaleLayout layout) {
      return std::vector{formats::scale_bytes(layout, x.rows, scale_columns)};
    };
    HALFBYTE_RETURN_IF_ERROR(call.add_output("scales", DType::kU8, bytes(spec.layout), out.scales));
    if (spec.second_layout) {
      HALFBYTE_RETURN_IF_ERROR(call.add_output("scales_second", DType::kU8,
                                               bytes(*spec.second_layout), out.scales_second));
    }
  }
  if (spec.scale == ScaleMode::kRow) {
    return call.add_output("row_scale", DType::kF32, {x.rows}, out.row_scale);
  }
  if (spec.scale == ScaleMode::kComputed) {
    HALFBYTE_RETURN_IF_ERROR(call.add_output("global_scale", DType::kF32, {1}, out.global_scale));
    return call.add_output("decode_scale", DType::kF32, {1}, out.decode_scale);
  }
  return {};
}

ops::NormArgs norm_args(OpCall& call) {
  ops::NormArgs norm;
  norm.x = call.input("x");
  norm.weight = call.input("weight");
  norm.residual = call.input("residual");
  norm.eps = call.settings().number("eps");
  norm.rounding = call.settings().choice("rounding", kRoundings);
  norm.weight_bias = call.settings().flag("bias");
  return norm;
}

// Codes of `rows` x `columns` elements, where the tensor may be larger: its padding is left out.
Result<TensorView> unpadded_codes(const TensorView& codes, Extent given, Extent wanted,
                                  std::int64_t row_bytes) {
  if (wanted.rows > given.rows) {
    return base::invalid_argument("--set rows", "at most the codes' " + std::to_string(given.rows),
                                  std::to_string(wanted.rows));
  }
  if (row_bytes > given.columns) {
    return base::invalid_argument(
        "--set columns", "at most what " + std::to_string(given.columns) + " bytes a row hold",
        std::to_string(wanted.columns));
  }
  const std::int64_t shape[] = {wanted.rows, row_bytes};
  const std::int64_t strides[] = {given.columns, 1};
  return TensorView(codes.data, codes.dtype, shape, strides, codes.device);
}

// At most one of the three names of the fp32 scale.
Status choose_packed_scale(const OpCall& call, formats::PackedTensor& packed) {
  constexpr std::pair<std::string_view, formats::ScaleKind> kNames[] = {
      {"global_scale", formats::ScaleKind::kEncode},
      {"decode_scale", formats::ScaleKind::kDecode},
      {"row_scale", formats::ScaleKind::kDecode}};
  std::string given;
  for (const auto& [name, kind] : kNames) {
    const TensorView view = call.input(name);
    if (!view) continue;
    if (!given.empty()) {
      return base::invalid_argument("tensor '" + std::string(name) + "'",
                                    "one of global_scale, decode_scale, row_scale",
                                    "it and '" + given + "'");
    }
    given = name;
    packed.scale = view;
    packed.scale_kind = kind;
  }
  return {};
}

}  // namespace

TensorView OpCall::input(std::string_view name) const {
  const auto found = inputs_.find(name);
  return found == inputs_.end() ? TensorView() : found->second.view();
}

Status OpCall::add_output(std::string name, DType dtype, const std::vector<std::int64_t>& shape,
                          TensorView& target) {
  Result<OwnedTensor> tensor = OwnedTensor::create(dtype, shape, device_);
  if (!tensor.ok()) return tensor.status();
  target = tensor.value().view();
  output_order_.push_back(name);
  outputs_.emplace(std::move(name), std::move(tensor).value());
  return {};
}

void OpCall::input_is_output(std::string_view name) {
  const auto found = inputs_.find(name);
  if (found == inputs_.end()) return;
  output_order_.emplace_back(name);
  outputs_.emplace(found->first, std::move(found->second));
  inputs_.erase(found);
}

Status run_quantize(OpCall& call) {
  ops::QuantizeArgs args;
  args.x = call.input("x");
  args.given = given_scale(call);
  args.spec = quantize_spec(call.settings());
  const Result<Extent> x = extent_of("x", args.x);
  if (!x.ok()) return x.status();
  HALFBYTE_RETURN_IF_ERROR(add_quantize_outputs(call, args.spec, x.value(), args.out));
  return ops::quantize(args, call.execution());
}

Status run_dequantize(OpCall& call) {
  const Settings& settings = call.settings();
  ops::DequantizeArgs args;
  formats::PackedTensor& packed = args.packed;
  packed.format = settings.choice("format", kFormats);
  packed.layout = settings.choice("layout", kLayouts);
  const TensorView codes = call.input("codes");
  const Result<Extent> given = extent_of("codes", codes);
  if (!given.ok()) return given.status();
  const std::int64_t codes_a_byte = packed.format == Format::kFp8 ? 1 : 2;
  packed.rows = settings.integer("rows").value_or(given.value().rows);
  packed.columns = settings.integer("columns").value_or(given.value().columns * codes_a_byte);
  const Result<TensorView> unpadded =
      unpadded_codes(codes, given.value(), {packed.rows, packed.columns},
                     formats::code_bytes(packed.format, packed.columns));
  if (!unpadded.ok()) return unpadded.status();
  packed.codes = unpadded.value();
  packed.scales = call.input("scales");
  HALFBYTE_RETURN_IF_ERROR(choose_packed_scale(call, packed));
  HALFBYTE_RETURN_IF_ERROR(call.add_output("x", settings.choice("dtype", kDTypes),
                                           {packed.rows, packed.columns}, args.x));
  return ops::dequantize(args, call.execution());
}

Status run_amax(OpCall& call) {
  ops::AmaxArgs args;
  args.x = call.input("x");
  args.per_row = call.settings().text("per") == "row";
  const Result<Extent> x = extent_of("x", args.x);
  if (!x.ok()) return x.status();
  HALFBYTE_RETURN_IF_ERROR(
      call.add_output("amax", DType::kF32, {args.per_row ? x.value().rows : 1}, args.amax));
  return ops::amax(args, call.execution());
}

Status run_rmsnorm(OpCall& call) {
  ops::RmsNormArgs args;
  args.norm = norm_args(call);
  HALFBYTE_RETURN_IF_ERROR(
      call.add_output("normed", args.norm.x.dtype, shape_of(args.norm.x), args.y));
  call.input_is_output("residual");
  return ops::rmsnorm(args, call.execution());
}

Status run_rmsnorm_quantize(OpCall& call) {
  ops::RmsNormQuantizeArgs args;
  args.norm = norm_args(call);
  args.given = given_scale(call);
  args.spec = quantize_spec(call.settings());
  const Result<Extent> x = extent_of("x", args.norm.x);
  if (!x.ok()) return x.status();
  HALFBYTE_RETURN_IF_ERROR(add_quantize_outputs(call, args.spec, x.value(), args.out));
  if (call.settings().flag("normed")) {
    HALFBYTE_RETURN_IF_ERROR(
        call.add_output("normed", args.norm.x.dtype, shape_of(args.norm.x), args.normed));
  }
  call.input_is_output("residual");
  return ops::rmsnorm_quantize(args, call.execution());
}

}  // namespace halfbyte::app
