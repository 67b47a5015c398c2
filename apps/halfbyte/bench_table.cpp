#include "apps/halfbyte/bench_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "apps/halfbyte/bench_cases.h"

namespace halfbyte::app {
namespace {

#define HALFBYTE_QUANTIZE_OPTIONS "--format --layout --second-layout --scale"

constexpr BenchOperator kOperators[] = {
    {"quantize", HALFBYTE_QUANTIZE_OPTIONS, bench_quantize},
    {"dequantize", "--format --layout", bench_dequantize},
    {"amax", "--per", bench_amax},
    {"rmsnorm", "--residual --model", bench_rmsnorm},
    {"rmsnorm_quantize", HALFBYTE_QUANTIZE_OPTIONS " --residual --normed --model",
     bench_rmsnorm_quantize},
    {"silu_mul", "--interleave", bench_silu_mul},
    {"silu_mul_quantize", HALFBYTE_QUANTIZE_OPTIONS " --interleave", bench_silu_mul_quantize},
    {"rope", "--head-dim --style", bench_rope},
    {"gemm", "--format --layout --activations --weights --plan --explain", bench_gemm, true},
    {"gemm_silu_mul_quantize",
     HALFBYTE_QUANTIZE_OPTIONS " --interleave --activations --weights --plan",
     bench_gemm_silu_mul_quantize, true},
};

#undef HALFBYTE_QUANTIZE_OPTIONS

}  // namespace

bool BenchOperator::takes(std::string_view option) const {
  for (std::string_view rest = options; !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    if (word == option) return true;
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
  }
  return false;
}

std::span<const BenchOperator> bench_operators() { return kOperators; }

const BenchOperator* find_bench_operator(std::string_view name) {
  const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                   [&](const BenchOperator& each) { return each.name == name; });
  return found == std::end(kOperators) ? nullptr : found;
}

std::string bench_operator_names() {
  std::string names;
  for (const BenchOperator& each : kOperators) {
    names += names.empty() ? "" : ", ";
    names += each.name;
  }
  return names;
}

std::string bench_operators_help() {
  std::string text = "Operators and the options that each takes beside the common ones:\n";
  for (const BenchOperator& each : kOperators) {
    text += fmt::format("  {:22} {}\n", each.name, each.options);
  }
  return text;
}

}  // namespace halfbyte::app
