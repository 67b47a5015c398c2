// The C functions of this room: halfbyte_quantize, halfbyte_dequantize, halfbyte_amax.
#include "halfbyte/ops/common/c_abi.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::ops {
namespace {

using base::Status;
using c_abi::read_tensor;

Status convert_quantize(const halfbyte_quantize_args& from, QuantizeArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(read_tensor("x", from.x, to.x));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_row_groups(from.groups, to.groups));
  return c_abi::read_quantization(from.spec, from.out, from.global_scale, from.decode_scale,
                                  to.spec, to.given, to.out);
}

Status convert_dequantize(const halfbyte_dequantize_args& from, DequantizeArgs& to) {
  formats::PackedTensor& packed = to.packed;
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_format(from.format, packed.format));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_layout("layout", from.layout, packed.layout));
  packed.rows = from.rows;
  packed.columns = from.columns;
  HALFBYTE_RETURN_IF_ERROR(read_tensor("codes", from.codes, packed.codes));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("scales", from.scales, packed.scales));
  if (from.global_scale != nullptr && from.decode_scale != nullptr) {
    return base::invalid_argument("decode_scale", "at most one of global_scale and decode_scale",
                                  "both");
  }
  if (from.global_scale != nullptr) {
    packed.scale_kind = formats::ScaleKind::kEncode;
    HALFBYTE_RETURN_IF_ERROR(read_tensor("global_scale", from.global_scale, packed.scale));
  } else if (from.decode_scale != nullptr) {
    packed.scale_kind = formats::ScaleKind::kDecode;
    HALFBYTE_RETURN_IF_ERROR(read_tensor("decode_scale", from.decode_scale, packed.scale));
  }
  return read_tensor("x", from.x, to.x);
}

Status convert_amax(const halfbyte_amax_args& from, AmaxArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(
      c_abi::read_enum("per_row", from.per_row, 2, "0 (of the tensor) or 1 (rows)", to.per_row));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("x", from.x, to.x));
  return read_tensor("amax", from.amax, to.amax);
}

}  // namespace
}  // namespace halfbyte::ops

using namespace halfbyte::ops;  // NOLINT(google-build-using-namespace)

extern "C" halfbyte_status halfbyte_quantize(const halfbyte_quantize_args* args,
                                             const halfbyte_execution* execution) {
  return c_abi::call("quantize", args, execution, convert_quantize, quantize);
}

extern "C" halfbyte_status halfbyte_dequantize(const halfbyte_dequantize_args* args,
                                               const halfbyte_execution* execution) {
  return c_abi::call("dequantize", args, execution, convert_dequantize, dequantize);
}

extern "C" halfbyte_status halfbyte_amax(const halfbyte_amax_args* args,
                                         const halfbyte_execution* execution) {
  return c_abi::call("amax", args, execution, convert_amax, amax);
}
