// The kernel behind equal_on_device.
#pragma once

#include <cstddef>

#include "halfbyte/base/status.h"

namespace halfbyte::app {

// Sets *differ, on the device, to 1 if any byte does. Both addresses are aligned to 16 bytes.
base::Status compare_on_device(const void* a, const void* b, std::size_t bytes, int* differ);

}  // namespace halfbyte::app
