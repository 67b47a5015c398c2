// halfbyte op gemm, gemm_silu_mul_quantize: b is plain, as in a checkpoint; on CUDA it is prepared
// first.
#include <optional>

#include "apps/halfbyte/gemm_plans.h"
#include "apps/halfbyte/op_quantization.h"
#include "halfbyte/ops/gemm/gemm_silu_mul.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::TensorView;
using ops::ScaleKind;

constexpr std::pair<std::string_view, DType> kDTypes[] = {
    {"bf16", DType::kBF16}, {"fp16", DType::kF16}, {"fp32", DType::kF32}};

// At most one of the two names of an operand's fp32 scale.
Status choose_scale(const OpCall& call, const std::string& operand, TensorView& scale,
                    ScaleKind& kind) {
  const TensorView global = call.input(operand + "_global_scale");
  const TensorView decode = call.input(operand + "_decode_scale");
  if (global && decode) {
    return base::invalid_argument(
        "tensor '" + operand + "_decode_scale'",
        "one of " + operand + "_global_scale, " + operand + "_decode_scale", "both");
  }
  scale = global ? global : decode;
  kind = global ? ScaleKind::kEncode : decode ? ScaleKind::kDecode : ScaleKind::kNone;
  return {};
}

// A: codes and scales where the key a names a format, else a tensor of the type that it names.
Result<std::int64_t> read_a(const OpCall& call, ops::GemmArgs& args) {
  const std::string_view kind = call.settings().text("a");
  const bool quantized = kind == "nvfp4" || kind == "mxfp4";
  const std::string name = quantized ? "a_codes" : "a";
  const TensorView a = call.input(name);
  if (!a) {
    return base::invalid_argument("a", "a tensor '" + name + "' for a=" + std::string(kind),
                                  "none");
  }
  if (call.input(quantized ? "a" : "a_codes")) {
    return base::invalid_argument(quantized ? "a" : "a_codes",
                                  "no such tensor for a=" + std::string(kind), "one");
  }
  const Result<Extent> extent = extent_of(name.c_str(), a);
  if (!extent.ok()) return extent.status();
  HALFBYTE_RETURN_IF_ERROR(choose_scale(call, "a", args.a_packed.scale, args.a_packed.scale_kind));
  args.a_packed.scales = call.input("a_scales");
  if (!quantized) {
    if (a.dtype != call.settings().choice("a", kDTypes)) {
      return base::invalid_argument("a", std::string(kind), std::string(base::dtype_name(a.dtype)));
    }
    args.a = a;
    return extent.value().rows;
  }
  args.a_packed.format = call.settings().choice("a", kFormats);
  args.a_packed.layout = call.settings().choice("a_layout", kLayouts);
  args.a_packed.rows = extent.value().rows;
  args.a_packed.columns = 2 * extent.value().columns;
  args.a_packed.codes = a;
  return extent.value().rows;
}

// On CUDA: b as the kernels there take it.
Status prepare_on_device(OpCall& call, ops::GemmWeights& b, std::optional<OwnedTensor>& memory) {
  if (call.device() == kHost) return {};
  const std::int64_t shape[] = {ops::prepared_weight_bytes(b.format, b.rows, b.columns)};
  Result<OwnedTensor> prepared = OwnedTensor::create(DType::kU8, shape, call.device());
  if (!prepared.ok()) return prepared.status();
  memory = std::move(prepared).value();
  ops::PrepareWeightsArgs args;
  args.plain.format = b.format;
  args.plain.layout = b.layout;
  args.plain.rows = b.rows;
  args.plain.columns = b.columns;
  args.plain.codes = b.codes;
  args.plain.scales = b.scales;
  args.prepared = memory->view();
  HALFBYTE_RETURN_IF_ERROR(ops::prepare_weights(args, call.execution()));
  b.form = ops::WeightForm::kPrepared;
  b.codes = b.scales = {};
  b.prepared = memory->view();
  return {};
}

// All of the product's arguments but c, and the number of its rows. `prepared` has the weights on
// CUDA.
Result<std::int64_t> read_product(OpCall& call, ops::GemmArgs& args,
                                  std::optional<OwnedTensor>& prepared) {
  Result<std::int64_t> rows = read_a(call, args);
  if (!rows.ok()) return rows;
  ops::GemmWeights& b = args.b;
  b.codes = call.input("b_codes");
  const Result<Extent> extent = extent_of("b_codes", b.codes);
  if (!extent.ok()) return extent.status();
  b.format = call.settings().choice("b", kFormats);
  b.layout = call.settings().choice("b_layout", kLayouts);
  b.rows = extent.value().rows;
  b.columns = 2 * extent.value().columns;
  b.scales = call.input("b_scales");
  HALFBYTE_RETURN_IF_ERROR(choose_scale(call, "b", b.scale, b.scale_kind));
  args.bias = call.input("bias");
  args.method = call.settings().choice("plan", kGemmPlans);
  HALFBYTE_RETURN_IF_ERROR(prepare_on_device(call, b, prepared));
  return rows;
}

// `run` with the workspace that `query` asks for.
template <class Args>
Status with_workspace(OpCall& call, const Args& args,
                      Result<std::size_t> (*query)(const Args&, const base::Execution&),
                      Status (*run)(const Args&, const base::Execution&)) {
  const Result<std::size_t> bytes = query(args, call.execution());
  if (!bytes.ok()) return bytes.status();
  std::optional<OwnedTensor> workspace;
  if (bytes.value() > 0) {
    const std::int64_t shape[] = {static_cast<std::int64_t>(bytes.value())};
    Result<OwnedTensor> memory = OwnedTensor::create(DType::kU8, shape, call.device());
    if (!memory.ok()) return memory.status();
    workspace = std::move(memory).value();
  }
  base::Execution execution = call.execution();
  if (workspace) {
    execution.workspace = workspace->view().data;
    execution.workspace_bytes = workspace->size_bytes();
  }
  return run(args, execution);
}

}  // namespace

Status run_gemm(OpCall& call) {
  ops::GemmArgs args;
  std::optional<OwnedTensor> prepared;
  const Result<std::int64_t> rows = read_product(call, args, prepared);
  if (!rows.ok()) return rows.status();
  HALFBYTE_RETURN_IF_ERROR(call.add_output("c", call.settings().choice("out", kDTypes),
                                           {rows.value(), args.b.rows}, args.c));
  return with_workspace(call, args, ops::gemm_workspace_bytes, ops::gemm);
}

Status run_gemm_silu_mul_quantize(OpCall& call) {
  ops::GemmSiluMulQuantizeArgs args;
  std::optional<OwnedTensor> prepared;
  const Result<std::int64_t> rows = read_product(call, args.product, prepared);
  if (!rows.ok()) return rows.status();
  args.dtype = call.settings().choice("dtype", kDTypes);
  args.activation = activation(call.settings());
  args.given = given_scale(call);
  args.spec = quantize_spec(call.settings());
  HALFBYTE_RETURN_IF_ERROR(
      add_quantize_outputs(call, args.spec, {rows.value(), args.product.b.rows / 2}, args.out));
  return with_workspace(call, args, ops::gemm_silu_mul_workspace_bytes,
                        ops::gemm_silu_mul_quantize);
}

}  // namespace halfbyte::app
