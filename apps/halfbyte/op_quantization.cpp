#include "apps/halfbyte/op_quantization.h"

#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::TensorView;
using formats::ScaleLayout;
using formats::ScaleMode;

constexpr std::pair<std::string_view, ScaleMode> kModes[] = {
    {"tensor", ScaleMode::kTensor}, {"row", ScaleMode::kRow}, {"computed", ScaleMode::kComputed}};
constexpr std::pair<std::string_view, formats::ScaleRule> kScaleRules[] = {
    {"kernel", formats::ScaleRule::kKernel}, {"te", formats::ScaleRule::kTe}};
constexpr std::pair<std::string_view, formats::MxRule> kMxRules[] = {
    {"round_up", formats::MxRule::kRoundUp}, {"ocp_floor", formats::MxRule::kOcpFloor}};

}  // namespace

std::vector<std::int64_t> shape_of(const TensorView& view) {
  return {view.shape.begin(), view.shape.begin() + view.ndim};
}

Result<Extent> extent_of(const char* argument, const TensorView& view) {
  if (view.ndim == 0) return base::invalid_argument(argument, "shape [.., H]", "[]");
  Extent extent{1, view.shape[view.ndim - 1]};
  for (int i = 0; i + 1 < view.ndim; ++i) extent.rows *= view.shape[i];
  return extent;
}

ops::Activation activation(const Settings& settings) {
  ops::Activation activation;
  activation.interleave = static_cast<std::int32_t>(settings.integer("interleave").value_or(0));
  if (!settings.text("clamp").empty()) activation.clamp = settings.number("clamp");
  activation.alpha = settings.number("alpha");
  activation.up_bias = settings.number("up_bias");
  activation.rounding = settings.choice("rounding", kRoundings);
  return activation;
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

}  // namespace halfbyte::app
