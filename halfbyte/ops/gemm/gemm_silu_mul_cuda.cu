// From a gate-up product to its kernels.
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_plan.h"
#include "halfbyte/ops/gemm/gemm_stream_args.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

base::Result<GateUpPlan> plan_for(const GateUpProblem& problem, base::Device device) {
  const base::Result<GemmDevice> found = gemm_device(device);
  if (!found.ok()) return found.status();
  return gate_up_plan(problem, found.value());
}

// The product's own workspace lies at the beginning of this one.
base::Result<ComposedWorkspace> composed_workspace_on(const GateUpProblem& problem,
                                                      base::Device device) {
  const base::Result<std::size_t> bytes = gemm_workspace_bytes(problem.product, device);
  if (!bytes.ok()) return bytes.status();
  return composed_workspace(problem, bytes.value());
}

base::Status launch_composed(const GateUpProblem& problem, base::Device device,
                             const base::Execution& execution) {
  const base::Result<ComposedWorkspace> at = composed_workspace_on(problem, device);
  if (!at.ok()) return at.status();
  auto* workspace = static_cast<std::byte*>(execution.workspace);
  GateUpProblem composed = problem;
  GemmProblem& product = composed.product;
  if (product.m > 0) {
    product.c = workspace + at.value().gate_up;
    HALFBYTE_RETURN_IF_ERROR(gemm(product, device, execution));
  }
  auto* amax = reinterpret_cast<float*>(workspace + at.value().amax);
  return silu_mul_quantize(silu_mul_of(composed), composed.target, amax, device, execution);
}

}  // namespace

base::Result<std::size_t> gate_up_workspace_bytes(const GateUpProblem& problem,
                                                  base::Device device) {
  const base::Result<ComposedWorkspace> at = composed_workspace_on(problem, device);
  if (!at.ok()) return at.status();
  return at.value().total;
}

base::Status launch_gate_up(const GateUpProblem& problem, base::Device device,
                            const base::Execution& execution) {
  const base::Result<GateUpPlan> plan = plan_for(problem, device);
  if (!plan.ok()) return plan.status();
  // Pointers, which the plan does not know, may still be in the way.
  if (plan.value().kind == GateUpKernelKind::kStream && is_regular_stream(problem.product)) {
    const simt::DeviceScope scope(device);
    HALFBYTE_RETURN_IF_ERROR(scope.status());
    return launch_gate_up_stream(problem, plan.value().stream, execution, device.index);
  }
  return launch_composed(problem, device, execution);
}

}  // namespace halfbyte::ops::cuda
