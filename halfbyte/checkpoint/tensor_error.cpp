#include "halfbyte/checkpoint/tensor_error.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace halfbyte::checkpoint {

TensorError& TensorError::operator+=(const TensorError& other) {
  elements += other.elements;
  zero_codes += other.zero_codes;
  scales += other.scales;
  saturated_scales += other.saturated_scales;
  signal += other.signal;
  noise += other.noise;
  const auto larger = [](double a, double b) { return std::isnan(b) || b > a ? b : a; };
  max_abs = larger(max_abs, other.max_abs);
  max_relative = larger(max_relative, other.max_relative);
  return *this;
}

double TensorError::sqnr_db() const {
  if (noise == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(signal / noise);
}

double TensorError::zero_share() const {
  return elements == 0 ? 0 : static_cast<double>(zero_codes) / static_cast<double>(elements);
}

double TensorError::saturated_share() const {
  return scales == 0 ? 0 : static_cast<double>(saturated_scales) / static_cast<double>(scales);
}

TensorError float_error(std::span<const float> original, std::span<const float> restored,
                        bool relative) {
  // Independent lanes, so that the compiler may use vectors without changing a sum.
  constexpr std::size_t kLanes = 8;
  double signal[kLanes] = {}, noise[kLanes] = {}, max_abs[kLanes] = {};
  const std::size_t count = original.size();
  const float *x = original.data(), *y = restored.data();
  const auto add = [&](std::size_t i, std::size_t lane) {
    const double value = x[i];
    const double difference = static_cast<double>(y[i]) - value;
    const double size = std::fabs(difference);
    signal[lane] += value * value;
    noise[lane] += difference * difference;
    max_abs[lane] = size > max_abs[lane] ? size : max_abs[lane];
  };
  const std::size_t whole = count / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  }
  for (std::size_t i = whole; i < count; ++i) add(i, i - whole);
  TensorError error;
  error.elements = static_cast<std::int64_t>(count);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    error.signal += signal[lane];
    error.noise += noise[lane];
    error.max_abs = std::max(error.max_abs, max_abs[lane]);
  }
  if (std::isnan(error.noise)) error.max_abs = error.noise;
  for (std::size_t i = 0; relative && i < count; ++i) {
    const double value = std::fabs(static_cast<double>(x[i]));
    const double difference = std::fabs(static_cast<double>(y[i]) - static_cast<double>(x[i]));
    // difference / value > the largest, without a division for most elements
    if (difference > error.max_relative * value && value > 0) {
      error.max_relative = difference / value;
    }
  }
  return error;
}

std::int64_t count_zero_codes(std::span<const std::uint8_t> codes) {
  std::int64_t zeros = 0;
  for (const std::uint8_t code : codes) zeros += ((code & 0x07) == 0) + ((code & 0x70) == 0);
  return zeros;
}

}  // namespace halfbyte::checkpoint
