#include <algorithm>

#include "halfbyte/ops/gemm/gemm_cuda_finish.h"
#include "halfbyte/ops/gemm/gemm_cuda_values.cuh"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kThreads = 256, kColumns = 4;  // of a thread, kThreads apart

__global__ void __launch_bounds__(kThreads)
    finish_kernel(const __grid_constant__ GemmProblem problem,
                  const __grid_constant__ FinishArgs args) {
  const float decode_b = args.column_factors == nullptr ? problem.b_scale.decode(0) : 1.0f;
  const std::int64_t first = std::int64_t{blockIdx.x} * (kThreads * kColumns) + threadIdx.x;
  for (std::int64_t i = blockIdx.y; i < args.rows; i += gridDim.y) {
    const std::int64_t row = args.first + i;
    const float factor = args.row_factors != nullptr ? args.row_factors[row]
                         : problem.quantized         ? problem.a_scale.decode(row)
                                                     : 1.0f;
    const std::int64_t c = problem.c_rows.offset(row);
    float sums[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const std::int64_t n = first + j * kThreads;
      sums[j] = n < problem.n ? args.sums[i * args.stride + n] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const std::int64_t n = first + j * kThreads;
      if (n >= problem.n) break;
      float v = scale_sum(sums[j], factor,
                          args.column_factors == nullptr ? decode_b : args.column_factors[n]);
      if (problem.bias != nullptr) {
        v = numerics::add_rn(v, value_at(problem.bias, problem.bias_dtype, n));
      }
      put_value(problem.c, problem.c_dtype, c + n, v);
    }
  }
}

__global__ void alpha_kernel(const __grid_constant__ GemmProblem problem, bool scaled,
                             float* alpha) {
  alpha[0] = scaled ? numerics::mul_rn(problem.quantized ? problem.a_scale.decode(0) : 1.0f,
                                       problem.b_scale.decode(0))
                    : 1.0f;
  alpha[1] = 0.0f;
}

}  // namespace

bool is_direct_output(const GemmProblem& problem) {
  const std::int64_t sixteen_bytes = 16 / base::dtype_bytes(problem.c_dtype);
  return problem.bias == nullptr && problem.c_rows.inner_rows == problem.c_rows.rows &&
         problem.c_rows.inner_stride >= problem.n &&
         problem.c_rows.inner_stride % sixteen_bytes == 0 &&
         reinterpret_cast<std::uintptr_t>(problem.c) % 16 == 0;
}

std::int64_t rows_of_sums(std::int64_t n) {
  constexpr std::int64_t kBytes = std::int64_t{48} << 20, kMultipleOfRows = 128, kLeast = 256;
  return std::max(kBytes / 4 / std::max<std::int64_t>(n, 1) / kMultipleOfRows * kMultipleOfRows,
                  kLeast);
}

base::Status launch_alpha(const GemmProblem& problem, bool scaled, float* alpha, void* stream) {
  alpha_kernel<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(problem, scaled, alpha);
  return simt::launch_status("gemm");
}

base::Status launch_finish(const GemmProblem& problem, const FinishArgs& args, void* stream) {
  if (args.rows == 0 || problem.n == 0) return {};
  constexpr std::int64_t kMostRows = 16384, kBlock = kThreads * kColumns;
  const dim3 grid(static_cast<unsigned>((problem.n + kBlock - 1) / kBlock),
                  static_cast<unsigned>(std::min(args.rows, kMostRows)));
  finish_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problem, args);
  return simt::launch_status("gemm");
}

}  // namespace halfbyte::ops::cuda
