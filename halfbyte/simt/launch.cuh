// Around a kernel launch: the tensors' device made current, errors turned into a Status.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/simt/row_plan.h"

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

// What a launcher asks of a device, asked once.
struct DeviceProperties {
  int multiprocessors = 1;
  bool launches_early = false;  // programmatic launch: sm_90 and later
};

inline DeviceProperties device_properties(int device) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices] = {};  // 2 * multiprocessors + launches_early
  const bool keeps = device >= 0 && device < kDevices;
  int value = keeps ? known[device].load(std::memory_order_relaxed) : 0;
  if (value == 0) {
    int count = 0, major = 0;
    if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
      return {};
    }
    value = 2 * count + static_cast<int>(major >= 9);
    if (keeps) known[device].store(value, std::memory_order_relaxed);
  }
  return {value / 2, value % 2 != 0};
}

// Where and how a kernel is launched.
struct LaunchOptions {
  cudaStream_t stream = nullptr;
  bool programmatic = false;      // it waits for the kernel before by itself
  bool constant_weights = false;  // no kernel writes them: they need not wait
  DeviceProperties device;
};

inline LaunchOptions launch_options(const base::Execution& execution, int device) {
  LaunchOptions options;
  options.stream = static_cast<cudaStream_t>(execution.stream);
  options.device = device_properties(device);
  options.programmatic = execution.programmatic_launch && options.device.launches_early;
  options.constant_weights = execution.constant_weights;
  return options;
}

// Before a kernel that takes the maximum of it with a tensor's amax; nullptr: nothing.
inline base::Status zero_amax(float* amax, cudaStream_t stream) {
  if (amax == nullptr) return {};
  return cuda_status("cudaMemsetAsync", cudaMemsetAsync(amax, 0, sizeof(float), stream));
}

// The shared memory that a CTA of the current device can have.
inline int most_shared_bytes() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices] = {};
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kDevices) return 0;
  bytes = known[device].load(std::memory_order_relaxed);
  if (bytes == 0) {
    if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
        cudaSuccess) {
      return 0;
    }
    known[device].store(bytes, std::memory_order_relaxed);
  }
  return bytes;
}

struct LaunchShape {
  dim3 grid, block;
  int shared_bytes = 0;  // dynamic
  int cluster = 1;       // CTAs along x that form one
  int static_bytes = 0;  // at least the kernel's own shared memory, where it has both
};

template <class... Parameters, class... Args>
base::Status launch_as(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
                       const LaunchOptions& options, const Args&... args) {
  if (shape.shared_bytes > 0) {
    // As much as any call may take: another thread's call must not lower it before this launch.
    const base::Status status = cuda_status(
        name, cudaFuncSetAttribute(
                  kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                  std::max(shape.shared_bytes, most_shared_bytes() - shape.static_bytes)));
    if (!status.ok()) return status;
  }
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
  config.stream = options.stream;
  config.attrs = attributes;
  if (options.programmatic) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args...);
  if (error != cudaSuccess) (void)cudaGetLastError();
  return cuda_status(name, error);
}

template <auto kKernel, class... Args>
base::Status launch(const char* name, dim3 grid, dim3 block, const LaunchOptions& options,
                    const Args&... args) {
  return launch_as(name, kKernel, {grid, block}, options, args...);
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

// Launches kKernel(args) with one CTA a row, for the general kernels: `columns` elements a row;
// `target`, where rows are quantized, may have rows of padding and, without rows, a scale to
// report.
template <auto kKernel, class... Args>
base::Status launch_rows(const char* name, std::int64_t rows, std::int64_t columns,
                         const formats::RowTarget* target, cudaStream_t stream,
                         const Args&... args) {
  RowPlan plan = row_plan(target != nullptr ? target->padded_rows() : rows, columns);
  if (target != nullptr && target->mode == formats::ScaleMode::kComputed) {
    plan.ctas = std::max(plan.ctas, 1);
  }
  if (plan.ctas == 0) return {};
  kKernel<<<plan.ctas, plan.threads, 0, stream>>>(args...);
  return launch_status(name);
}

}  // namespace halfbyte::simt
