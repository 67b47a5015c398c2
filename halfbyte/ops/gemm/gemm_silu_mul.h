// gemm_silu_mul_quantize: the gate-up product of an MLP, its gated activation and a quantization.
//
//   gate_up = T( A * B^T, scaled, + bias )      gemm; B has gate's and up's rows, N = 2I
//   y       = T( gate * sigmoid(alpha * gate) * (up + up_bias) ), quantized silu_mul_quantize
//
// gate_up does not leave the operator. The bits are those of gemm with the same method followed by
// silu_mul_quantize (docs/numerics.md), and are bit-exact where that method is: a row's do not
// depend on the other rows, on threads or on the device. Arguments are checked first: an error
// names argument, expected and actual, and nothing is written.
#pragma once

#include <cstddef>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/ops/common/activation.h"
#include "halfbyte/ops/common/quantize_spec.h"
#include "halfbyte/ops/gemm/gemm.h"

namespace halfbyte::ops {

struct GemmSiluMulQuantizeArgs {
  // Without c. b.rows is 2I, a multiple of two blocks of spec.format; b's rows are gate's and up's
  // as activation.interleave has the columns of gate_up, with groups in every expert. bias: T or
  // fp32. product.groups: the rows of A by expert, as gemm takes them; scale_row_offsets are those
  // of a_packed.scales.
  GemmArgs product;
  base::DType dtype = base::DType::kBF16;  // T: fp32, fp16 or bf16
  Activation activation;
  GivenScale given;
  QuantizeSpec spec;  // scale_rule kTe is refused: it is defined for quantize alone
  QuantizeOutputs out;
  // With groups, where each one's scales lie in out.scales, i32 [groups.count + 1], as
  // RowGroups::scale_row_offsets (a given global_scale is then one, or one a group). Absent: rows
  // are quantized as if there were no groups.
  TensorView out_scale_row_offsets;
};

// CUDA takes execution.workspace: gemm_silu_mul_workspace_bytes of it, kGemmWorkspaceAlignment. On
// the CPU gate_up is made some rows at a time, in memory of a bounded size; scale = computed makes
// it twice where that does not hold all rows.
HALFBYTE_API base::Status gemm_silu_mul_quantize(const GemmSiluMulQuantizeArgs& args,
                                                 const base::Execution& execution = {});

// It depends on product, dtype, activation and spec, and on the device; of these not on pointers,
// which may be null. 0 on the CPU.
HALFBYTE_API base::Result<std::size_t> gemm_silu_mul_workspace_bytes(
    const GemmSiluMulQuantizeArgs& args, const base::Execution& execution = {});

}  // namespace halfbyte::ops
