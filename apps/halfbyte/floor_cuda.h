// The streaming floor on CUDA: the bytes that an operator must read are read, the bytes that it
// must write are written, 16 at a time, and nothing is computed.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "halfbyte/base/status.h"

namespace halfbyte::app {

struct CudaFloorVariant {
  int ctas = 1;
  int threads = 256;
  bool streaming = false;  // loads and stores marked "used once"
  bool at_once = false;    // a thread's pieces come from all spans as one range, not span by span
};

// What to try for this many bytes: the best of them is the floor.
std::vector<CudaFloorVariant> cuda_floor_variants(std::size_t bytes);

// At most 12 spans each, of device memory aligned to 16 bytes; a span's last bytes are moved as a
// whole piece of 16, which the allocation must hold. A span of `writes` may be one of `reads`.
// Asynchronous on `stream`.
base::Status cuda_stream_floor(std::span<const std::span<const std::byte>> reads,
                               std::span<const std::span<std::byte>> writes,
                               CudaFloorVariant variant, void* stream);

}  // namespace halfbyte::app
