#include "halfbyte/ops/gemm/gemm_silu_mul_plan.h"

namespace halfbyte::ops {

namespace {

// Empty: nothing but shapes and strides may speak against it. Its bits are those of the exact
// kernels, and of W4A16's stream kernel.
std::string no_stream_gate_up(const GateUpProblem& problem, const GemmPlan& product) {
  const formats::RowTarget& target = problem.target;
  if (product.kind != GemmKernelKind::kStream && product.kind != GemmKernelKind::kDecode)
    return "the product is another kernel's";
  if (problem.interleave != 0) return "gate and up are interleaved";
  if (target.format != Format::kNvfp4) return "y is not NVFP4";
  if (target.mode != ScaleMode::kTensor || target.given_stride != 0)
    return "y has no one given scale";
  if (target.groups != 0 || problem.product.groups != 0) return "rows are in groups";
  return {};
}

}  // namespace

base::Result<GateUpPlan> gate_up_plan(const GateUpProblem& problem, const GemmDevice& device) {
  const base::Result<GemmPlan> product = gemm_plan(problem.product, device);
  if (!product.ok()) return product.status();
  GateUpPlan plan;
  plan.product = product.value();
  plan.why = no_stream_gate_up(problem, plan.product);
  if (!plan.why.empty()) return plan;
  plan.stream = plan_gate_up_stream(problem.product, device);
  if (plan.stream.stages == 0) {
    plan.why = "more than " + std::to_string(kGateUpMaxTokens) +
               " rows, columns that are no multiple of 16, strides, or too much shared memory";
    return plan;
  }
  plan.kind = GateUpKernelKind::kStream;
  return plan;
}

std::string to_string(const GateUpPlan& plan) {
  if (plan.kind == GateUpKernelKind::kStream) {
    return "stream, gate and up in pairs of tiles, activation and quantization behind it: " +
           std::to_string(plan.stream.blocks) + " blocks of " +
           std::to_string(plan.stream.shared_bytes) + " bytes";
  }
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
