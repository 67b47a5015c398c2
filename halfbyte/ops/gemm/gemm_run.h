// How a product runs, for gemm and for the operators that have one inside. Internal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_input.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops {

// A CPU has auto and exact, which are the same there.
base::Status check_cpu_method(GemmMethod method);
// `bytes` of execution.workspace, kGemmWorkspaceAlignment; 0: none is looked at.
base::Status check_gemm_workspace(const base::Execution& execution, std::size_t bytes);

// On the CPU, the rows of C a part at a time: how the rows are cut changes no bit.
class CpuProduct {
 public:
  // `problem` is referred to, and its c may be set before the first part. At most `most_rows` rows
  // a part.
  CpuProduct(const GemmProblem& problem, base::CpuLevel level, int num_threads,
             std::int64_t most_rows = std::numeric_limits<std::int64_t>::max());
  CpuProduct(const CpuProduct&) = delete;
  CpuProduct& operator=(const CpuProduct&) = delete;

  std::int64_t rows_at_once() const { return rows_at_once_; }
  // The rows from first_row on, at most rows_at_once().
  void compute(std::int64_t first_row);

 private:
  const GemmProblem& problem_;
  int num_threads_;
  std::int64_t rows_at_once_;
  GemmKernel kernel_ = nullptr;  // nullptr: the reference
  std::optional<GemmInputBuffer> input_;
};

}  // namespace halfbyte::ops
