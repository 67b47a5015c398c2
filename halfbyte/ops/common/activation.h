// The gated activation's options: what silu_mul and the operators that end in it take.
#pragma once

#include <cstdint>
#include <optional>

#include "halfbyte/ops/common/rounding.h"

namespace halfbyte::ops {

// gpt-oss: interleave 1, clamp 7, alpha 1.702, up_bias 1.
struct Activation {
  std::int32_t interleave = 0;      // 0: gate, then up, in halves of the last dimension; 1 or 8: in
                                    // groups of so many, gate group first (8 needs I % 8 == 0)
  std::optional<float> clamp = {};  // finite, > 0: gate = min(gate, clamp), up in -clamp .. clamp
  float alpha = 1.0f;               // finite
  float up_bias = 0.0f;             // finite
  Rounding rounding = Rounding::kFloat32;
};

}  // namespace halfbyte::ops
