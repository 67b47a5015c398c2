#include "halfbyte/checkpoint/linear_weights.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <initializer_list>

#include "halfbyte/base/dtype.h"

namespace halfbyte::checkpoint {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

bool matches_any(std::initializer_list<const char*> patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const char* pattern) { return matches(pattern, name); });
}

// "model.layers.0.mlp.gate" -> "gate"
std::string_view last_component(std::string_view module) {
  return module.substr(module.rfind('.') + 1);  // npos + 1 == 0: the whole name
}

bool is_embedding(std::string_view leaf) {
  return leaf.find("embed") != std::string_view::npos || leaf == "wte" || leaf == "wpe";
}

bool is_norm(std::string_view leaf) {
  return leaf.find("norm") != std::string_view::npos || leaf.substr(0, 3) == "ln_";
}

bool is_float_tensor(const io::SafetensorsEntry& tensor) {
  const auto dtype = io::computed_dtype(tensor.dtype);
  return dtype && base::is_float(*dtype);
}

constexpr std::string_view kWeight = ".weight";

WeightChoice exclude(std::string module, std::string reason) {
  return {Selection::kExclude, std::move(module), std::move(reason)};
}

struct Family {
  std::string_view key;
  std::array<std::string_view, 3> members;
};
constexpr Family kFamilies[] = {{"{q,k,v}_proj", {"q_proj", "k_proj", "v_proj"}},
                                {"{gate,up}_proj", {"gate_proj", "up_proj"}},
                                {"{w1,w3}", {"w1", "w3"}},
                                {"{q,kv}_a_proj", {"q_a_proj", "kv_a_proj_with_mqa"}}};

}  // namespace

WeightChoice choose_weight(const io::SafetensorsEntry& tensor, formats::Format format,
                           std::span<const std::string> ignore) {
  const std::string& name = tensor.name;
  if (!is_float_tensor(tensor)) return {};
  if (tensor.shape.size() == 3 && name.find("experts.") != std::string::npos) {
    const bool has_suffix = name.ends_with(kWeight);
    return exclude(has_suffix ? name.substr(0, name.size() - kWeight.size()) : name,
                   "stacked expert weights (3-D)");
  }
  if (tensor.shape.size() != 2 || !name.ends_with(kWeight)) return {};
  const std::string module = name.substr(0, name.size() - kWeight.size());
  const std::string_view leaf = last_component(module);
  if (is_embedding(leaf) || is_norm(leaf)) return {};
  for (const std::string& pattern : ignore) {
    if (matches(pattern, module) || matches(pattern, name)) {
      return exclude(module, "ignored by '" + pattern + "'");
    }
  }
  if (leaf == "lm_head") return exclude(module, "lm_head");
  if (matches_any({"*.mlp.gate", "*.block_sparse_moe.gate", "*.shared_expert_gate", "*.router"},
                  module)) {
    return exclude(module, "router");
  }
  const int block = formats::block_elements(format);
  if (tensor.shape[1] % block != 0 || tensor.shape[0] == 0 || tensor.shape[1] == 0) {
    return exclude(module, "K = " + std::to_string(tensor.shape[1]) + " is not a multiple of " +
                               std::to_string(block));
  }
  return {Selection::kQuantize, module, ""};
}

std::string shared_scale_key(std::string_view module) {
  const std::string_view leaf = last_component(module);
  const std::string_view parent = module.substr(0, module.size() - leaf.size());
  for (const Family& family : kFamilies) {
    if (!leaf.empty() &&
        std::find(family.members.begin(), family.members.end(), leaf) != family.members.end()) {
      return std::string(parent) + std::string(family.key);
    }
  }
  return std::string(module);
}

bool is_quantized_tensor(const io::SafetensorsEntry& tensor) {
  for (const std::string_view suffix :
       {".weight_packed", ".weight_scale", ".weight_scale_2", ".weight_global_scale",
        ".weight_scale_inv", ".qweight", "_proj_blocks", "_proj_scales"}) {
    if (tensor.name.ends_with(suffix)) return true;
  }
  // Bytes, E4M3 or F4 under a weight's own name.
  const auto dtype = io::computed_dtype(tensor.dtype);
  return tensor.name.ends_with(kWeight) && tensor.shape.size() >= 2 && dtype == base::DType::kU8;
}

}  // namespace halfbyte::checkpoint
