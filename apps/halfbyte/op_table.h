// The operators of `halfbyte op`: what each takes and gives, by name. The table of
// docs/command_line is this one.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "halfbyte/base/status.h"

namespace halfbyte::app {

class OpCall;

struct OpInput {
  std::string_view name;
  bool required;
};

// A key of --set. `values`: "a|b|c", or "INT", "FLOAT" for any number. `initial`: the value when
// the key is not set; empty: none.
struct OpKey {
  std::string_view name;
  std::string_view values;
  std::string_view initial;
};

struct OpInfo {
  std::string_view name;
  std::span<const OpInput> inputs;
  std::span<const OpKey> keys;
  std::string_view outputs;
  base::Status (*run)(OpCall& call);
};

std::span<const OpInfo> operators();
const OpInfo* find_operator(std::string_view name);  // nullptr: none of this name

std::string operator_names();  // "quantize, dequantize, .."
std::string operators_help();  // a paragraph an operator

}  // namespace halfbyte::app
