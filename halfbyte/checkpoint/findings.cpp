#include "halfbyte/checkpoint/findings.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <string_view>
#include <utility>

#include "halfbyte/checkpoint/linear_weights.h"

namespace halfbyte::checkpoint {
namespace {

using formats::Format;

constexpr std::int64_t kEngineColumns = 64;  // what the GEMMs of engines need of each rank's K

std::string_view leaf_of(std::string_view module) { return module.substr(module.rfind('.') + 1); }

// Layers whose input is what tensor parallelism splits.
bool is_row_parallel(std::string_view module) {
  constexpr std::string_view kLeaves[] = {"o_proj", "down_proj", "w2",  "out_proj",
                                          "c_proj", "wo",        "fc2", "dense_4h_to_h"};
  return std::find(std::begin(kLeaves), std::end(kLeaves), leaf_of(module)) != std::end(kLeaves);
}

// A name, a shell pattern, "re:" and a regular expression, or a module that contains it.
bool is_ignored(const std::vector<std::string>& patterns, const std::string& module) {
  constexpr std::size_t kLongestForRegex = 512;  // std::regex recurses
  for (const std::string& pattern : patterns) {
    if (pattern == module || ::fnmatch(pattern.c_str(), module.c_str(), 0) == 0) return true;
    if (module.size() > pattern.size() && module.starts_with(pattern) &&
        module[pattern.size()] == '.') {
      return true;
    }
    if (!pattern.starts_with("re:") || module.size() > kLongestForRegex) continue;
    try {
      if (std::regex_search(module, std::regex(pattern.substr(3)),
                            std::regex_constants::match_continuous)) {
        return true;
      }
    } catch (const std::regex_error&) {  // Python's syntax knows more: no match
    }
  }
  return false;
}

class Rules {
 public:
  Rules(const InspectReport& report, const std::vector<StoredWeight>& weights,
        const std::vector<TensorRef>& plain)
      : report_(report), weights_(weights), plain_(plain) {}

  std::vector<Finding> run() {
    if (weights_.empty()) return std::move(findings_);
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      block_scales(report_.weights[i]);
      global_scales(report_.weights[i]);
      activation_scale(weights_[i], report_.weights[i]);
      shape(weights_[i]);
    }
    families();
    declaration();
    return std::move(findings_);
  }

 private:
  void add(const std::string& kind, Severity severity, const std::string& message,
           const std::string& tensor) {
    const auto [index, fresh] = by_kind_.try_emplace(kind + message, findings_.size());
    if (fresh) findings_.push_back({kind, severity, message, {}});
    if (!tensor.empty()) findings_[index->second].tensors.push_back(tensor);
  }
  void warn(const std::string& kind, const std::string& message, const std::string& tensor) {
    add(kind, Severity::kWarning, message, tensor);
  }

  void block_scales(const InspectedWeight& weight) {
    const ScaleStatistics& scales = weight.scales;
    if (scales.nan > 0) warn("nan_scale", "block scales that are NaN", weight.name);
    if (scales.negative > 0) warn("negative_scale", "negative block scales", weight.name);
    if (scales.zero_with_codes > 0) {
      warn("zero_scale", "block scales of 0 whose codes are not: their values are lost",
           weight.name);
    }
    constexpr int kPlausibleExponents = 100;
    const bool wild =
        weight.format == Format::kMxfp4 && scales.max_byte - scales.min_byte > kPlausibleExponents;
    if ((scales.blocks > 0 && scales.zero_blocks == scales.blocks) || wild) {
      warn("uninitialised",
           wild ? "exponents all over the range: not what a quantizer writes"
                : "every sampled byte of codes and scales is 0",
           weight.name);
    }
  }

  void global_scales(const InspectedWeight& weight) {
    const bool encode = weight.convention == Convention::kCompressedTensors;
    const auto check = [&](bool has, float value, double limit, const char* what) {
      if (!has) return;
      if (!(value > 0) || !std::isfinite(value)) {
        warn("bad_global_scale", std::string(what) + " that is zero, negative, NaN or Inf",
             weight.name);
      } else if (encode ? value < 1 / limit : value > limit) {
        warn("inverted_global_scale",
             std::string(what) + (encode ? " below 1 where an encode scale (2688 / amax) belongs"
                                         : " above 1 where a decode scale (amax / 2688) belongs"),
             weight.name);
      }
    };
    if (weight.format == Format::kMxfp4) return;
    if (weight.format == Format::kFp8) {
      if (!(weight.global_scale > 0) || !std::isfinite(weight.global_scale)) {
        warn("bad_global_scale", "a weight scale that is zero, negative, NaN or Inf", weight.name);
      }
      return;
    }
    // No weight is near 2688; an activation can be, but not a hundred times that.
    check(weight.has_global_scale, weight.global_scale, 1, "a global scale of weights");
    check(weight.has_input_scale, weight.input_scale, 100, "a global scale of activations");
  }

  void activation_scale(const StoredWeight& stored, const InspectedWeight& weight) {
    if (stored.format != Format::kNvfp4) return;
    if (report_.declaration.activations && !weight.has_input_scale) {
      warn("activation_scale_missing",
           "declared with quantized activations but without their scale: engines have multiplied "
           "by an uninitialised one",
           weight.name);
    }
    if (report_.declaration.declared && !report_.declaration.activations &&
        weight.has_input_scale) {
      add("activation_scale_unused", Severity::kNote,
          "declared weight-only: its scale of activations is not used", weight.name);
    }
  }

  void shape(const StoredWeight& weight) {
    if (weight.format == Format::kFp8) return;
    if (weight.columns % kEngineColumns != 0) {
      warn(
          "block_alignment",
          "K is not a multiple of " + std::to_string(kEngineColumns) + ": no engine's GEMM runs it",
          weight.name);
      return;
    }
    if (!is_row_parallel(weight.module)) return;
    for (const std::int64_t ranks : {2, 4, 8}) {
      if (weight.columns % (ranks * kEngineColumns) == 0) continue;
      add("tensor_parallel", Severity::kNote,
          std::to_string(ranks) + " ranks: K of each would not be a multiple of " +
              std::to_string(kEngineColumns),
          weight.name);
      break;  // more ranks do not work either
    }
  }

  void families() {
    std::map<std::string, std::size_t> first;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      if (weights_[i].format != Format::kNvfp4 || weights_[i].is_stack()) continue;
      const auto [other, fresh] = first.try_emplace(shared_scale_key(weights_[i].module), i);
      if (fresh) continue;
      const InspectedWeight &a = report_.weights[other->second], &b = report_.weights[i];
      if (a.global_scale != b.global_scale || a.has_input_scale != b.has_input_scale ||
          a.input_scale != b.input_scale) {
        warn("fused_scales_differ",
             "another global scale than the layers that engines fuse it with", b.name);
      }
    }
  }

  void declaration() {
    const ReadDeclaration& declared = report_.declaration;
    if (!declared.declared) {
      warn("undeclared",
           "quantized tensors, but no quantization_config: engines take them for "
           "plain weights",
           "");
      return;
    }
    for (const StoredWeight& weight : weights_) {
      const bool fp8 = weight.format == Format::kFp8;
      if (!fp8 && declared.convention && *declared.convention != weight.convention) {
        warn("declaration_differs",
             std::string("stored as ") + convention_name(weight.convention) + ", declared as " +
                 declared.method,
             weight.name);
      }
      if (is_ignored(declared.ignore, weight.module)) {
        warn("ignored_but_quantized", "quantized, but the declaration says it is not", weight.name);
      }
    }
    if (declared.convention == Convention::kGptOss) return;  // only stacks are looked for
    for (const TensorRef& tensor : plain_) {
      const WeightChoice choice = choose_weight(*tensor.entry, Format::kNvfp4, {});
      if (choice.selection == Selection::kKeep || is_ignored(declared.ignore, choice.module)) {
        continue;
      }
      warn("not_in_ignore",
           "a linear layer that is not quantized, which the declaration does not say",
           tensor.entry->name);
    }
  }

  const InspectReport& report_;
  const std::vector<StoredWeight>& weights_;
  const std::vector<TensorRef>& plain_;
  std::vector<Finding> findings_;
  std::map<std::string, std::size_t> by_kind_;
};

}  // namespace

std::vector<Finding> find_suspicious(const InspectReport& report,
                                     const std::vector<StoredWeight>& weights,
                                     const std::vector<TensorRef>& plain) {
  return Rules(report, weights, plain).run();
}

}  // namespace halfbyte::checkpoint
