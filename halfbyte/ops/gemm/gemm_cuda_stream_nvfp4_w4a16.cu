#include "halfbyte/ops/gemm/gemm_cuda_stream_gate_up.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_instances.cuh"

namespace halfbyte::ops::cuda {

StreamKernel stream_nvfp4_w4a16(int token_tiles, int stages, bool simple) {
  return stream_instance<StreamKind::kNvfp4W4A16>(token_tiles, stages, simple);
}

GateUpStreamKernel gate_up_nvfp4_w4a16() { return gate_up_stream_kernel<StreamKind::kNvfp4W4A16>; }

}  // namespace halfbyte::ops::cuda
