// From fp32 sums in the workspace to C, for the products that cuBLASLt does not write itself.
#pragma once

#include <cstdint>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops::cuda {

// C = T(fl(fl(fl(sum * f_a) * f_b) + bias)), the rows `first` to `first` + `rows`.
struct FinishArgs {
  const float* sums = nullptr;  // of row `first`, and on
  std::int64_t stride = 0;      // from a row to the next
  std::int64_t first = 0, rows = 0;
  const float* row_factors = nullptr;     // f_a by row of C; nullptr: the decode scales
  const float* column_factors = nullptr;  // f_b by column; nullptr: the decode scale
};
base::Status launch_finish(const GemmProblem& problem, const FinishArgs& args, void* stream);

// alpha[0] = fl(d_a * d_b), of one d_a, or 1 where not `scaled`; alpha[1] = 0.
base::Status launch_alpha(const GemmProblem& problem, bool scaled, float* alpha, void* stream);

}  // namespace halfbyte::ops::cuda
