// rmsnorm, rmsnorm_quantize: RMS normalisation, with a residual addition before it and a
// quantization after it in the same pass.
//
//   h = residual given ? T(x + residual) : x          residual := h
//   y = T( h / sqrt(mean(h^2) + eps) * weight )       rounded as `rounding` says
//   rmsnorm gives y; rmsnorm_quantize gives quantize(y), and y too if asked
//
// Bit-exact (docs/numerics.md, "RMSNorm"): rmsnorm_quantize gives the bits of rmsnorm followed by
// quantize, whatever the device, threads, batch or launch. Arguments are checked first: an error
// names argument, expected and actual, and nothing is written.
#pragma once

#include "halfbyte/base/execution.h"
#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/ops/common/quantize_spec.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_math.h"

namespace halfbyte::ops {

struct NormArgs {
  TensorView x;         // fp32, fp16 or bf16 (T) [.., H], last dimension dense, any row stride
  TensorView weight;    // T or fp32 [H]
  TensorView residual;  // in and out, optional: T, the shape of x, any row stride
  float eps = 1e-6f;    // finite, >= 0
  Rounding rounding = Rounding::kFloat32;
  bool weight_bias = false;  // true: the weight is stored minus one (Gemma); w' = fl(w + 1)
};

struct RmsNormArgs {
  NormArgs norm;
  TensorView y;  // out: T, the shape of x, any row stride
};

HALFBYTE_API base::Status rmsnorm(const RmsNormArgs& args, const base::Execution& execution = {});

struct RmsNormQuantizeArgs {
  NormArgs norm;
  TensorView normed;  // out, optional: y, as rmsnorm gives it
  GivenScale given;
  QuantizeSpec spec;  // scale_rule kTe is refused: it is defined for quantize alone
  QuantizeOutputs out;
};

HALFBYTE_API base::Status rmsnorm_quantize(const RmsNormQuantizeArgs& args,
                                           const base::Execution& execution = {});

}  // namespace halfbyte::ops
