// What the operators of `halfbyte op` share: the keys of a quantization, its inputs and outputs,
// and the keys of a gated activation.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/halfbyte/op_run.h"
#include "halfbyte/ops/common/activation.h"
#include "halfbyte/ops/common/quantize_spec.h"
#include "halfbyte/ops/common/rounding.h"

namespace halfbyte::app {

inline constexpr std::pair<std::string_view, formats::Format> kFormats[] = {
    {"nvfp4", formats::Format::kNvfp4},
    {"mxfp4", formats::Format::kMxfp4},
    {"fp8", formats::Format::kFp8}};
inline constexpr std::pair<std::string_view, formats::ScaleLayout> kLayouts[] = {
    {"linear", formats::ScaleLayout::kLinear},
    {"128x4", formats::ScaleLayout::k128x4},
    {"8x4", formats::ScaleLayout::k8x4}};
inline constexpr std::pair<std::string_view, ops::Rounding> kRoundings[] = {
    {"float32", ops::Rounding::kFloat32}, {"huggingface", ops::Rounding::kHuggingFace}};

std::vector<std::int64_t> shape_of(const base::TensorView& view);

// M and H of a [.., H] tensor; the operator checks the rest.
struct Extent {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};
base::Result<Extent> extent_of(const char* argument, const base::TensorView& view);

ops::Activation activation(const Settings& settings);
ops::QuantizeSpec quantize_spec(const Settings& settings);
ops::GivenScale given_scale(const OpCall& call);

// The outputs that apply to `spec` for a tensor of extent `x`, allocated.
base::Status add_quantize_outputs(OpCall& call, const ops::QuantizeSpec& spec, Extent x,
                                  ops::QuantizeOutputs& out);

}  // namespace halfbyte::app
