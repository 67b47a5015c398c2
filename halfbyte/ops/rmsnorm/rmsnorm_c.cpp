// The C functions of this room: halfbyte_rmsnorm, halfbyte_rmsnorm_quantize.
#include "halfbyte/ops/common/c_abi.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::ops {
namespace {

using base::Status;
using c_abi::read_tensor;

static_assert(static_cast<int>(Rounding::kFloat32) == HALFBYTE_ROUNDING_FLOAT32 &&
              static_cast<int>(Rounding::kHuggingFace) == HALFBYTE_ROUNDING_HUGGINGFACE);

Status convert_norm(const halfbyte_norm_args* from, NormArgs& to) {
  halfbyte_norm_args norm{};
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_struct("norm", from, norm));
  to.eps = norm.eps;
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_enum("rounding", norm.rounding, 2,
                                            "0 (float32) or 1 (huggingface)", to.rounding));
  HALFBYTE_RETURN_IF_ERROR(
      c_abi::read_enum("weight_bias", norm.weight_bias, 2, "0 (w) or 1 (w + 1)", to.weight_bias));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("x", norm.x, to.x));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("weight", norm.weight, to.weight));
  return read_tensor("residual", norm.residual, to.residual);
}

Status convert_rmsnorm(const halfbyte_rmsnorm_args& from, RmsNormArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(convert_norm(from.norm, to.norm));
  return read_tensor("y", from.y, to.y);
}

Status convert_rmsnorm_quantize(const halfbyte_rmsnorm_quantize_args& from,
                                RmsNormQuantizeArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(convert_norm(from.norm, to.norm));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("normed", from.normed, to.normed));
  return c_abi::read_quantization(from.spec, from.out, from.global_scale, from.decode_scale,
                                  to.spec, to.given, to.out);
}

}  // namespace
}  // namespace halfbyte::ops

using namespace halfbyte::ops;  // NOLINT(google-build-using-namespace)

extern "C" halfbyte_status halfbyte_rmsnorm(const halfbyte_rmsnorm_args* args,
                                            const halfbyte_execution* execution) {
  return c_abi::call("rmsnorm", args, execution, convert_rmsnorm, rmsnorm);
}

extern "C" halfbyte_status halfbyte_rmsnorm_quantize(const halfbyte_rmsnorm_quantize_args* args,
                                                     const halfbyte_execution* execution) {
  return c_abi::call("rmsnorm_quantize", args, execution, convert_rmsnorm_quantize,
                     rmsnorm_quantize);
}
