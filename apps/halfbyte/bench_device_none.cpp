// bench_device.h and floor_cuda.h in a build without CUDA.
#include "apps/halfbyte/bench_device.h"
#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/floor_cuda.h"

namespace halfbyte::app {

base::Status copy_on_device(void*, const void*, std::size_t) { return require_cuda(); }
base::Status set_on_device(void*, std::byte, std::size_t) { return require_cuda(); }
base::Result<bool> equal_on_device(const void*, const void*, std::size_t) { return require_cuda(); }

struct DeviceTimer::State {};
DeviceTimer::DeviceTimer(std::unique_ptr<State> state) : state_(std::move(state)) {}
DeviceTimer::~DeviceTimer() = default;
DeviceTimer::DeviceTimer(DeviceTimer&&) noexcept = default;
DeviceTimer& DeviceTimer::operator=(DeviceTimer&&) noexcept = default;
base::Result<DeviceTimer> DeviceTimer::create() { return require_cuda(); }
base::Result<std::vector<Timing>> DeviceTimer::time(std::span<const DeviceWork>, double, int) {
  return require_cuda();
}

std::vector<CudaFloorVariant> cuda_floor_variants(std::size_t) { return {}; }
base::Status cuda_stream_floor(std::span<const std::span<const std::byte>>,
                               std::span<const std::span<std::byte>>, CudaFloorVariant, void*) {
  return require_cuda();
}

}  // namespace halfbyte::app
