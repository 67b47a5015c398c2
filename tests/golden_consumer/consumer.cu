// consumer.cpp through nvcc. Where a device exists it also prints "device <case> <hash>", computed
// by a kernel; without one the kernel is compiled only.
#include <cinttypes>
#include <cstdio>
#include <vector>

#include "consumer_body.h"

__global__ void hash_blocks(int which, std::uint64_t* hashes) {
  const std::uint32_t block = blockIdx.x * blockDim.x + threadIdx.x;
  if (block < golden::kBlocks) hashes[block] = golden::block_hash(which, block);
}

// 0 if there is no device or every case ran.
int golden_on_device() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 0;
  std::vector<std::uint64_t> hashes(golden::kBlocks);
  const std::size_t bytes = hashes.size() * sizeof(hashes[0]);
  std::uint64_t* on_device = nullptr;
  cudaError_t error = cudaMalloc(&on_device, bytes);
  for (int which = 0; which < golden::kCases && error == cudaSuccess; ++which) {
    hash_blocks<<<golden::kBlocks / 128, 128>>>(which, on_device);
    error = cudaGetLastError();
    if (error != cudaSuccess) break;
    error = cudaMemcpy(hashes.data(), on_device, bytes, cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) break;
    std::printf("device %s %016" PRIx64 "\n", golden::kNames[which], golden::fold(hashes.data()));
  }
  cudaFree(on_device);
  if (error != cudaSuccess) std::fprintf(stderr, "cuda: %s\n", cudaGetErrorString(error));
  return error == cudaSuccess ? 0 : 1;
}

#include "consumer.cpp"
