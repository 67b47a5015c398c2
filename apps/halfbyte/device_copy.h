// The CUDA runtime as far as this program needs it. In a build without CUDA every function that
// can fail says so.
#pragma once

#include <cstddef>

#include "halfbyte/base/status.h"

namespace halfbyte::app {

// Fails unless this build has CUDA and the machine a device; says which of the two is missing.
base::Status require_cuda();

base::Result<void*> device_allocate(std::size_t bytes);
void device_free(void* address);
base::Status copy_to_device(void* device, const void* host, std::size_t bytes);
base::Status copy_to_host(void* host, const void* device, std::size_t bytes);
base::Status device_synchronize();
std::size_t device_l2_bytes();  // of device 0; 0 if unknown

}  // namespace halfbyte::app
