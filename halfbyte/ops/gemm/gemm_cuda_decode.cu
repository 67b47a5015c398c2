// Launches of the decode kernel, one instance a shape of kDecodeShapes.
#include <utility>

#include "halfbyte/ops/gemm/gemm_cuda_decode.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

using Kernel = void (*)(DecodeArgs);

template <std::size_t... kIndices>
Kernel kernel_of(const DecodeShape& shape, std::index_sequence<kIndices...>) {
  Kernel found = nullptr;
  ((shape == kDecodeShapes[kIndices] ? void(found = decode_kernel<static_cast<int>(kIndices)>)
                                     : void()),
   ...);
  return found;
}

// Slices of A can be copied whole: linear scales, 16-byte rows of codes, 8-byte rows of scales.
bool is_aligned(const GemmProblem& problem) {
  const auto multiple = [](std::int64_t value, std::int64_t of) { return value % of == 0; };
  return problem.a_layout == ScaleLayout::kLinear && multiple(problem.k, kSliceColumns) &&
         multiple(reinterpret_cast<std::intptr_t>(problem.a_codes), 16) &&
         multiple(problem.a_rows.inner_stride, 16) &&
         multiple(reinterpret_cast<std::intptr_t>(problem.a_scales), 8);
}

}  // namespace

base::Status launch_decode(const GemmProblem& problem, const DecodePlan& plan, void* stream) {
  const Kernel kernel = kernel_of(plan.shape, std::make_index_sequence<std::size(kDecodeShapes)>{});
  DecodeArgs args{};
  args.plan = plan;
  args.weights = problem.b_prepared;
  args.a_codes = problem.a_codes;
  args.a_stride = problem.a_rows.inner_stride;
  args.a_scales = problem.a_scales;
  args.a_layout = problem.a_layout;
  args.a_scale = problem.a_scale;
  args.b_scale = problem.b_scale;
  args.bias = problem.bias;
  args.bias_dtype = problem.bias_dtype;
  args.c = problem.c;
  args.c_dtype = problem.c_dtype;
  args.c_rows = problem.c_rows;
  args.n = problem.n;
  args.k = problem.k;
  args.aligned = is_aligned(problem);
  const simt::LaunchShape shape{dim3(static_cast<unsigned>(plan.blocks)), dim3(kDecodeWarps * 32),
                                plan.shared_bytes};
  simt::LaunchOptions options;
  options.stream = static_cast<cudaStream_t>(stream);
  const int most = plan.shape.tokens();
  for (std::int64_t row = 0; row < problem.m; row += most) {
    args.first_row = row;
    args.rows = static_cast<int>(std::min<std::int64_t>(most, problem.m - row));
    HALFBYTE_RETURN_IF_ERROR(simt::launch_as("gemm", kernel, shape, options, args));
  }
  return {};
}

}  // namespace halfbyte::ops::cuda
