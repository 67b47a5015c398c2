#include "halfbyte/checkpoint/linear_weights.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "halfbyte/base/dtype.h"

namespace halfbyte::checkpoint {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

template <class Patterns>
bool matches_any(const Patterns& patterns, const std::string& module, const std::string& name) {
  return std::any_of(std::begin(patterns), std::end(patterns), [&](const auto& pattern) {
    return matches(pattern, module) || matches(pattern, name);
  });
}

constexpr const char* kRouters[] = {"*.mlp.gate", "*.block_sparse_moe.gate", "*.shared_expert_gate",
                                    "*.router",   "*.feed_forward.gate",     "*.mlp.router.*"};

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

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kStacks[] = {".experts.gate_up_proj", ".experts.gate_proj",
                                        ".experts.up_proj", ".experts.down_proj"};

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

bool is_float_tensor(const io::SafetensorsEntry& tensor) {
  const auto dtype = io::computed_dtype(tensor.dtype);
  return dtype && base::is_float(*dtype);
}

bool is_expert_stack(const io::SafetensorsEntry& tensor) {
  if (tensor.shape.size() != 3 || !is_float_tensor(tensor)) return false;
  return std::any_of(std::begin(kStacks), std::end(kStacks),
                     [&](std::string_view suffix) { return tensor.name.ends_with(suffix); });
}

WeightChoice choose_weight(const io::SafetensorsEntry& tensor, formats::Format format,
                           const WeightPatterns& patterns) {
  const std::string& name = tensor.name;
  const bool stack = is_expert_stack(tensor);
  if (!stack && (!is_float_tensor(tensor) || !name.ends_with(kWeight))) return {};
  const std::string module = stack ? name : name.substr(0, name.size() - kWeight.size());
  if (!stack && tensor.shape.size() != 2) {
    // Stacks under other names: nobody says how engines expect them.
    const bool experts = tensor.shape.size() == 3 && name.find("expert") != std::string::npos;
    return experts ? exclude(module, "stacked experts of a kind that is not known here")
                   : WeightChoice{};
  }
  const std::string_view leaf = last_component(module);
  const bool included = matches_any(patterns.include, module, name);
  if (!included && (is_embedding(leaf) || is_norm(leaf))) return {};
  for (const std::string& pattern : patterns.ignore) {
    if (matches(pattern, module) || matches(pattern, name)) {
      return exclude(module, "ignored by '" + pattern + "'");
    }
  }
  if (stack) return {Selection::kQuantize, module, ""};
  if (!included && leaf == "lm_head") return exclude(module, "lm_head");
  if (!included && matches_any(kRouters, module, module)) return exclude(module, "router");
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

}  // namespace halfbyte::checkpoint
