// method = fp8: weights and activations as E4M3 in the workspace, with an fp32 factor a row of
// either, then cuBLASLt's FP8 product. Bounded (docs/numerics.md).
#include <algorithm>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_finish.h"
#include "halfbyte/ops/gemm/gemm_cuda_fp8.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"

namespace halfbyte::ops::cuda {
namespace {

constexpr std::int64_t kMultiple = 16;  // of N, for cuBLASLt

// cuBLASLt writes C itself and takes the factors: its vectors are there on sm_90 alone.
bool writes_directly(const GemmProblem& problem, int compute_capability) {
  return compute_capability / 10 == 9 && problem.n % kMultiple == 0 && is_direct_output(problem);
}

struct Offsets {
  std::size_t weights = 0, rows = 0, weight_factors = 0, row_factors = 0, sums = 0, total = 0;
};
Offsets offsets_of(const GemmProblem& problem) {
  std::size_t at = cublaslt::kWorkspaceBytes;
  const auto take = [&at](std::int64_t bytes) {
    const std::size_t begin = at;
    at += static_cast<std::size_t>(formats::round_up_to(bytes, kGemmWorkspaceAlignment));
    return begin;
  };
  const std::int64_t n = formats::round_up_to(problem.n, kMultiple);
  Offsets offsets;
  offsets.weights = take(n * problem.k);
  offsets.rows = take(problem.m * problem.k);
  offsets.weight_factors = take(n * 4);
  offsets.row_factors = take(problem.m * 4);
  offsets.sums = take(std::min(problem.m, rows_of_sums(n)) * n * 4);  // needed or not: see gemm.h
  offsets.total = at;
  return offsets;
}

}  // namespace

std::size_t fp8_workspace_bytes(const GemmProblem& problem) { return offsets_of(problem).total; }

base::Status launch_fp8(const GemmProblem& problem, const GemmDevice& device, void* stream,
                        void* workspace) {
  const Offsets at = offsets_of(problem);
  auto* base = static_cast<std::byte*>(workspace);
  const auto rows_at = [base](std::int64_t rows, std::size_t codes, std::size_t factors) {
    return Fp8Rows{rows, reinterpret_cast<std::uint8_t*>(base + codes),
                   reinterpret_cast<float*>(base + factors)};
  };
  const Fp8Rows weights =
      rows_at(formats::round_up_to(problem.n, kMultiple), at.weights, at.weight_factors);
  const Fp8Rows rows = rows_at(problem.m, at.rows, at.row_factors);
  HALFBYTE_RETURN_IF_ERROR(launch_fp8_weights(problem, weights, device.multiprocessors, stream));
  HALFBYTE_RETURN_IF_ERROR(launch_fp8_activations(problem, rows, stream));
  cublaslt::Matmul product;
  product.m = problem.m, product.n = weights.rows, product.k = problem.k;
  product.input = cublaslt::Input::kE4m3;
  product.a = rows.codes;
  product.b = weights.codes;
  product.workspace = base;
  if (writes_directly(problem, device.compute_capability)) {
    product.stride = problem.c_rows.inner_stride;
    product.output = problem.c_dtype;
    product.d = problem.c;
    product.a_scales = rows.factors;
    product.b_scales = weights.factors;
    return cublaslt::matmul(product, stream);
  }
  FinishArgs finish;
  finish.stride = weights.rows;
  finish.row_factors = rows.factors;
  finish.column_factors = weights.factors;
  return multiply_by_rows(
      problem, product, finish, base + at.sums, stream,
      [&](cublaslt::Matmul& part, std::int64_t first) { part.a = rows.codes + first * problem.k; });
}

}  // namespace halfbyte::ops::cuda
