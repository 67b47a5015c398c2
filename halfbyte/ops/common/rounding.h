// Where an operator of several steps rounds to T.
#pragma once

#include <cstdint>

namespace halfbyte::ops {

// The values are part of the C ABI; docs/numerics.md has each operator's formula of both.
enum class Rounding : std::int32_t {
  kFloat32 = 0,      // once, at the end
  kHuggingFace = 1,  // before the last product too, as transformers' modules do
};

}  // namespace halfbyte::ops
