// The C functions of this room: halfbyte_gemm, halfbyte_gemm_workspace_bytes,
// halfbyte_prepare_weights, halfbyte_unprepare_weights, halfbyte_prepared_weight_bytes.
#include "halfbyte/ops/gemm/gemm_c.h"

namespace halfbyte::ops {
namespace {

using base::Status;
using c_abi::read_tensor;

constexpr bool same(auto c_value, auto value) {
  return static_cast<std::int32_t>(c_value) == static_cast<std::int32_t>(value);
}
static_assert(same(HALFBYTE_GEMM_AUTO, GemmMethod::kAuto) &&
              same(HALFBYTE_GEMM_EXACT, GemmMethod::kExact) &&
              same(HALFBYTE_GEMM_TENSOR_CORE, GemmMethod::kTensorCore) &&
              same(HALFBYTE_GEMM_DEQUANTIZE, GemmMethod::kDequantize) &&
              same(HALFBYTE_GEMM_FP8, GemmMethod::kFp8) &&
              same(HALFBYTE_GEMM_BLOCK_SCALED, GemmMethod::kBlockScaled));
static_assert(same(HALFBYTE_WEIGHTS_PLAIN, WeightForm::kPlain) &&
              same(HALFBYTE_WEIGHTS_PREPARED, WeightForm::kPrepared));

// At most one of the two names of an fp32 scale.
Status read_scale(const std::string& operand, const halfbyte_tensor* global_scale,
                  const halfbyte_tensor* decode_scale, TensorView& scale, ScaleKind& kind) {
  const std::string global_name = operand + "global_scale", decode_name = operand + "decode_scale";
  if (global_scale != nullptr && decode_scale != nullptr) {
    return base::invalid_argument(decode_name, "at most one of global_scale and decode_scale",
                                  "both");
  }
  if (global_scale != nullptr) {
    kind = ScaleKind::kEncode;
    return read_tensor(global_name.c_str(), global_scale, scale);
  }
  if (decode_scale != nullptr) kind = ScaleKind::kDecode;
  return read_tensor(decode_name.c_str(), decode_scale, scale);
}

// `operand`: "a_", "b_" or nothing, before the names of the fields.
Status read_packed(const char* argument, const std::string& operand,
                   const halfbyte_packed_tensor* from, PackedTensor& to) {
  halfbyte_packed_tensor packed{};
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_struct(argument, from, packed));
  if (packed.reserved != 0) {
    return base::invalid_argument(std::string(argument) + ": reserved", "0",
                                  std::to_string(packed.reserved));
  }
  const std::string layout = operand + "layout", codes = operand + "codes",
                    scales = operand + "scales";
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_format(packed.format, to.format));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_layout(layout.c_str(), packed.layout, to.layout));
  to.rows = packed.rows;
  to.columns = packed.columns;
  HALFBYTE_RETURN_IF_ERROR(read_tensor(codes.c_str(), packed.codes, to.codes));
  HALFBYTE_RETURN_IF_ERROR(read_tensor(scales.c_str(), packed.scales, to.scales));
  return read_scale(operand, packed.global_scale, packed.decode_scale, to.scale, to.scale_kind);
}

Status read_weights(const halfbyte_gemm_weights* from, GemmWeights& to) {
  halfbyte_gemm_weights b{};
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_struct("b", from, b));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_format(b.format, to.format));
  HALFBYTE_RETURN_IF_ERROR(
      c_abi::read_enum("b.form", b.form, 2, "0 (plain) or 1 (prepared)", to.form));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_layout("b_layout", b.layout, to.layout));
  to.rows = b.rows;
  to.columns = b.columns;
  HALFBYTE_RETURN_IF_ERROR(read_tensor("b_codes", b.codes, to.codes));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("b_scales", b.scales, to.scales));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("b_prepared", b.prepared, to.prepared));
  return read_scale("b_", b.global_scale, b.decode_scale, to.scale, to.scale_kind);
}

Status convert_prepare(const halfbyte_prepare_weights_args& from, PrepareWeightsArgs& to) {
  if (from.reserved != 0) {
    return base::invalid_argument("args: reserved", "0", std::to_string(from.reserved));
  }
  HALFBYTE_RETURN_IF_ERROR(read_packed("plain", "", from.plain, to.plain));
  return read_tensor("prepared", from.prepared, to.prepared);
}

}  // namespace

Status c_abi::read_gemm(const halfbyte_gemm_args& from, GemmArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(
      read_enum("method", from.method, 6,
                "0 (auto), 1 (exact), 2 (tensor_core), 3 (dequantize), 4 (fp8) or 5 (block_scaled)",
                to.method));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("a", from.a, to.a));
  if (from.a_packed != nullptr) {
    HALFBYTE_RETURN_IF_ERROR(read_packed("a_packed", "a_", from.a_packed, to.a_packed));
  }
  HALFBYTE_RETURN_IF_ERROR(read_weights(from.b, to.b));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("bias", from.bias, to.bias));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("c", from.c, to.c));
  return read_row_groups(from.groups, to.groups);
}

}  // namespace halfbyte::ops

using namespace halfbyte::ops;  // NOLINT(google-build-using-namespace)

extern "C" halfbyte_status halfbyte_gemm(const halfbyte_gemm_args* args,
                                         const halfbyte_execution* execution) {
  return c_abi::call("gemm", args, execution, c_abi::read_gemm, gemm);
}

extern "C" halfbyte_status halfbyte_gemm_workspace_bytes(const halfbyte_gemm_args* args,
                                                         const halfbyte_execution* execution,
                                                         uint64_t* bytes) {
  return c_abi::workspace_query<gemm_workspace_bytes>("gemm_workspace_bytes", args, execution,
                                                      bytes, c_abi::read_gemm);
}

extern "C" halfbyte_status halfbyte_prepare_weights(const halfbyte_prepare_weights_args* args,
                                                    const halfbyte_execution* execution) {
  return c_abi::call("prepare_weights", args, execution, convert_prepare, prepare_weights);
}

extern "C" halfbyte_status halfbyte_unprepare_weights(const halfbyte_prepare_weights_args* args,
                                                      const halfbyte_execution* execution) {
  return c_abi::call("unprepare_weights", args, execution, convert_prepare, unprepare_weights);
}

extern "C" int64_t halfbyte_prepared_weight_bytes(int32_t format, int64_t rows, int64_t columns) {
  if (format != HALFBYTE_NVFP4 && format != HALFBYTE_MXFP4) return -1;
  const auto checked = static_cast<Format>(format);
  // Far below any overflow, far above any matrix.
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  if (rows < 0 || columns < 1 || rows > kMost || columns > kMost ||
      columns % halfbyte::formats::block_elements(checked) != 0) {
    return -1;
  }
  return prepared_weight_bytes(checked, rows, columns);
}
