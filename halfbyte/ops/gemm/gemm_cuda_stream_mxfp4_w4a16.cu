#include "halfbyte/ops/gemm/gemm_cuda_stream.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_gate_up.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_instances.cuh"

namespace halfbyte::ops::cuda {

StreamKernel stream_mxfp4_w4a16(const StreamPlan& plan) {
  return stream_instance<StreamKind::kMxfp4W4A16>(plan);
}

GateUpStreamKernel gate_up_mxfp4_w4a16(const StreamPlan& plan) {
  return gate_up_instance<StreamKind::kMxfp4W4A16>(plan);
}

}  // namespace halfbyte::ops::cuda
