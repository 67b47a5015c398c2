// method = fp8: weights and activations as E4M3 in the workspace, with an fp32 factor a row of
// either, then cuBLASLt's FP8 product. Bounded (docs/numerics.md).
#include <algorithm>

#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_finish.h"
#include "halfbyte/ops/gemm/gemm_cuda_fp8.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"

namespace halfbyte::ops::cuda {
namespace {

constexpr std::int64_t kMultiple = 16;  // of N, for cuBLASLt

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// cuBLASLt writes C itself and takes the factors: its vectors are there on sm_90 alone.
bool writes_directly(const GemmProblem& problem, int compute_capability) {
  const std::int64_t sixteen_bytes = 16 / base::dtype_bytes(problem.c_dtype);
  return compute_capability / 10 == 9 && problem.bias == nullptr && problem.n % kMultiple == 0 &&
         problem.c_rows.inner_rows == problem.c_rows.rows &&
         problem.c_rows.inner_stride >= problem.n &&
         problem.c_rows.inner_stride % sixteen_bytes == 0 &&
         reinterpret_cast<std::uintptr_t>(problem.c) % 16 == 0;
}

struct Offsets {
  std::size_t weights = 0, rows = 0, weight_factors = 0, row_factors = 0, sums = 0, total = 0;
};
Offsets offsets_of(const GemmProblem& problem) {
  std::size_t at = cublaslt::kWorkspaceBytes;
  const auto take = [&at](std::int64_t bytes) {
    const std::size_t begin = at;
    at += static_cast<std::size_t>(round_up(bytes, kGemmWorkspaceAlignment));
    return begin;
  };
  const std::int64_t n = round_up(problem.n, kMultiple);
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

std::int64_t rows_of_sums(std::int64_t n) {
  constexpr std::int64_t kBytes = std::int64_t{48} << 20, kMultipleOfRows = 128, kLeast = 256;
  return std::max(kBytes / 4 / std::max<std::int64_t>(n, 1) / kMultipleOfRows * kMultipleOfRows,
                  kLeast);
}

std::size_t fp8_workspace_bytes(const GemmProblem& problem) { return offsets_of(problem).total; }

base::Status launch_fp8(const GemmProblem& problem, const GemmDevice& device, void* stream,
                        void* workspace) {
  const Offsets at = offsets_of(problem);
  auto* base = static_cast<std::byte*>(workspace);
  const auto rows_at = [base](std::int64_t rows, std::size_t codes, std::size_t factors) {
    return Fp8Rows{rows, reinterpret_cast<std::uint8_t*>(base + codes),
                   reinterpret_cast<float*>(base + factors)};
  };
  const Fp8Rows weights = rows_at(round_up(problem.n, kMultiple), at.weights, at.weight_factors);
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
  product.stride = weights.rows;
  product.output = base::DType::kF32;
  product.d = base + at.sums;
  FinishArgs finish;
  finish.sums = reinterpret_cast<const float*>(base + at.sums);
  finish.stride = weights.rows;
  finish.row_factors = rows.factors;
  finish.column_factors = weights.factors;
  const std::int64_t most = rows_of_sums(weights.rows);
  for (std::int64_t first = 0; first < problem.m; first += most) {
    product.m = std::min(most, problem.m - first);
    product.a = rows.codes + first * problem.k;
    HALFBYTE_RETURN_IF_ERROR(cublaslt::matmul(product, stream));
    finish.first = first;
    finish.rows = product.m;
    HALFBYTE_RETURN_IF_ERROR(launch_finish(problem, finish, stream));
  }
  return {};
}

}  // namespace halfbyte::ops::cuda
