// Launches of the stream kernel. Its instances are compiled in files of their own, a kind each.
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_stream_gate_up.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_instances.cuh"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

StreamArgs launch_args(const GemmProblem& problem, const StreamPlan& plan,
                       const base::Execution& execution, const simt::LaunchOptions& options) {
  StreamArgs args = stream_args(problem, plan);
  args.wait = options.programmatic;
  args.constant_weights = execution.constant_weights;
  return args;
}

template <class Args>
base::Status launch_kernel(void (*kernel)(Args), const Args& args, const StreamPlan& plan,
                           const simt::LaunchOptions& options) {
  HALFBYTE_RETURN_IF_ERROR(simt::cuda_status(
      "gemm", cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   plan.shared_bytes)));
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

StreamKernel kernel_of(const GemmProblem& problem, const StreamPlan& plan) {
  const auto of = problem.format == Format::kNvfp4
                      ? problem.quantized ? stream_nvfp4_w4a4 : stream_nvfp4_w4a16
                  : problem.quantized ? stream_mxfp4_w4a4
                                      : stream_mxfp4_w4a16;
  return of(plan);
}

}  // namespace

base::Status launch_stream(const GemmProblem& problem, StreamPlan plan,
                           const base::Execution& execution, int device) {
  plan.simple = plan.simple && is_regular_stream(problem);
  const simt::LaunchOptions options = simt::launch_options(execution, device);
  return launch_kernel(kernel_of(problem, plan), launch_args(problem, plan, execution, options),
                       plan, options);
}

bool can_fuse_gate_up(const GateUpProblem& problem) { return is_regular_stream(problem.product); }

base::Status launch_gate_up_stream(const GateUpProblem& problem, const StreamPlan& plan,
                                   const base::Execution& execution, int device) {
  const GemmProblem& product = problem.product;
  const auto of = product.format == Format::kNvfp4
                      ? product.quantized ? gate_up_nvfp4_w4a4 : gate_up_nvfp4_w4a16
                  : product.quantized ? gate_up_mxfp4_w4a4
                                      : gate_up_mxfp4_w4a16;
  const simt::LaunchOptions options = simt::launch_options(execution, device);
  const GateUpStreamArgs args{launch_args(product, plan, execution, options), problem.rule,
                              problem.target};
  return launch_kernel(of(plan), args, plan, options);
}

}  // namespace halfbyte::ops::cuda
