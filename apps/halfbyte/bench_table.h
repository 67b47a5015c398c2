// The operators of `halfbyte bench`.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "apps/halfbyte/bench_case.h"

namespace halfbyte::app {

struct BenchOperator {
  std::string_view name;
  std::string_view options;  // that it takes beside those of every operator: "--format --layout"
  BenchCase (*make)(const BenchOptions& options, BenchShape shape);
  bool product = false;  // its shapes are MxNxK

  bool takes(std::string_view option) const;
};

std::span<const BenchOperator> bench_operators();
const BenchOperator* find_bench_operator(std::string_view name);  // nullptr: none of this name
std::string bench_operator_names();                               // "quantize, dequantize, .."
std::string bench_operators_help();                               // a line an operator

}  // namespace halfbyte::app
