#include "halfbyte/base/cuda_device.h"

#ifdef HALFBYTE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace halfbyte::base {

#ifdef HALFBYTE_WITH_CUDA

bool built_with_cuda() { return true; }
std::string compiled_cuda_architectures() { return HALFBYTE_CUDA_ARCHS; }

Result<std::vector<CudaDevice>> cuda_devices() {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    (void)cudaGetLastError();
    return unsupported(std::string("no CUDA device: ") + cudaGetErrorString(error));
  }
  std::vector<CudaDevice> devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, i); error != cudaSuccess) {
      (void)cudaGetLastError();
      return Status(StatusCode::kCuda,
                    std::string("cudaGetDeviceProperties: ") + cudaGetErrorString(error));
    }
    devices.push_back({i, properties.name, properties.major * 10 + properties.minor,
                       properties.multiProcessorCount});
  }
  return devices;
}

#else

bool built_with_cuda() { return false; }
std::string compiled_cuda_architectures() { return ""; }

Result<std::vector<CudaDevice>> cuda_devices() {
  return unsupported("no CUDA: this build of halfbyte has none (configure with HALFBYTE_CUDA=ON)");
}

#endif

}  // namespace halfbyte::base
