// The boxed kernels of torch.ops.halfbyte.*, in the order of arguments of the schemas in
// bindings/python/halfbyte/_operators.py.
#pragma once

#include <span>

#include "torch_abi.h"

namespace halfbyte::bindings {

struct Operator {
  const char* name;  // "quantize", "quantize.out"
  torch_abi::BoxedKernel kernel;
};

std::span<const Operator> gemm_operators();
std::span<const Operator> gemm_silu_mul_operators();
std::span<const Operator> quantize_operators();
std::span<const Operator> rmsnorm_operators();
std::span<const Operator> silu_mul_operators();
std::span<const Operator> rope_operators();

}  // namespace halfbyte::bindings
