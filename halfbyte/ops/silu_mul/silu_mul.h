// silu_mul, silu_mul_quantize: the gated activation between the two linear layers of an MLP, with a
// quantization after it in the same pass.
//
//   y = T( gate * sigmoid(alpha * gate) * (up + up_bias) )      rounded as `rounding` says
//   silu_mul gives y; silu_mul_quantize gives quantize(y)
//
// I is the number of columns of y; gate_up has 2I. Bit-exact (docs/numerics.md, "SiLU · mul"):
// silu_mul_quantize gives the bits of silu_mul followed by quantize, whatever the device, threads,
// batch or launch. Arguments are checked first: an error names argument, expected and actual, and
// nothing is written.
#pragma once

#include "halfbyte/base/execution.h"
#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/ops/common/activation.h"
#include "halfbyte/ops/common/quantize_spec.h"

namespace halfbyte::ops {

struct SiluMulArgs {
  TensorView gate_up;  // fp32, fp16 or bf16 (T) [.., 2I], last dimension dense, any row stride
  Activation activation;
  TensorView y;  // out: T [.., I], the leading dimensions of gate_up, any row stride
};

HALFBYTE_API base::Status silu_mul(const SiluMulArgs& args, const base::Execution& execution = {});

struct SiluMulQuantizeArgs {
  TensorView gate_up;
  Activation activation;
  GivenScale given;
  QuantizeSpec spec;  // scale_rule kTe is refused: it is defined for quantize alone
  QuantizeOutputs out;
  RowGroups groups{};
};

HALFBYTE_API base::Status silu_mul_quantize(const SiluMulQuantizeArgs& args,
                                            const base::Execution& execution = {});

}  // namespace halfbyte::ops
