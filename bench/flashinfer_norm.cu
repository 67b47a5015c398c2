// FlashInfer's CUDA RMSNorm (flashinfer/norm.cuh of its wheel) behind a C interface, for
// bench/torch_cuda.py. bench/peers.sh compiles it with the headers out of the wheel.
#include <cmath>
#include <flashinfer/norm.cuh>

using Value = __nv_bfloat16;

extern "C" {

int flashinfer_rmsnorm(void* x, void* weight, void* y, unsigned rows, unsigned columns, float eps,
                       void* stream) {
  return flashinfer::norm::RMSNorm(static_cast<Value*>(x), static_cast<Value*>(weight),
                                   static_cast<Value*>(y), rows, columns, columns, columns, eps,
                                   /*enable_pdl=*/false, static_cast<cudaStream_t>(stream));
}

// residual += x; x = rmsnorm(residual).
int flashinfer_add_rmsnorm(void* x, void* residual, void* weight, unsigned rows, unsigned columns,
                           float eps, void* stream) {
  return flashinfer::norm::FusedAddRMSNorm(
      static_cast<Value*>(x), static_cast<Value*>(residual), static_cast<Value*>(weight), rows,
      columns, columns, columns, eps, /*enable_pdl=*/false, static_cast<cudaStream_t>(stream));
}
}
