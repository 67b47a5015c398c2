// Which tensors of a checkpoint are quantized, and which of them share one fp32 scale. Pure
// functions of names, types and shapes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "halfbyte/formats/format.h"
#include "halfbyte/io/safetensors_header.h"

namespace halfbyte::checkpoint {

enum class Selection {
  kQuantize,  // a linear layer's weight
  kKeep,      // not a linear layer's weight: an embedding, a norm, a bias
  kExclude,   // a linear layer that stays as it is: the declaration must name its module
};

struct WeightChoice {
  Selection selection = Selection::kKeep;
  std::string module;  // the tensor's name without ".weight"
  std::string reason;  // why not, for kExclude: "router", "ignored by 'lm_*'", ..
};

// What a person asks for: shell globs over module and tensor names, whole names.
struct WeightPatterns {
  std::vector<std::string> ignore;   // stay as they are
  std::vector<std::string> include;  // are quantized though they are not by default
};

// 2-D fp32, fp16 and bf16 tensors `<module>.weight` are quantized, except, unless `include`
// matches, embeddings and norms (kept), lm_head and routers (excluded); never what `ignore` matches
// or whose rows blocks do not fill (excluded). Of a stack of experts (is_expert_stack) only the
// patterns are looked at: `module` is its name.
WeightChoice choose_weight(const io::SafetensorsEntry& tensor, formats::Format format,
                           const WeightPatterns& patterns);

// 3-D floats `<..>.experts.{gate_up,gate,up,down}_proj`: all experts of a layer in one tensor.
bool is_expert_stack(const io::SafetensorsEntry& tensor);

// True for fp32, fp16 and bf16.
bool is_float_tensor(const io::SafetensorsEntry& tensor);

// Modules that give the same key are fused by engines into one matrix and must share one fp32
// scale: q, k, v; gate, up (w1, w3); q_a, kv_a. A module of no such family is its own key.
std::string shared_scale_key(std::string_view module);

}  // namespace halfbyte::checkpoint
