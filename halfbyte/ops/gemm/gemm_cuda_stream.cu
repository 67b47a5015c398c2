// Launches of the stream kernel. Its instances are compiled in files of their own, a kind each.
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_stream_instances.cuh"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

// Eight columns of A can be read at once: 4 bytes of codes, 16 of values.
bool is_aligned(const GemmProblem& problem) {
  const base::RowMap& rows = problem.quantized ? problem.a_rows : problem.x_rows;
  const void* first = problem.quantized ? problem.a_codes : problem.x;
  const std::int64_t to = problem.quantized ? 4 : 16, unit = problem.quantized ? 1 : 2;
  return reinterpret_cast<std::intptr_t>(first) % to == 0 && rows.inner_stride * unit % to == 0 &&
         rows.outer_stride * unit % to == 0;
}

StreamKernel kernel_of(const GemmProblem& problem, const StreamPlan& plan) {
  const auto of = problem.format == Format::kNvfp4
                      ? problem.quantized ? stream_nvfp4_w4a4 : stream_nvfp4_w4a16
                  : problem.quantized ? stream_mxfp4_w4a4
                                      : stream_mxfp4_w4a16;
  return of(plan.token_tiles, plan.stages, plan.simple);
}

}  // namespace

base::Status launch_stream(const GemmProblem& problem, StreamPlan plan,
                           const base::Execution& execution, int device) {
  const base::RowMap& rows = problem.quantized ? problem.a_rows : problem.x_rows;
  constexpr std::int64_t kMostScales = std::int64_t{1} << 31;
  const bool regular = rows.inner_rows == rows.rows && is_aligned(problem) &&
                       (problem.a_scale_rows + 128) * (problem.blocks() + 4) < kMostScales;
  plan.simple = plan.simple && regular;
  const StreamKernel kernel = kernel_of(problem, plan);
  HALFBYTE_RETURN_IF_ERROR(simt::cuda_status(
      "gemm", cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   plan.shared_bytes)));
  const simt::LaunchOptions options = simt::launch_options(execution, device);
  StreamArgs args{};
  args.weights = problem.b_prepared;
  args.plan = plan;
  args.problem = problem;
  args.halves = static_cast<int>(problem.k / 8);
  args.row_bytes = rows.inner_stride * (problem.quantized ? 1 : 2);
  args.regular = regular;
  args.wait = options.programmatic;
  args.constant_weights = execution.constant_weights;
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(kStreamThreads);
  config.dynamicSmemBytes = static_cast<std::size_t>(plan.shared_bytes);
  config.stream = options.stream;
  config.attrs = attributes;
  if (options.programmatic) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (plan.split > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(plan.split);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args);
  if (error != cudaSuccess) (void)cudaGetLastError();
  return simt::cuda_status("gemm", error);
}

}  // namespace halfbyte::ops::cuda
