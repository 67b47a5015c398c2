#include "halfbyte/ops/gemm/gemm_silu_mul_plan.h"

namespace halfbyte::ops {

base::Result<GateUpPlan> gate_up_plan(const GateUpProblem& problem, const GemmDevice& device) {
  const base::Result<GemmPlan> product = gemm_plan(problem.product, device);
  if (!product.ok()) return product.status();
  GateUpPlan plan;
  plan.product = product.value();
  plan.why = "no kernel does both";
  return plan;
}

std::string to_string(const GateUpPlan& plan) {
  return "product, then activation (" + plan.why + "): " + to_string(plan.product);
}

ComposedWorkspace composed_workspace(const GateUpProblem& problem, std::size_t product_bytes) {
  const auto padded = [](std::size_t bytes) {
    return (bytes + kGemmWorkspaceAlignment - 1) / kGemmWorkspaceAlignment *
           kGemmWorkspaceAlignment;
  };
  const GemmProblem& product = problem.product;
  ComposedWorkspace at;
  at.amax = padded(product_bytes);
  at.gate_up = at.amax + (problem.target.mode == ScaleMode::kComputed ? padded(sizeof(float)) : 0);
  at.total = at.gate_up +
             static_cast<std::size_t>(product.m * product.n * base::dtype_bytes(product.c_dtype));
  return at;
}

}  // namespace halfbyte::ops
