#include <cuda_runtime.h>

#include <string>

#include "apps/halfbyte/bench_compare_cuda.h"

namespace halfbyte::app {
namespace {

__global__ void compare_kernel(const unsigned char* a, const unsigned char* b, std::size_t bytes,
                               int* differ) {
  const std::size_t pieces = bytes / sizeof(uint4);
  const std::size_t first = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x;
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  bool same = true;
  for (std::size_t i = first; i < pieces; i += step) {
    const uint4 x = reinterpret_cast<const uint4*>(a)[i];
    const uint4 y = reinterpret_cast<const uint4*>(b)[i];
    same = same && x.x == y.x && x.y == y.y && x.z == y.z && x.w == y.w;
  }
  for (std::size_t i = pieces * sizeof(uint4) + first; i < bytes; i += step) {
    same = same && a[i] == b[i];
  }
  if (!same) *differ = 1;
}

}  // namespace

base::Status compare_on_device(const void* a, const void* b, std::size_t bytes, int* differ) {
  compare_kernel<<<1024, 256>>>(static_cast<const unsigned char*>(a),
                                static_cast<const unsigned char*>(b), bytes, differ);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return {};
  return {base::StatusCode::kCuda, std::string("compare_kernel: ") + cudaGetErrorString(error)};
}

}  // namespace halfbyte::app
