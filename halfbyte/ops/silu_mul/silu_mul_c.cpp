// The C functions of this room: halfbyte_silu_mul, halfbyte_silu_mul_quantize.
#include "halfbyte/ops/common/c_abi.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::ops {
namespace {

using base::Status;
using c_abi::read_tensor;

Status convert_silu_mul(const halfbyte_silu_mul_args& from, SiluMulArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(read_tensor("gate_up", from.gate_up, to.gate_up));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_activation(from.activation, to.activation));
  return read_tensor("y", from.y, to.y);
}

Status convert_silu_mul_quantize(const halfbyte_silu_mul_quantize_args& from,
                                 SiluMulQuantizeArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(read_tensor("gate_up", from.gate_up, to.gate_up));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_activation(from.activation, to.activation));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_row_groups(from.groups, to.groups));
  return c_abi::read_quantization(from.spec, from.out, from.global_scale, from.decode_scale,
                                  to.spec, to.given, to.out);
}

}  // namespace
}  // namespace halfbyte::ops

using namespace halfbyte::ops;  // NOLINT(google-build-using-namespace)

extern "C" halfbyte_status halfbyte_silu_mul(const halfbyte_silu_mul_args* args,
                                             const halfbyte_execution* execution) {
  return c_abi::call("silu_mul", args, execution, convert_silu_mul, silu_mul);
}

extern "C" halfbyte_status halfbyte_silu_mul_quantize(const halfbyte_silu_mul_quantize_args* args,
                                                      const halfbyte_execution* execution) {
  return c_abi::call("silu_mul_quantize", args, execution, convert_silu_mul_quantize,
                     silu_mul_quantize);
}
