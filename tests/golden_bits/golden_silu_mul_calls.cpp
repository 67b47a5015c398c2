#include "halfbyte/ops/silu_mul/silu_mul.h"
#include "tests/golden_bits/golden_calls.h"

namespace halfbyte::ops::golden {
namespace {

struct NamedActivation {
  const char* name;
  Activation activation;
};
const NamedActivation kActivations[] = {
    {"plain", {}},
    {"huggingface", {.rounding = Rounding::kHuggingFace}},
    {"gpt_oss", {.interleave = 1, .clamp = 7.0f, .alpha = 1.702f, .up_bias = 1.0f}},
    {"interleave_8", {.interleave = 8, .clamp = 0.5f, .rounding = Rounding::kHuggingFace}}};

// Seeds of this family alone: they do not depend on what other families call.
constexpr std::uint64_t kFirstSeed = 1'000;

TensorSet gate_up_set(DType dtype, std::int64_t columns, std::uint64_t seed, bool special) {
  Lcg lcg(seed);
  TensorSet set;
  set.add("gate_up", TestTensor(dtype, {kRows, 2 * columns}));
  fill(lcg, set.view("gate_up"), special);
  return set;
}

}  // namespace

// 1000 columns, no multiple of 16, for silu_mul alone.
void add_silu_mul_calls(std::vector<Call>& calls) {
  std::uint64_t seed = kFirstSeed;
  for (const NamedActivation& named : kActivations) {
    for (const DType dtype : kTypes) {
      Call call{name_of("silu_mul", named.name, dtype), gate_up_set(dtype, 1000, ++seed, true), {}};
      call.set.add("y", TestTensor(dtype, {kRows, 1000}));
      call.operation = [&named](const TensorSet& set, const Execution& execution) {
        return silu_mul({set.view("gate_up"), named.activation, set.view("y")}, execution);
      };
      calls.push_back(std::move(call));
    }
  }
  for (const auto& [name, spec] : specs()) {
    if (spec.scale_rule == ScaleRule::kTe) continue;
    const NamedActivation& named = kActivations[seed % 4];
    const DType dtype = kTypes[seed % 3];
    // A NaN would make the whole tensor NaN where the scale is computed from it.
    const bool special = spec.scale != ScaleMode::kComputed;
    Call call{name_of("silu_mul_quantize", name, dtype),
              gate_up_set(dtype, kColumns, ++seed, special),
              {}};
    add_outputs(call.set, spec, kRows, kColumns);
    call.operation = [&named, spec = spec](const TensorSet& set, const Execution& execution) {
      return silu_mul_quantize(
          {set.view("gate_up"), named.activation, given(set), spec, outputs(set)}, execution);
    };
    calls.push_back(std::move(call));
  }
}

}  // namespace halfbyte::ops::golden
