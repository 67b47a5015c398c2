// THE definition of RoPE a pair at a time (docs/numerics.md, "RoPE"), host and device.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/half_types.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::ops {

// Which elements form a pair. The values are part of the C ABI.
enum class RopeStyle : std::int32_t {
  kNeox = 0,  // half-split: i and i + rope_dim/2 (Llama, Qwen, GPT-NeoX)
  kGptj = 1,  // interleaved: 2i and 2i + 1 (GPT-J, DeepSeek)
};

// The two elements of pair `pair`, counted from the first rotated element.
HALFBYTE_HD constexpr std::int64_t rope_first(RopeStyle style, std::int64_t pair) {
  return style == RopeStyle::kNeox ? pair : 2 * pair;
}
HALFBYTE_HD constexpr std::int64_t rope_second(RopeStyle style, std::int64_t pair,
                                               std::int64_t rope_dim) {
  return style == RopeStyle::kNeox ? pair + rope_dim / 2 : 2 * pair + 1;
}

template <class T>
struct RopePair {
  T a, b;
};

// a' = T( fl( fl(a*c) - fl(b*s) ) ), b' = T( fl( fl(a*s) + fl(b*c) ) ); inverse: s -> -s.
template <class T>
HALFBYTE_HD RopePair<T> rope_rotate(float a, float b, float c, float s, bool inverse) {
  using numerics::product_rn;
  const float sine = inverse ? -s : s;
  return {
      numerics::round_to<T>(numerics::sub_rn(product_rn(a, c), product_rn(b, sine))),
      numerics::round_to<T>(numerics::add_rn(product_rn(a, sine), product_rn(b, c))),
  };
}

}  // namespace halfbyte::ops
