#include "halfbyte/ops/gemm/gemm.h"

#include <string>

#include "halfbyte/base/float_environment.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_input.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops {

using base::CpuLevel;
using base::Execution;
using base::invalid_argument;
using base::Result;
using base::Status;

namespace {

struct Implementation {
  CpuLevel level;
  GemmKernel kernel;
  int rows_together;
};

// The reference runs where nothing else does.
constexpr Implementation kImplementations[] = {
#ifdef HALFBYTE_HAS_CPU_V4
    {CpuLevel::kV4, v4::gemm, v4::kGemmRowsTogether},
#endif
#ifdef HALFBYTE_HAS_CPU_V3
    {CpuLevel::kV3, v3::gemm, v3::kGemmRowsTogether},
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
    {CpuLevel::kNeon, neon::gemm, neon::kGemmRowsTogether},
#endif
    {CpuLevel::kReference, nullptr, 1},
};

void run_on_cpu(const GemmProblem& problem, CpuLevel level, int num_threads) {
  for (const Implementation& implementation : kImplementations) {
    if (implementation.level != level || implementation.kernel == nullptr) continue;
    GemmInputBuffer buffer(problem, implementation.rows_together);
    for (std::int64_t row = 0; row < problem.m; row += buffer.rows_at_once()) {
      implementation.kernel(problem, buffer.unpack(row, num_threads), num_threads);
    }
    return;
  }
  reference::gemm(problem);
}

Status check_workspace(const Execution& execution, std::size_t bytes) {
  if (bytes == 0) return {};
  const std::string expected = std::to_string(bytes) + " bytes of device memory";
  if (execution.workspace == nullptr || execution.workspace_bytes < bytes) {
    return invalid_argument("workspace", expected,
                            execution.workspace == nullptr
                                ? "none"
                                : std::to_string(execution.workspace_bytes) + " bytes");
  }
  if (reinterpret_cast<std::uintptr_t>(execution.workspace) % kGemmWorkspaceAlignment != 0) {
    return invalid_argument(
        "workspace", "a pointer aligned to " + std::to_string(kGemmWorkspaceAlignment) + " bytes",
        "one that is not");
  }
  return {};
}

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
    const GemmMethod method = args.method;
    if (method == GemmMethod::kAuto || method == GemmMethod::kExact) return resolved;
    return invalid_argument("method", "auto or exact for tensors on the cpu",
                            std::to_string(static_cast<int>(method)));
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
    HALFBYTE_RETURN_IF_ERROR(check_workspace(execution, workspace_bytes));
    return cuda::gemm(problem, args.c.device, execution);
  }
  run_on_cpu(problem, choice.cpu_level, execution.num_threads);
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

#ifndef HALFBYTE_WITH_CUDA
// choose_implementation refuses CUDA tensors in such a build before these could be reached.
namespace cuda {
Result<std::size_t> gemm_workspace_bytes(const GemmProblem&, base::Device) {
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
