// Memory of a case: every tensor as many times as the timing rotates over.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "apps/halfbyte/bench_case.h"
#include "apps/halfbyte/bench_data.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

// What the floor moves of one set.
template <class Byte>
struct FloorSpans {
  static constexpr std::size_t kMost = 12;
  std::array<std::span<Byte>, kMost> spans;
  std::size_t count = 0;

  // NOLINTNEXTLINE(google-explicit-constructor)
  operator std::span<const std::span<Byte>>() const { return {spans.data(), count}; }
};

struct FreeMemory {
  bool on_host = true;
  void operator()(std::byte* address) const;
};

class Buffers {
 public:
  // Inputs hold the same contents in every set; what the operator writes holds `poison` bytes.
  // Every tensor starts at a cache line. `bench_case` outlives the buffers.
  static base::Result<Buffers> create(const BenchCase& bench_case, BenchData& data,
                                      std::int64_t sets, base::Device device, std::byte poison);

  TensorSet set(std::int64_t index) const { return {*this, index}; }
  base::TensorView view(int tensor, std::int64_t set) const;
  FloorSpans<const std::byte> reads(std::int64_t set) const;
  FloorSpans<std::byte> writes(std::int64_t set) const;

  // Whether the first sets of two buffers of one case hold the same outputs, bit for bit; on
  // devices, after what they are waited for has finished.
  static base::Result<bool> equal_outputs(const Buffers& a, const Buffers& b);

 private:
  using Memory = std::unique_ptr<std::byte[], FreeMemory>;
  struct Slab {
    Memory memory;
    std::int64_t bytes = 0;   // of one set
    std::int64_t stride = 0;  // between sets
  };

  static base::Result<Memory> allocate(std::int64_t bytes, base::Device device);
  base::Status fill(std::size_t tensor, BenchData& data, std::int64_t sets, std::byte poison);

  const BenchCase* case_ = nullptr;
  base::Device device_;
  std::vector<Slab> slabs_;
};

}  // namespace halfbyte::app
