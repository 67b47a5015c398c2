#include "apps/halfbyte/op_run.h"

#include <utility>

#include "apps/halfbyte/op_quantization.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::TensorView;
using formats::Format;

constexpr std::pair<std::string_view, DType> kDTypes[] = {
    {"bf16", DType::kBF16}, {"fp16", DType::kF16}, {"fp32", DType::kF32}};

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
