#include "halfbyte/ops/rope/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "halfbyte/base/float_environment.h"
#include "halfbyte/ops/common/arguments.h"

namespace halfbyte::ops {

using base::invalid_argument;
using base::Result;
using base::Status;

namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

const char* name_of(RopeScaling scaling) {
  constexpr const char* kNames[] = {"none", "linear", "llama3", "yarn"};
  return kNames[static_cast<int>(scaling)];
}

// A parameter that some scalings take, and some of those need.
struct Parameter {
  const char* name;
  double value;
  bool taken, needed;
};

Status check_parameters(const RopeTableArgs& args) {
  if (!std::isfinite(args.theta) || args.theta <= 1.0) {
    return invalid_argument("theta", "a finite value > 1", std::to_string(args.theta));
  }
  const auto scaling = static_cast<std::int32_t>(args.scaling);
  if (scaling < 0 || scaling > static_cast<std::int32_t>(RopeScaling::kYarn)) {
    return invalid_argument("scaling", "none, linear, llama3 or yarn", std::to_string(scaling));
  }
  const bool scaled = args.scaling != RopeScaling::kNone;
  const bool llama3 = args.scaling == RopeScaling::kLlama3;
  const bool yarn = args.scaling == RopeScaling::kYarn;
  for (const Parameter& parameter : {
           Parameter{"factor", args.factor, scaled, scaled},
           Parameter{"low_freq_factor", args.low_freq_factor, llama3, llama3},
           Parameter{"high_freq_factor", args.high_freq_factor, llama3, llama3},
           Parameter{"original_max_position", args.original_max_position, llama3 || yarn,
                     llama3 || yarn},
           Parameter{"beta_fast", args.beta_fast, yarn, false},
           Parameter{"beta_slow", args.beta_slow, yarn, false},
           Parameter{"attention_factor", args.attention_factor, yarn, false},
           Parameter{"mscale", args.mscale, yarn, false},
           Parameter{"mscale_all_dim", args.mscale_all_dim, yarn, false},
       }) {
    const bool given = parameter.value != 0.0;
    const std::string of = std::string(" (scaling ") + name_of(args.scaling) + ")";
    if (!parameter.taken && given) {
      return invalid_argument(parameter.name, "none" + of, std::to_string(parameter.value));
    }
    if (parameter.needed && !given) {
      return invalid_argument(parameter.name, "a finite value > 0" + of, "none");
    }
    if (given && (!std::isfinite(parameter.value) || parameter.value < 0.0)) {
      return invalid_argument(parameter.name, "a finite value > 0" + of,
                              std::to_string(parameter.value));
    }
  }
  if (llama3 && args.high_freq_factor <= args.low_freq_factor) {
    return invalid_argument("high_freq_factor",
                            "more than low_freq_factor = " + std::to_string(args.low_freq_factor),
                            std::to_string(args.high_freq_factor));
  }
  if (!yarn && !args.truncate) {
    return invalid_argument("truncate", std::string("true (scaling ") + name_of(args.scaling) + ")",
                            "false");
  }
  return {};
}

// cos and sin are [P, rope_dim / 2] on the CPU, apart from each other.
Status check_tables(const RopeTableArgs& args) {
  OverlapCheck overlap;
  struct Table {
    const char* name;
    const TensorView& view;
  };
  for (const Table& table : {Table{"cos", args.cos}, Table{"sin", args.sin}}) {
    const Result<Rows> rows = resolve_rows(table.name, table.view);
    if (!rows.ok()) return rows.status();
    HALFBYTE_RETURN_IF_ERROR(check_dtype(table.name, table.view, base::DType::kF32));
    HALFBYTE_RETURN_IF_ERROR(check_device(table.name, table.view, base::Device{}));
    if (table.view.ndim != 2) {
      return invalid_argument(table.name, "shape [P, rope_dim / 2]",
                              base::shape_string(table.view));
    }
    overlap.writes(table.name, rows.value());
  }
  HALFBYTE_RETURN_IF_ERROR(check_shape("sin", args.sin, args.cos));
  return overlap.result();
}

double llama3_frequency(const RopeTableArgs& args, double frequency) {
  const double wavelength = kTwoPi / frequency;
  if (wavelength > args.original_max_position / args.low_freq_factor) {
    return frequency / args.factor;
  }
  if (wavelength < args.original_max_position / args.high_freq_factor) return frequency;
  const double smooth = (args.original_max_position / wavelength - args.low_freq_factor) /
                        (args.high_freq_factor - args.low_freq_factor);
  return (1.0 - smooth) * frequency / args.factor + smooth * frequency;
}

// YaRN's ramp over the pairs: 0 keeps a frequency, 1 divides it by the factor.
struct Ramp {
  double low, high;

  double at(std::int64_t pair) const {
    return std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
  }
};
Ramp yarn_ramp(const RopeTableArgs& args, std::int64_t rope_dim) {
  const auto dim = static_cast<double>(rope_dim);
  // The (fractional) pair that turns `rotations` times over the original context.
  const auto pair_of = [&](double rotations) {
    return dim * std::log(args.original_max_position / (rotations * kTwoPi)) /
           (2.0 * std::log(args.theta));
  };
  Ramp ramp{pair_of(args.beta_fast != 0.0 ? args.beta_fast : 32.0),
            pair_of(args.beta_slow != 0.0 ? args.beta_slow : 1.0)};
  if (args.truncate) ramp = {std::floor(ramp.low), std::ceil(ramp.high)};
  ramp = {std::max(ramp.low, 0.0), std::min(ramp.high, dim - 1.0)};
  if (ramp.low == ramp.high) ramp.high += 0.001;  // a step, as there
  return ramp;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// What cos and sin are multiplied by.
double attention_factor(const RopeTableArgs& args) {
  if (args.scaling != RopeScaling::kYarn) return 1.0;
  if (args.attention_factor != 0.0) return args.attention_factor;
  if (args.mscale != 0.0 && args.mscale_all_dim != 0.0) {
    return yarn_mscale(args.factor, args.mscale) / yarn_mscale(args.factor, args.mscale_all_dim);
  }
  return yarn_mscale(args.factor, 1.0);
}

// Radians a position, one a pair.
std::vector<double> frequencies(const RopeTableArgs& args, std::int64_t half) {
  std::vector<double> all;
  const bool yarn = args.scaling == RopeScaling::kYarn;
  const Ramp ramp = yarn ? yarn_ramp(args, 2 * half) : Ramp{0.0, 1.0};
  for (std::int64_t pair = 0; pair < half; ++pair) {
    const double exponent = static_cast<double>(pair) / static_cast<double>(half);
    double frequency = 1.0 / std::pow(args.theta, exponent);
    if (args.scaling == RopeScaling::kLinear) frequency /= args.factor;
    if (args.scaling == RopeScaling::kLlama3) frequency = llama3_frequency(args, frequency);
    if (yarn) {
      const double divided = ramp.at(pair);
      frequency = frequency / args.factor * divided + frequency * (1.0 - divided);
    }
    all.push_back(frequency);
  }
  return all;
}

Status run_rope_table(const RopeTableArgs& args) {
  const base::IeeeFloatScope ieee;
  HALFBYTE_RETURN_IF_ERROR(check_tables(args));
  HALFBYTE_RETURN_IF_ERROR(check_parameters(args));
  const std::int64_t positions = args.cos.shape[0], half = args.cos.shape[1];
  const std::vector<double> frequency = frequencies(args, half);
  const double scale = attention_factor(args);
  for (std::int64_t position = 0; position < positions; ++position) {
    float* cos = args.cos.as<float>() + position * args.cos.strides[0];
    float* sin = args.sin.as<float>() + position * args.sin.strides[0];
    for (std::int64_t pair = 0; pair < half; ++pair) {
      const double angle =
          static_cast<double>(position) * frequency[static_cast<std::size_t>(pair)];
      cos[pair] = static_cast<float>(std::cos(angle) * scale);
      sin[pair] = static_cast<float>(std::sin(angle) * scale);
    }
  }
  return {};
}

}  // namespace

Status rope_table(const RopeTableArgs& args) {
  return base::in_operator("rope_table", run_rope_table(args));
}

}  // namespace halfbyte::ops
