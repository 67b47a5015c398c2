// THE definition of SiLU · mul an element at a time (docs/numerics.md, "SiLU · mul"), host and
// device.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/exp.h"
#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/numerics/rounding.h"
#include "halfbyte/ops/common/rounding.h"

namespace halfbyte::ops {

// The options, checked and resolved.
struct SiluMulRule {
  float clamp = numerics::bits_float(numerics::kInfBits);  // > 0; Inf: none
  float alpha = 1.0f;
  float up_bias = 0.0f;
  Rounding rounding = Rounding::kFloat32;
};

// Where gate and up of output column k lie in a row of 2I elements: in its halves (interleave 0),
// or in groups of `interleave` neighbours, gate group first.
HALFBYTE_HD constexpr std::int64_t gate_column(std::int64_t k, int interleave) {
  return interleave == 0 ? k : k / interleave * 2 * interleave + k % interleave;
}
HALFBYTE_HD constexpr std::int64_t up_column(std::int64_t k, std::int64_t columns, int interleave) {
  return gate_column(k, interleave) + (interleave == 0 ? columns : interleave);
}

// min(gate, clamp), NaN propagates. Bits of positive floats order as integers do.
HALFBYTE_HD constexpr float clamp_gate(float gate, float clamp) {
  const bool above = static_cast<std::int32_t>(numerics::float_bits(gate)) >
                     static_cast<std::int32_t>(numerics::float_bits(clamp));
  return above && !numerics::is_nan(gate) ? clamp : gate;
}

// up within -clamp .. clamp, NaN propagates.
HALFBYTE_HD constexpr float clamp_up(float up, float clamp) {
  const bool beyond = numerics::abs_bits(up) > numerics::float_bits(clamp);
  const std::uint32_t sign = numerics::float_bits(up) & 0x80000000u;
  return beyond && !numerics::is_nan(up) ? numerics::bits_float(numerics::float_bits(clamp) | sign)
                                         : up;
}

// y, as T: T( fl(s * u) ), or T( fl( T(s) * u ) ), with s = fl(gate * sig).
template <class T>
HALFBYTE_HD T silu_mul_apply(float gate, float up, const SiluMulRule& rule) {
  gate = clamp_gate(gate, rule.clamp);
  up = clamp_up(up, rule.clamp);
  const float e = numerics::exp(-numerics::mul_rn(rule.alpha, gate));
  const float sig = numerics::div_rn(1.0f, numerics::add_rn(1.0f, e));
  float s = numerics::mul_rn(gate, sig);
  if (rule.rounding == Rounding::kHuggingFace) s = numerics::to_float(numerics::round_to<T>(s));
  // No addition where there is no bias: it would turn -0 into +0.
  const float u = numerics::is_zero(rule.up_bias) ? up : numerics::add_rn(up, rule.up_bias);
  return numerics::round_to<T>(numerics::mul_rn(s, u));
}

}  // namespace halfbyte::ops
