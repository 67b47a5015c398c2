// Random contents of a case's tensors, the same in every run.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "apps/halfbyte/bench_case.h"

namespace halfbyte::app {

// A tensor is filled by repeating a block of random elements: making gigabytes of normally
// distributed values would take longer than the measurement.
class BenchData {
 public:
  // At least one element and at most kBlockElements, as bytes; `seed` tells tensors of the same
  // kind apart. Valid until the next call. A longer block starts with the shorter one.
  std::span<const std::byte> block(Fill fill, base::DType dtype, std::int64_t elements,
                                   unsigned seed);

 private:
  // Not a multiple of a row length: rows differ.
  static constexpr std::int64_t kBlockElements = (1 << 20) + 7;
  std::map<std::tuple<Fill, base::DType, unsigned>, std::vector<std::byte>> blocks_;
};

}  // namespace halfbyte::app
