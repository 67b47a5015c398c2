// What the calls of the golden bits are made of: their inputs, their outputs, their names. Nothing
// here may change: the committed hashes depend on it.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/quantize_spec.h"
#include "halfbyte/ops/common/testing.h"

namespace halfbyte::ops::golden {

using base::DType;
using base::Execution;
using testing::TensorSet;
using testing::TestTensor;

// Knuth's MMIX generator: integers alone, the same everywhere.
class Lcg {
 public:
  explicit Lcg(std::uint64_t seed) : state_(seed) {}
  std::uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state_ >> 32);
  }
  // In steps of 2^-12 from -8 to 8, times a power of two: exact in fp32.
  float value(int exponent) {
    const auto integer = static_cast<std::int32_t>(next() >> 16) - 32768;
    return std::ldexp(static_cast<float>(integer), exponent - 12);
  }

 private:
  std::uint64_t state_;
};

struct Call {
  std::string name;
  TensorSet set;
  testing::Operation operation;
};

// Ordinary values over several exponents, with a zero block, a row of subnormals, a NaN and an Inf
// in rows of their own.
inline void fill(Lcg& lcg, const TensorView& view, bool special) {
  const std::int64_t columns = view.shape[view.ndim - 1], rows = view.numel() / columns;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t k = 0; k < columns; ++k) {
      const int exponent = static_cast<int>(lcg.next() >> 29) - 5;
      float value = lcg.value(exponent);
      if (special && row == 1 && k < 32) value = 0.0f;
      if (special && row == 2) value = std::ldexp(value, view.dtype == DType::kF16 ? -20 : -130);
      testing::set(view, row * columns + k, value);
    }
  }
  if (!special || rows < 5) return;
  testing::set_bits(view, 3 * columns + 5, view.dtype == DType::kF32 ? 0x7FC00000u : 0x7FC0u);
  if (view.dtype == DType::kF16) testing::set_bits(view, 3 * columns + 5, 0x7E00u);
  testing::set(view, 4 * columns + 1, -std::numeric_limits<float>::infinity());
}

inline void add_outputs(TensorSet& set, const QuantizeSpec& spec, std::int64_t rows,
                        std::int64_t columns) {
  set.add("codes", TestTensor(DType::kU8, {rows, formats::code_bytes(spec.format, columns)}));
  const auto add_scales = [&](const char* name, ScaleLayout layout) {
    const std::int64_t blocks = columns / formats::block_elements(spec.format);
    set.add(name, TestTensor(DType::kU8, {formats::scale_bytes(layout, rows, blocks)}));
  };
  if (formats::has_block_scales(spec.format)) add_scales("scales", spec.layout);
  if (spec.second_layout) add_scales("scales_second", *spec.second_layout);
  if (spec.scale == ScaleMode::kRow) set.add("row_scale", TestTensor(DType::kF32, {rows}));
  if (spec.scale == ScaleMode::kComputed) {
    set.add("out_global_scale", TestTensor(DType::kF32, {1}));
    set.add("out_decode_scale", TestTensor(DType::kF32, {1}));
  }
  if (spec.scale != ScaleMode::kTensor || spec.format == Format::kMxfp4) return;
  const char* name = spec.format == Format::kFp8 ? "decode_scale" : "global_scale";
  set.add(name, TestTensor(DType::kF32, {1}));
  testing::fill(set.view(name), {spec.format == Format::kFp8 ? 0.037f : 91.3f});
}

inline GivenScale given(const TensorSet& set) {
  return {set.view("global_scale"), set.view("decode_scale")};
}
inline QuantizeOutputs outputs(const TensorSet& set) {
  return {set.view("codes"),     set.view("scales"),           set.view("scales_second"),
          set.view("row_scale"), set.view("out_global_scale"), set.view("out_decode_scale")};
}

struct NamedSpec {
  const char* name;
  QuantizeSpec spec;
};
inline std::vector<NamedSpec> specs() {
  const auto spec = [](Format format, ScaleMode scale, ScaleRule rule, MxRule mx,
                       ScaleLayout layout, std::optional<ScaleLayout> second) {
    return QuantizeSpec{format, layout, second, scale, rule, mx};
  };
  using L = ScaleLayout;
  using M = ScaleMode;
  constexpr ScaleRule kernel = ScaleRule::kKernel, te = ScaleRule::kTe;
  constexpr MxRule up = MxRule::kRoundUp, ocp = MxRule::kOcpFloor;
  return {{"nvfp4_tensor", spec(Format::kNvfp4, M::kTensor, kernel, up, L::kLinear, L::k128x4)},
          {"nvfp4_row", spec(Format::kNvfp4, M::kRow, kernel, up, L::k128x4, {})},
          {"nvfp4_computed", spec(Format::kNvfp4, M::kComputed, kernel, up, L::k8x4, {})},
          {"nvfp4_tensor_te", spec(Format::kNvfp4, M::kTensor, te, up, L::kLinear, {})},
          {"nvfp4_row_te", spec(Format::kNvfp4, M::kRow, te, up, L::kLinear, L::k8x4)},
          {"nvfp4_computed_te", spec(Format::kNvfp4, M::kComputed, te, up, L::k128x4, {})},
          {"mxfp4_round_up", spec(Format::kMxfp4, M::kTensor, kernel, up, L::k128x4, L::kLinear)},
          {"mxfp4_ocp_floor", spec(Format::kMxfp4, M::kTensor, kernel, ocp, L::k8x4, {})},
          {"fp8_tensor", spec(Format::kFp8, M::kTensor, kernel, up, L::kLinear, {})},
          {"fp8_row", spec(Format::kFp8, M::kRow, kernel, up, L::kLinear, {})}};
}

inline constexpr std::int64_t kRows = 9, kColumns = 416;
inline constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

inline std::string name_of(const char* operation, const char* option, DType dtype) {
  return std::string(operation) + "/" + option + "/" + std::string(base::dtype_name(dtype));
}

// golden_gemm_calls.cpp
void add_gemm_calls(std::vector<Call>& calls);
// golden_gemm_silu_mul_calls.cpp
void add_gemm_silu_mul_calls(std::vector<Call>& calls);
// golden_silu_mul_calls.cpp
void add_silu_mul_calls(std::vector<Call>& calls);

}  // namespace halfbyte::ops::golden
