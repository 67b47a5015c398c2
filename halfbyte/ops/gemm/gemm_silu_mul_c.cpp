// The C functions of this operator: halfbyte_gemm_silu_mul_quantize,
// halfbyte_gemm_silu_mul_workspace_bytes.
#include "halfbyte/ops/gemm/gemm_c.h"
#include "halfbyte/ops/gemm/gemm_silu_mul.h"

namespace halfbyte::ops {
namespace {

base::Status convert(const halfbyte_gemm_silu_mul_quantize_args& from,
                     GemmSiluMulQuantizeArgs& to) {
  halfbyte_gemm_args product{};
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_struct("product", from.product, product));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_gemm(product, to.product));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_dtype("dtype", from.dtype, to.dtype));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_activation(from.activation, to.activation));
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_quantization(from.spec, from.out, from.global_scale,
                                                    from.decode_scale, to.spec, to.given, to.out));
  return c_abi::read_tensor("out_scale_row_offsets", from.out_scale_row_offsets,
                            to.out_scale_row_offsets);
}

}  // namespace
}  // namespace halfbyte::ops

using namespace halfbyte::ops;  // NOLINT(google-build-using-namespace)

extern "C" halfbyte_status halfbyte_gemm_silu_mul_quantize(
    const halfbyte_gemm_silu_mul_quantize_args* args, const halfbyte_execution* execution) {
  return c_abi::call("gemm_silu_mul_quantize", args, execution, convert, gemm_silu_mul_quantize);
}

extern "C" halfbyte_status halfbyte_gemm_silu_mul_workspace_bytes(
    const halfbyte_gemm_silu_mul_quantize_args* args, const halfbyte_execution* execution,
    uint64_t* bytes) {
  return c_abi::workspace_query<gemm_silu_mul_workspace_bytes>("gemm_silu_mul_workspace_bytes",
                                                               args, execution, bytes, convert);
}
