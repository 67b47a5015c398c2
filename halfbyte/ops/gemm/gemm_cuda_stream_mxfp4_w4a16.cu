#include "halfbyte/ops/gemm/gemm_cuda_stream.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_instances.cuh"

namespace halfbyte::ops::cuda {

StreamKernel stream_mxfp4_w4a16(int token_tiles, int stages, bool simple) {
  return stream_instance<StreamKind::kMxfp4W4A16>(token_tiles, stages, simple);
}

}  // namespace halfbyte::ops::cuda
