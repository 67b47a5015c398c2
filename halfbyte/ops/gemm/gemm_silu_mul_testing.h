// Test support of gemm_silu_mul_quantize: random calls, as tensors under the names of the
// arguments.
#pragma once

#include <string>

#include "halfbyte/ops/gemm/gemm_silu_mul.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops::testing {

// product.set has all tensors, the unfused product's c among them.
struct GateUpCase {
  GemmCase product;
  Activation activation;
  QuantizeSpec spec;
  std::string text;

  const TensorSet& set() const { return product.set; }
  base::DType dtype() const { return product.set.view("c").dtype; }
};

GateUpCase random_gate_up(Random& random, const GemmChoices& choices);
// y has `columns` columns, rounded up to what the options that are drawn want; shape.n is set.
GateUpCase random_gate_up(Random& random, const GemmChoices& choices, GemmShape shape,
                          std::int64_t columns);
// The arguments with the tensors of `set`, a clone of the case's.
GemmSiluMulQuantizeArgs gate_up_args(const GateUpCase& test, const TensorSet& set);

// The operator on a case, with the workspace that it asks for on CUDA. There is no c.
Case gate_up_case(GateUpCase test);
base::Status run_gate_up(const GateUpCase& test, const TensorSet& set,
                         const base::Execution& execution);

}  // namespace halfbyte::ops::testing
