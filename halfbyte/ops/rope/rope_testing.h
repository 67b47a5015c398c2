// What the tests of this room share: the arguments as a TensorSet, and the formula once more.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/rope/rope.h"

namespace halfbyte::ops::testing {

struct RopeOptions {
  RopeStyle style = RopeStyle::kNeox;
  std::int64_t rope_dim = 0, rope_offset = 0;
  bool inverse = false;
  bool in_place = false;  // y is x; else a tensor of the set
};

inline std::string describe(const RopeOptions& options) {
  return std::string(options.style == RopeStyle::kNeox ? "neox" : "gptj") + ", rope_dim " +
         std::to_string(options.rope_dim) + " at " + std::to_string(options.rope_offset) +
         (options.inverse ? ", inverse" : "") + (options.in_place ? ", in place" : "");
}

inline RopeArgs rope_args(const TensorSet& set, const RopeOptions& options) {
  return {.x = set.view("x"),
          .positions = set.view("positions"),
          .cos = set.view("cos"),
          .sin = set.view("sin"),
          .y = set.view(options.in_place ? "x" : "y"),
          .style = options.style,
          .rope_dim = options.rope_dim,
          .rope_offset = options.rope_offset,
          .inverse = options.inverse};
}

inline Operation rope_of(const RopeOptions& options) {
  return [options](const TensorSet& set, const base::Execution& execution) {
    return rope(rope_args(set, options), execution);
  };
}

inline void set_position(const TensorView& positions, std::int64_t index, std::int64_t value) {
  if (positions.dtype == base::DType::kI64) {
    std::memcpy(positions.as<std::int64_t>() + index, &value, sizeof(value));
  } else {
    const auto narrow = static_cast<std::int32_t>(value);
    std::memcpy(positions.as<std::int32_t>() + index, &narrow, sizeof(narrow));
  }
}
inline std::int64_t get_position(const TensorView& positions, std::int64_t index) {
  return positions.dtype == base::DType::kI64 ? positions.as<std::int64_t>()[index]
                                              : positions.as<std::int32_t>()[index];
}

inline void fill_positions(const TensorView& positions, const std::vector<std::int64_t>& values) {
  for (std::int64_t i = 0; i < positions.numel(); ++i) {
    set_position(positions, i, values[static_cast<std::size_t>(i) % values.size()]);
  }
}

inline std::vector<Runner> every_runner() {
  std::vector<Runner> runners = {reference_runner()};
  for (Runner& runner : cpu_runners()) runners.push_back(std::move(runner));
  for (Runner& runner : cuda_runners()) runners.push_back(std::move(runner));
  return runners;
}

// docs/numerics.md written down once more, by double: fl() of a double product or sum of floats is
// that operation rounded once (formats/oracle.h says why). x and y by their strides.
inline void transcribe(const TensorSet& tensors, const RopeOptions& options) {
  const TensorView x = tensors.view("x"), y = options.in_place ? x : tensors.view("y");
  const TensorView cos = tensors.view("cos"), sin = tensors.view("sin");
  const std::int64_t dim = options.rope_dim == 0 ? x.shape[2] : options.rope_dim;
  const auto fl = [](double value) { return static_cast<float>(value); };
  for (std::int64_t token = 0; token < x.shape[0]; ++token) {
    const std::int64_t position = get_position(tensors.view("positions"), token);
    const bool rotates = position >= 0 && position < cos.shape[0];
    for (std::int64_t head = 0; head < x.shape[1]; ++head) {
      const std::int64_t from = token * x.strides[0] + head * x.strides[1];
      const std::int64_t to = token * y.strides[0] + head * y.strides[1];
      for (std::int64_t k = 0; k < x.shape[2]; ++k) set_bits(y, to + k, get_bits(x, from + k));
      for (std::int64_t pair = 0; pair < dim / 2 && rotates; ++pair) {
        const bool neox = options.style == RopeStyle::kNeox;
        const std::int64_t ka = options.rope_offset + (neox ? pair : 2 * pair);
        const std::int64_t kb = neox ? ka + dim / 2 : ka + 1;
        const double c = get(cos, position * cos.strides[0] + pair);
        double s = get(sin, position * sin.strides[0] + pair);
        if (options.inverse) s = -s;
        const double a = get(y, to + ka), b = get(y, to + kb);
        set(y, to + ka, fl(double{fl(a * c)} - fl(b * s)));
        set(y, to + kb, fl(double{fl(a * s)} + fl(b * c)));
      }
    }
  }
}

}  // namespace halfbyte::ops::testing
