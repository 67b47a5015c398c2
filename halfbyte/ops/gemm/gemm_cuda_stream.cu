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

simt::LaunchShape launch_shape(const StreamPlan& plan) {
  return {dim3(static_cast<unsigned>(plan.blocks)), dim3(kStreamThreads), plan.shared_bytes,
          plan.split};
}

StreamKernel kernel_of(const GemmProblem& problem, const StreamPlan& plan) {
  const auto of = problem.format == Format::kNvfp4
                      ? problem.quantized ? stream_nvfp4_w4a4 : stream_nvfp4_w4a16
                  : problem.quantized ? stream_mxfp4_w4a4
                                      : stream_mxfp4_w4a16;
  return of(plan);
}

}  // namespace

base::Status launch_stream(const GemmProblem& problem, const StreamPlan& plan,
                           const base::Execution& execution, int device) {
  const simt::LaunchOptions options = simt::launch_options(execution, device);
  return simt::launch_as("gemm", kernel_of(problem, plan), launch_shape(plan), options,
                         launch_args(problem, plan, execution, options));
}

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
  return simt::launch_as("gemm_silu_mul_quantize", of(plan), launch_shape(plan), options, args);
}

}  // namespace halfbyte::ops::cuda
