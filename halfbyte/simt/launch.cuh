// Around a kernel launch: the tensors' device made current, errors turned into a Status.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"

namespace halfbyte::simt {

inline base::Status cuda_status(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return {};
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion) {
    return base::unsupported(std::string(what) + ": no kernel for this device; compiled for sm_" +
                             HALFBYTE_CUDA_ARCHS + " (" + cudaGetErrorString(error) + ")");
  }
  return {base::StatusCode::kCuda, std::string(what) + ": " + cudaGetErrorString(error)};
}

// The error of the launch just made; clears it.
inline base::Status launch_status(const char* kernel) {
  return cuda_status(kernel, cudaGetLastError());
}

// Makes a tensor's device current, and the caller's again at the end.
class DeviceScope {
 public:
  explicit DeviceScope(base::Device device) : status_(enter(device)) {}
  ~DeviceScope() {
    if (changed_) (void)cudaSetDevice(previous_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  const base::Status& status() const { return status_; }

 private:
  base::Status enter(base::Device device) {
    cudaError_t error = cudaGetDevice(&previous_);
    if (error == cudaSuccess && device.index != previous_) {
      error = cudaSetDevice(device.index);
      changed_ = error == cudaSuccess;
    }
    if (error != cudaSuccess) (void)cudaGetLastError();
    return cuda_status("cudaSetDevice", error);
  }

  int previous_ = 0;
  bool changed_ = false;
  base::Status status_;
};

}  // namespace halfbyte::simt
