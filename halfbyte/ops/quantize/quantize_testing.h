// How this room's exact tests call quantize: fp32 rows in, all outputs back, every implementation
// of this machine expected to agree.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/testing.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::ops::testing {

using base::DType;
using base::Execution;

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Bytes = std::vector<std::uint8_t>;
using Floats = std::vector<float>;

inline std::vector<Runner> every_runner() {
  std::vector<Runner> runners = {reference_runner()};
  for (Runner& runner : cpu_runners()) runners.push_back(std::move(runner));
  for (Runner& runner : cuda_runners()) runners.push_back(std::move(runner));
  return runners;
}

struct Quantized {
  Bytes codes, scales, second;
  Floats row_scale, global_scale, decode_scale;
};

// Quantizes fp32 x [rows, columns] on every implementation, expects the same of each, and returns
// what the reference gave.
inline Quantized run(const Floats& x, std::int64_t rows, const QuantizeSpec& spec = {},
                     const Floats& given = {}) {
  const std::int64_t columns =
      static_cast<std::int64_t>(x.size()) / std::max<std::int64_t>(rows, 1);
  const std::int64_t width = rows == 0 ? formats::block_elements(spec.format) : columns;
  TensorSet set;
  set.add("x", TestTensor(DType::kF32, {rows, width}));
  fill(set.view("x"), x);
  set.add("codes", TestTensor(DType::kU8, {rows, formats::code_bytes(spec.format, width)}));
  const auto add_scales = [&](const char* name, ScaleLayout layout) {
    set.add(name, TestTensor(DType::kU8,
                             {formats::scale_bytes(layout, rows,
                                                   width / formats::block_elements(spec.format))}));
  };
  if (formats::has_block_scales(spec.format)) add_scales("scales", spec.layout);
  if (spec.second_layout) add_scales("second", *spec.second_layout);
  if (spec.scale == ScaleMode::kRow) set.add("row_scale", TestTensor(DType::kF32, {rows}));
  if (spec.scale == ScaleMode::kComputed) {
    set.add("global_scale", TestTensor(DType::kF32, {1}));
    set.add("decode_scale", TestTensor(DType::kF32, {1}));
  }
  if (!given.empty()) {
    set.add("given", TestTensor(DType::kF32, {static_cast<std::int64_t>(given.size())}));
    fill(set.view("given"), given);
  }
  const Operation operation = [&](const TensorSet& tensors, const Execution& execution) {
    QuantizeArgs args{.x = tensors.view("x"),
                      .given = {},
                      .spec = spec,
                      .out = {.codes = tensors.view("codes"),
                              .scales = tensors.view("scales"),
                              .scales_second = tensors.view("second"),
                              .row_scale = tensors.view("row_scale"),
                              .global_scale = tensors.view("global_scale"),
                              .decode_scale = tensors.view("decode_scale")}};
    (spec.format == Format::kFp8 ? args.given.decode_scale : args.given.global_scale) =
        tensors.view("given");
    return quantize(args, execution);
  };
  TensorSet expected;
  for (const Runner& runner : every_runner()) {
    TensorSet actual = set.clone();
    const base::Status status = runner.run(actual, operation);
    EXPECT_TRUE(status.ok()) << runner.name << ": " << status.message();
    if (expected.tensors().empty()) expected = actual;
    EXPECT_EQ(first_difference(expected, actual), "") << runner.name;
  }
  const auto floats_of = [&](const char* name) {
    return expected.view(name) ? values(expected.view(name)) : Floats{};
  };
  const auto bytes_of = [&](const char* name) {
    return expected.view(name) ? bytes(expected.view(name)) : Bytes{};
  };
  return {bytes_of("codes"),      bytes_of("scales"),        bytes_of("second"),
          floats_of("row_scale"), floats_of("global_scale"), floats_of("decode_scale")};
}

inline QuantizeSpec with_scale(ScaleMode mode, ScaleRule rule = ScaleRule::kKernel) {
  QuantizeSpec spec;
  spec.scale = mode;
  spec.scale_rule = rule;
  return spec;
}
inline QuantizeSpec mxfp4(MxRule rule = MxRule::kRoundUp) {
  QuantizeSpec spec;
  spec.format = Format::kMxfp4;
  spec.mx_rule = rule;
  return spec;
}
inline QuantizeSpec fp8(ScaleMode mode) {
  QuantizeSpec spec;
  spec.format = Format::kFp8;
  spec.scale = mode;
  return spec;
}

}  // namespace halfbyte::ops::testing
