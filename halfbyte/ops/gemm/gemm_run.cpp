#include "halfbyte/ops/gemm/gemm_run.h"

#include <algorithm>
#include <string>

namespace halfbyte::ops {

using base::CpuLevel;
using base::invalid_argument;
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

}  // namespace

Status check_cpu_method(GemmMethod method) {
  if (method == GemmMethod::kAuto || method == GemmMethod::kExact) return {};
  return invalid_argument("method", "auto or exact for tensors on the cpu",
                          std::to_string(static_cast<int>(method)));
}

Status check_gemm_workspace(const base::Execution& execution, std::size_t bytes) {
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

CpuProduct::CpuProduct(const GemmProblem& problem, CpuLevel level, int num_threads,
                       std::int64_t most_rows)
    : problem_(problem), num_threads_(num_threads), rows_at_once_(std::min(problem.m, most_rows)) {
  for (const Implementation& implementation : kImplementations) {
    if (implementation.level != level || implementation.kernel == nullptr) continue;
    kernel_ = implementation.kernel;
    input_.emplace(problem, implementation.rows_together, rows_at_once_);
    rows_at_once_ = input_->rows_at_once();
  }
}

void CpuProduct::compute(std::int64_t first_row) {
  if (kernel_ != nullptr) {
    kernel_(problem_, input_->unpack(first_row, num_threads_), num_threads_);
    return;
  }
  reference::gemm(problem_, first_row, std::min(first_row + rows_at_once_, problem_.m));
}

}  // namespace halfbyte::ops
