#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "apps/halfbyte/floor_cuda.h"

namespace halfbyte::app {
namespace {

constexpr int kSpans = 3;

struct Pieces {
  uint4* data[kSpans];
  std::size_t count[kSpans];  // of 16 bytes
};

__global__ void floor_kernel(const Pieces reads, const Pieces writes) {
  const std::size_t first = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x;
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  uint4 sum = make_uint4(0, 0, 0, 0);
  for (int span = 0; span < kSpans; ++span) {
#pragma unroll 4
    for (std::size_t i = first; i < reads.count[span]; i += step) {
      const uint4 value = reads.data[span][i];
      sum.x ^= value.x;
      sum.y ^= value.y;
      sum.z ^= value.z;
      sum.w ^= value.w;
    }
  }
  for (int span = 0; span < kSpans; ++span) {
#pragma unroll 4
    // What was read is written, so that no read can be removed.
    for (std::size_t i = first; i < writes.count[span]; i += step) writes.data[span][i] = sum;
  }
}

template <class Spans>
Pieces pieces(const Spans& spans) {
  Pieces result{};
  for (std::size_t i = 0; i < spans.size() && i < kSpans; ++i) {
    result.data[i] = reinterpret_cast<uint4*>(const_cast<std::byte*>(spans[i].data()));
    result.count[i] = spans[i].size() / sizeof(uint4);
  }
  return result;
}

}  // namespace

std::vector<CudaFloorVariant> cuda_floor_variants() {
  int multiprocessors = 1;
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0);
  std::vector<CudaFloorVariant> variants;
  for (const int a_multiprocessor : {1, 2, 4, 8, 16, 32}) {
    for (const int threads : {256, 512}) {
      variants.push_back({a_multiprocessor * multiprocessors, threads});
    }
  }
  return variants;
}

base::Status cuda_stream_floor(std::span<const std::span<const std::byte>> reads,
                               std::span<const std::span<std::byte>> writes,
                               CudaFloorVariant variant, void* stream) {
  floor_kernel<<<variant.ctas, variant.threads, 0, static_cast<cudaStream_t>(stream)>>>(
      pieces(reads), pieces(writes));
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return {};
  return {base::StatusCode::kCuda, std::string("floor_kernel: ") + cudaGetErrorString(error)};
}

}  // namespace halfbyte::app
