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
};

// The grids to try: the best of them is the floor of a byte count.
std::vector<CudaFloorVariant> cuda_floor_variants();

// At most 3 spans each, of device memory aligned to 16 bytes; the last bytes past a multiple of 16
// of a span are left out. Asynchronous on `stream`.
base::Status cuda_stream_floor(std::span<const std::span<const std::byte>> reads,
                               std::span<const std::span<std::byte>> writes,
                               CudaFloorVariant variant, void* stream);

}  // namespace halfbyte::app
