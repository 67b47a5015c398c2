// device_copy.h on the CUDA runtime.
#include <cuda_runtime_api.h>

#include <string>

#include "apps/halfbyte/device_copy.h"
#include "halfbyte/base/cuda_device.h"

namespace halfbyte::app {
namespace {

using base::Result;
using base::Status;

Status checked(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  return {base::StatusCode::kCuda, std::string(what) + ": " + cudaGetErrorString(error)};
}

}  // namespace

Status require_cuda() { return base::cuda_devices().status(); }

Result<void*> device_allocate(std::size_t bytes) {
  void* address = nullptr;
  HALFBYTE_RETURN_IF_ERROR(checked("cudaMalloc", cudaMalloc(&address, bytes)));
  return address;
}

void device_free(void* address) { cudaFree(address); }

Status copy_to_device(void* device, const void* host, std::size_t bytes) {
  return checked("cudaMemcpy", cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
}

Status copy_to_host(void* host, const void* device, std::size_t bytes) {
  return checked("cudaMemcpy", cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

Status device_synchronize() { return checked("cudaDeviceSynchronize", cudaDeviceSynchronize()); }

std::size_t device_l2_bytes() {
  int bytes = 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, 0) != cudaSuccess) return 0;
  return static_cast<std::size_t>(bytes);
}

}  // namespace halfbyte::app
