#include "apps/halfbyte/op_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "apps/halfbyte/op_run.h"

namespace halfbyte::app {
namespace {

#define HALFBYTE_QUANTIZE_KEYS                                                               \
  {"format", "nvfp4|mxfp4|fp8", "nvfp4"}, {"layout", "linear|128x4|8x4", "linear"},          \
      {"second_layout", "linear|128x4|8x4", ""}, {"scale", "tensor|row|computed", "tensor"}, \
      {"scale_rule", "kernel|te", "kernel"}, {                                               \
    "mx_rule", "round_up|ocp_floor", "round_up"                                              \
  }
#define HALFBYTE_NORM_KEYS \
  {"eps", "FLOAT", "1e-6"}, {"rounding", "float32|huggingface", "float32"}, { "bias", "0|1", "0" }

#define HALFBYTE_ACTIVATION_KEYS                                          \
  {"rounding", "float32|huggingface", "float32"}, {"clamp", "FLOAT", ""}, \
      {"interleave", "0|1|8", "0"}, {"alpha", "FLOAT", "1"}, {            \
    "up_bias", "FLOAT", "0"                                               \
  }

constexpr OpInput kQuantizeInputs[] = {
    {"x", true}, {"global_scale", false}, {"decode_scale", false}};
constexpr OpKey kQuantizeKeys[] = {HALFBYTE_QUANTIZE_KEYS};

constexpr OpInput kDequantizeInputs[] = {{"codes", true},
                                         {"scales", false},
                                         {"global_scale", false},
                                         {"decode_scale", false},
                                         {"row_scale", false}};
constexpr OpKey kDequantizeKeys[] = {{"format", "nvfp4|mxfp4|fp8", "nvfp4"},
                                     {"layout", "linear|128x4|8x4", "linear"},
                                     {"dtype", "bf16|fp16|fp32", "bf16"},
                                     {"rows", "INT", ""},
                                     {"columns", "INT", ""}};

constexpr OpInput kAmaxInputs[] = {{"x", true}};
constexpr OpKey kAmaxKeys[] = {{"per", "tensor|row", "tensor"}};

constexpr OpInput kRmsNormInputs[] = {{"x", true}, {"weight", true}, {"residual", false}};
constexpr OpKey kRmsNormKeys[] = {HALFBYTE_NORM_KEYS};

constexpr OpInput kRmsNormQuantizeInputs[] = {{"x", true},
                                              {"weight", true},
                                              {"residual", false},
                                              {"global_scale", false},
                                              {"decode_scale", false}};
constexpr OpKey kRmsNormQuantizeKeys[] = {
    HALFBYTE_NORM_KEYS, HALFBYTE_QUANTIZE_KEYS, {"normed", "0|1", "0"}};

constexpr OpInput kSiluMulInputs[] = {{"gate_up", true}};
constexpr OpKey kSiluMulKeys[] = {HALFBYTE_ACTIVATION_KEYS};

constexpr OpInput kSiluMulQuantizeInputs[] = {
    {"gate_up", true}, {"global_scale", false}, {"decode_scale", false}};
constexpr OpKey kSiluMulQuantizeKeys[] = {HALFBYTE_ACTIVATION_KEYS, HALFBYTE_QUANTIZE_KEYS};

constexpr OpInput kRopeInputs[] = {{"x", true}, {"positions", true}, {"cos", true}, {"sin", true}};
constexpr OpKey kRopeKeys[] = {{"style", "neox|gptj", "neox"},
                               {"rope_dim", "INT", ""},
                               {"rope_offset", "INT", "0"},
                               {"inverse", "0|1", "0"}};

#define HALFBYTE_GEMM_INPUTS                                                                       \
  {"a", false}, {"a_codes", false}, {"a_scales", false}, {"a_global_scale", false},                \
      {"a_decode_scale", false}, {"b_codes", true}, {"b_scales", true}, {"b_global_scale", false}, \
      {"b_decode_scale", false}, {                                                                 \
    "bias", false                                                                                  \
  }
#define HALFBYTE_GEMM_KEYS                                                                      \
  {"a", "nvfp4|mxfp4|bf16|fp16", "nvfp4"}, {"b", "nvfp4|mxfp4", "nvfp4"},                       \
      {"a_layout", "linear|128x4|8x4", "linear"}, {"b_layout", "linear|128x4|8x4", "linear"}, { \
    "plan", "auto|exact|tensor_core|dequantize|fp8|block_scaled", "auto"                        \
  }
#define HALFBYTE_DTYPES "bf16|fp16|fp32", "bf16"

constexpr OpInput kGemmInputs[] = {HALFBYTE_GEMM_INPUTS};
constexpr OpKey kGemmKeys[] = {HALFBYTE_GEMM_KEYS, {"out", HALFBYTE_DTYPES}};

constexpr OpInput kGemmSiluMulQuantizeInputs[] = {
    HALFBYTE_GEMM_INPUTS, {"global_scale", false}, {"decode_scale", false}};
constexpr OpKey kGemmSiluMulQuantizeKeys[] = {HALFBYTE_GEMM_KEYS,
                                              {"dtype", HALFBYTE_DTYPES},
                                              HALFBYTE_ACTIVATION_KEYS,
                                              HALFBYTE_QUANTIZE_KEYS};

#undef HALFBYTE_GEMM_INPUTS
#undef HALFBYTE_GEMM_KEYS
#undef HALFBYTE_DTYPES
#undef HALFBYTE_QUANTIZE_KEYS
#undef HALFBYTE_NORM_KEYS
#undef HALFBYTE_ACTIVATION_KEYS

constexpr OpInfo kOperators[] = {
    {"quantize", kQuantizeInputs, kQuantizeKeys,
     "codes, scales, scales_second, row_scale, global_scale, decode_scale", run_quantize},
    {"dequantize", kDequantizeInputs, kDequantizeKeys, "x", run_dequantize},
    {"amax", kAmaxInputs, kAmaxKeys, "amax", run_amax},
    {"rmsnorm", kRmsNormInputs, kRmsNormKeys, "normed, residual", run_rmsnorm},
    {"rmsnorm_quantize", kRmsNormQuantizeInputs, kRmsNormQuantizeKeys,
     "codes, scales, scales_second, row_scale, global_scale, decode_scale, normed, residual",
     run_rmsnorm_quantize},
    {"silu_mul", kSiluMulInputs, kSiluMulKeys, "y", run_silu_mul},
    {"silu_mul_quantize", kSiluMulQuantizeInputs, kSiluMulQuantizeKeys,
     "codes, scales, scales_second, row_scale, global_scale, decode_scale", run_silu_mul_quantize},
    {"rope", kRopeInputs, kRopeKeys, "x", run_rope},
    {"gemm", kGemmInputs, kGemmKeys, "c", run_gemm},
    {"gemm_silu_mul_quantize", kGemmSiluMulQuantizeInputs, kGemmSiluMulQuantizeKeys,
     "codes, scales, scales_second, row_scale, global_scale, decode_scale",
     run_gemm_silu_mul_quantize}};

}  // namespace

std::span<const OpInfo> operators() { return kOperators; }

const OpInfo* find_operator(std::string_view name) {
  const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                   [&](const OpInfo& info) { return info.name == name; });
  return found == std::end(kOperators) ? nullptr : found;
}

std::string operator_names() {
  std::string names;
  for (const OpInfo& info : kOperators) {
    names += names.empty() ? "" : ", ";
    names += info.name;
  }
  return names;
}

std::string operators_help() {
  std::string text =
      "Operators (inputs in brackets are optional; the first value of a key is its "
      "default):\n";
  for (const OpInfo& info : kOperators) {
    text += fmt::format("  {}\n    inputs ", info.name);
    for (const OpInput& input : info.inputs) {
      text += input.required ? fmt::format(" {}", input.name) : fmt::format(" [{}]", input.name);
    }
    text += "\n    keys   ";
    for (const OpKey& key : info.keys) {
      const bool number = key.values == "INT" || key.values == "FLOAT";
      text += fmt::format(" {}={}", key.name,
                          number && !key.initial.empty() ? key.initial : key.values);
    }
    text += fmt::format("\n    outputs {}\n", info.outputs);
  }
  return text;
}

}  // namespace halfbyte::app
