// The tensor-core kernels for rows in groups.
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.cuh"

namespace halfbyte::ops::cuda {

TensorCoreKernel grouped_tensor_core_kernel(TensorCoreKind kind, TensorCoreShape shape) {
  return tensor_core_kernel_of<true>(kind, shape);
}

}  // namespace halfbyte::ops::cuda
