// Which tensors of a checkpoint are quantized, and which of them share one fp32 scale. Pure
// functions of names, types and shapes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

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

// 2-D fp32, fp16 and bf16 tensors `<module>.weight` are quantized, except embeddings and norms
// (kept), lm_head, routers, modules or tensors that a pattern of `ignore` matches (shell globs,
// over the whole name), and rows that blocks do not fill (excluded). Stacked expert weights (3-D)
// are excluded too: this build does not quantize them.
WeightChoice choose_weight(const io::SafetensorsEntry& tensor, formats::Format format,
                           std::span<const std::string> ignore);

// Modules that give the same key are fused by engines into one matrix and must share one fp32
// scale: q, k, v; gate, up (w1, w3); q_a, kv_a. A module of no such family is its own key.
std::string shared_scale_key(std::string_view module);

// True for a tensor that only a quantized checkpoint has.
bool is_quantized_tensor(const io::SafetensorsEntry& tensor);

}  // namespace halfbyte::checkpoint
