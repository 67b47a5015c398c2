// The streaming floor on the CPU: the bytes that an operator must read are read, the bytes that it
// must write are written, and nothing is computed.
#pragma once

#include <cstddef>
#include <span>

namespace halfbyte::app {

struct FloorVariant {
  int threads = 1;
  std::size_t chunk_bytes = 16384;  // of the largest span, read and then written
  bool streaming_stores = false;    // past the caches; where the processor has no such store, plain
};

// Reads every byte of `reads` and writes every byte of `writes` (they may be the same memory). A
// thread takes the same share of each.
void stream_floor(std::span<const std::span<const std::byte>> reads,
                  std::span<const std::span<std::byte>> writes, FloorVariant variant);

}  // namespace halfbyte::app
