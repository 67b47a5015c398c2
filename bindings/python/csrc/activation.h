// The options of a gated activation, for every operator that has one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "quantization.h"

namespace halfbyte::bindings {

// take() reads them in the schemas' order.
class Activation {
 public:
  explicit Activation(const char* op) : op_(op) {}
  void take(Arguments& arguments) {
    interleave_ = arguments.integer();
    clamp_ = arguments.optional_real();
    alpha_ = arguments.real();
    up_bias_ = arguments.real();
    rounding_ = arguments.text();
  }
  const halfbyte_activation* read() {
    if (clamp_ && static_cast<float>(*clamp_) == 0) {  // C's 0 means no clamp
      refuse(op_, "clamp", "a finite value > 0", std::to_string(*clamp_));
    }
    if (interleave_ != 0 && interleave_ != 1 && interleave_ != 8) {  // before it becomes 32 bits
      refuse(op_, "interleave", "0 (halves), 1 or 8", std::to_string(interleave_));
    }
    args_.struct_size = sizeof(args_);
    args_.interleave = static_cast<std::int32_t>(interleave_);
    args_.clamp = static_cast<float>(clamp_.value_or(0));
    args_.alpha = static_cast<float>(alpha_);
    args_.up_bias = static_cast<float>(up_bias_);
    args_.rounding = read_rounding(op_, rounding_);
    return &args_;
  }

 private:
  const char* op_;
  std::int64_t interleave_ = 0;
  std::optional<double> clamp_;
  double alpha_ = 1;
  double up_bias_ = 0;
  Text rounding_;
  halfbyte_activation args_{};
};

}  // namespace halfbyte::bindings
