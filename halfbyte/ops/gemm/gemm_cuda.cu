// From a problem to its kernel.
#include <string>

#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.h"
#include "halfbyte/ops/gemm/gemm_stream_args.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {

base::Result<GemmDevice> gemm_device(base::Device device) {
  GemmDevice found;
  int major = 0, minor = 0;
  const auto ask = [&](int* to, cudaDeviceAttr attribute) {
    return simt::cuda_status("gemm", cudaDeviceGetAttribute(to, attribute, device.index));
  };
  HALFBYTE_RETURN_IF_ERROR(ask(&major, cudaDevAttrComputeCapabilityMajor));
  HALFBYTE_RETURN_IF_ERROR(ask(&minor, cudaDevAttrComputeCapabilityMinor));
  HALFBYTE_RETURN_IF_ERROR(ask(&found.multiprocessors, cudaDevAttrMultiProcessorCount));
  HALFBYTE_RETURN_IF_ERROR(ask(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  found.compute_capability = major * 10 + minor;
  found.cublaslt = cublaslt::available().message();
  found.has_sm_90a = std::string(HALFBYTE_CUDA_ARCHS).find("90a") != std::string::npos;
  return found;
}

namespace {

base::Result<GemmPlan> plan_for(const GemmProblem& problem, base::Device device) {
  const base::Result<GemmDevice> found = gemm_device(device);
  if (!found.ok()) return found.status();
  return gemm_plan(problem, found.value());
}

}  // namespace

base::Result<std::size_t> gemm_workspace_bytes(const GemmProblem& problem, base::Device device) {
  const base::Result<GemmPlan> plan = plan_for(problem, device);
  if (!plan.ok()) return plan.status();
  switch (plan.value().kind) {
    case GemmKernelKind::kTensorCore:
      return tensor_core_workspace_bytes(problem, plan.value().tensor_core);
    case GemmKernelKind::kDequantize:
      return dequantize_workspace_bytes(problem);
    case GemmKernelKind::kFp8:
      return fp8_workspace_bytes(problem);
    case GemmKernelKind::kBlockScaled:
      return block_scaled_workspace_bytes(problem);
    default:
      return std::size_t{0};
  }
}

base::Result<std::string> explain_gemm(const GemmProblem& problem, base::Device device) {
  const base::Result<GemmPlan> plan = plan_for(problem, device);
  if (!plan.ok()) return plan.status();
  return to_string(plan.value());
}

base::Status gemm(const GemmProblem& problem, base::Device device,
                  const base::Execution& execution) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  const base::Result<GemmDevice> found = gemm_device(device);
  if (!found.ok()) return found.status();
  const base::Result<GemmPlan> plan = gemm_plan(problem, found.value());
  if (!plan.ok()) return plan.status();
  switch (plan.value().kind) {
    case GemmKernelKind::kTensorCore:
      return launch_tensor_core(problem, plan.value().tensor_core, execution.stream,
                                execution.workspace);
    case GemmKernelKind::kDequantize:
      return launch_dequantize(problem, execution.stream, execution.workspace);
    case GemmKernelKind::kFp8:
      return launch_fp8(problem, found.value(), execution.stream, execution.workspace);
    case GemmKernelKind::kBlockScaled:
      return launch_block_scaled(problem, execution.stream, execution.workspace);
    case GemmKernelKind::kDecode:
      return launch_decode(problem, plan.value().decode, execution.stream);
    case GemmKernelKind::kStream:
      return launch_stream(problem, stream_plan_of(problem, plan.value().stream, found.value()),
                           execution, device.index);
    case GemmKernelKind::kAny:
      break;
  }
  return launch_any(problem, execution.stream);
}

}  // namespace halfbyte::ops::cuda
