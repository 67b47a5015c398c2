#include "halfbyte/ops/gemm/gemm.h"

#include "halfbyte/base/float_environment.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/ops/gemm/gemm_run.h"

namespace halfbyte::ops {

using base::Execution;
using base::Result;
using base::Status;

namespace {

struct Resolved {
  GemmProblem problem;
  Choice choice;
  std::size_t workspace_bytes = 0;
};

Result<Resolved> resolve(const GemmArgs& args, const Execution& execution, GemmCheck check) {
  OverlapCheck overlap;
  const Result<GemmProblem> problem = resolve_gemm(args, check, overlap);
  if (!problem.ok()) return problem.status();
  if (check == GemmCheck::kCall) HALFBYTE_RETURN_IF_ERROR(overlap.result());
  const Result<Choice> choice = choose_implementation(execution, args.c.device);
  if (!choice.ok()) return choice.status();
  Resolved resolved{problem.value(), choice.value()};
  if (!resolved.choice.cuda) {
    HALFBYTE_RETURN_IF_ERROR(check_cpu_method(args.method));
    return resolved;
  }
  const Result<std::size_t> bytes = cuda::gemm_workspace_bytes(resolved.problem, args.c.device);
  if (!bytes.ok()) return bytes.status();
  resolved.workspace_bytes = bytes.value();
  return resolved;
}

Status run_gemm(const GemmArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;
  const Result<Resolved> resolved = resolve(args, execution, GemmCheck::kCall);
  if (!resolved.ok()) return resolved.status();
  const auto& [problem, choice, workspace_bytes] = resolved.value();
  if (problem.m == 0 || problem.n == 0) return {};
  if (choice.cuda) {
    HALFBYTE_RETURN_IF_ERROR(check_gemm_workspace(execution, workspace_bytes));
    return cuda::gemm(problem, args.c.device, execution);
  }
  CpuProduct product(problem, choice.cpu_level, execution.num_threads);
  for (std::int64_t row = 0; row < problem.m; row += product.rows_at_once()) product.compute(row);
  return {};
}

}  // namespace

Status gemm(const GemmArgs& args, const Execution& execution) {
  return base::in_operator("gemm", run_gemm(args, execution));
}

Result<std::size_t> gemm_workspace_bytes(const GemmArgs& args, const Execution& execution) {
  const Result<Resolved> resolved = resolve(args, execution, GemmCheck::kShapes);
  if (!resolved.ok()) return base::in_operator("gemm_workspace_bytes", resolved.status());
  return resolved.value().workspace_bytes;
}

Result<std::string> explain_gemm(const GemmArgs& args, const Execution& execution) {
  const Result<Resolved> resolved = resolve(args, execution, GemmCheck::kShapes);
  if (!resolved.ok()) return base::in_operator("explain_gemm", resolved.status());
  const auto& [problem, choice, workspace_bytes] = resolved.value();
  if (!choice.cuda) {
    return std::string(base::cpu_level_name(choice.cpu_level)) +
           " on the cpu: exact, the only way there, whatever M";
  }
  Result<std::string> text = cuda::explain_gemm(problem, args.c.device);
  if (!text.ok()) return base::in_operator("explain_gemm", text.status());
  return text.value() + "; " + std::to_string(workspace_bytes) + " bytes of workspace";
}

#ifndef HALFBYTE_WITH_CUDA
// choose_implementation refuses CUDA tensors in such a build before these could be reached.
namespace cuda {
Result<std::size_t> gemm_workspace_bytes(const GemmProblem&, base::Device) {
  return base::unsupported("no CUDA kernels in this build");
}
Result<std::string> explain_gemm(const GemmProblem&, base::Device) {
  return base::unsupported("no CUDA kernels in this build");
}
Status gemm(const GemmProblem&, base::Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
Status prepare_weights(const PrepareProblem&, base::Device, void*) {
  return base::unsupported("no CUDA kernels in this build");
}
Status unprepare_weights(const PrepareProblem&, base::Device, void*) {
  return base::unsupported("no CUDA kernels in this build");
}
}  // namespace cuda
#endif

}  // namespace halfbyte::ops
