// From fp32 sums in the workspace to C, for the products that cuBLASLt does not write itself.
#pragma once

#include <algorithm>
#include <cstdint>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_cublaslt.h"
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

// Whether cuBLASLt may write C itself, as far as C goes: no bias, even rows, 16 bytes of alignment.
bool is_direct_output(const GemmProblem& problem);

// Rows of C whose fp32 sums, of n columns, the workspace holds at once: about what stays in the L2,
// a multiple of 128.
std::int64_t rows_of_sums(std::int64_t n);

// C from sums in `sums`, rows_of_sums(stride) rows at a time: set_rows(product, first) says where
// A begins, and its scales. finish: the factors.
template <class SetRows>
base::Status multiply_by_rows(const GemmProblem& problem, cublaslt::Matmul product,
                              FinishArgs finish, void* sums, void* stream,
                              const SetRows& set_rows) {
  product.output = base::DType::kF32;
  product.stride = finish.stride;
  product.d = sums;
  finish.sums = static_cast<const float*>(sums);
  const std::int64_t most = rows_of_sums(finish.stride);
  for (std::int64_t first = 0; first < problem.m; first += most) {
    product.m = std::min(most, problem.m - first);
    set_rows(product, first);
    HALFBYTE_RETURN_IF_ERROR(cublaslt::matmul(product, stream));
    finish.first = first;
    finish.rows = product.m;
    HALFBYTE_RETURN_IF_ERROR(launch_finish(problem, finish, stream));
  }
  return {};
}

// alpha[0] = fl(d_a * d_b), of one d_a, or 1 where not `scaled`; alpha[1] = 0.
base::Status launch_alpha(const GemmProblem& problem, bool scaled, float* alpha, void* stream);

}  // namespace halfbyte::ops::cuda
