// How far a quantized tensor is from the one it was made of.
#pragma once

#include <cstdint>
#include <span>

namespace halfbyte::checkpoint {

// Sums in fp64. Over the same pieces in the same order they are the same for any number of threads.
struct TensorError {
  std::int64_t elements = 0;
  std::int64_t zero_codes = 0;        // elements whose code is +0 or -0
  std::int64_t scales = 0;            // block scales
  std::int64_t saturated_scales = 0;  // NVFP4: 448
  double signal = 0;                  // sum of x^2
  double noise = 0;                   // sum of (x' - x)^2
  double max_abs = 0;                 // largest |x' - x|; NaN if any is
  double max_relative = 0;            // largest |x' - x| / |x| over x != 0; see float_error()

  TensorError& operator+=(const TensorError& other);
  // 10 log10(signal / noise); +Inf where nothing is lost.
  double sqnr_db() const;
  double zero_share() const;
  double saturated_share() const;
};

// Elements, signal, noise and maxima of `restored` against `original`; max_relative, which takes as
// long as all the rest, only if asked for.
TensorError float_error(std::span<const float> original, std::span<const float> restored,
                        bool relative);

// Elements whose FP4 code is a zero.
std::int64_t count_zero_codes(std::span<const std::uint8_t> codes);

}  // namespace halfbyte::checkpoint
