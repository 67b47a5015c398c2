// device_copy.h in a build without CUDA.
#include "apps/halfbyte/device_copy.h"
#include "halfbyte/base/cuda_device.h"

namespace halfbyte::app {

base::Status require_cuda() { return base::cuda_devices().status(); }

base::Result<void*> device_allocate(std::size_t) { return require_cuda(); }
void device_free(void*) {}
base::Status copy_to_device(void*, const void*, std::size_t) { return require_cuda(); }
base::Status copy_to_host(void*, const void*, std::size_t) { return require_cuda(); }
base::Status device_synchronize() { return require_cuda(); }
std::size_t device_l2_bytes() { return 0; }

}  // namespace halfbyte::app
