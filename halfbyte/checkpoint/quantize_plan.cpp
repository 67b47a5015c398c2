#include "halfbyte/checkpoint/quantize_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "halfbyte/checkpoint/linear_weights.h"
#include "halfbyte/checkpoint/stored_weights.h"

namespace halfbyte::checkpoint {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;
using formats::Format;
using io::SafetensorsDType;

Status not_quantized_yet(const ModelFiles& files) {
  const Result<ReadDeclaration> declared = read_declaration(files);
  if (!declared.ok()) return declared.status();
  if (declared.value().declared) {
    const char* file = files.modelopt_config().empty() ? kConfigFile : kModelOptFile;
    return {StatusCode::kData,
            (files.is_folder() ? files.path() / file : files.path()).string() +
                ": expected a checkpoint that is not quantized, got a quantization_config"};
  }
  for (std::size_t shard = 0; shard < files.shards().size(); ++shard) {
    for (const io::SafetensorsEntry& entry : files.shards()[shard].entries()) {
      if (!is_quantized_tensor(entry)) continue;
      return {StatusCode::kData,
              files.place({&entry, shard}) + "expected a checkpoint that is not quantized, got " +
                  std::string(io::dtype_name(entry.dtype)) + " " + io::short_shape(entry.shape)};
    }
  }
  return {};
}

class Planner {
 public:
  Planner(const ModelFiles& files, const QuantizeOptions& options, QuantizeReport& report)
      : files_(files), options_(options), report_(report), model_(read_model_shape(files)) {}

  Result<QuantizePlan> run() {
    plan_.declaration.format = report_.format;
    plan_.declaration.convention = report_.convention;
    plan_.declaration.activations = report_.activations = options_.activation_amax.has_value();
    for (std::size_t shard = 0; shard < files_.shards().size(); ++shard) {
      for (const io::SafetensorsEntry& entry : files_.shards()[shard].entries()) {
        HALFBYTE_RETURN_IF_ERROR(add({&entry, shard}));
      }
    }
    if (plan_.layers.empty()) {
      return Status(StatusCode::kData,
                    files_.path().string() + ": expected a linear weight to quantize, got none (" +
                        std::to_string(plan_.kept.size()) + " other tensors, " +
                        std::to_string(report_.excluded.size()) + " linear layers left out)");
    }
    HALFBYTE_RETURN_IF_ERROR(choose_input_scales());
    // Tied to the embedding it has no tensor, but engines still make the layer.
    auto& ignore = plan_.declaration.ignore;
    const bool has_head =
        std::any_of(plan_.layers.begin(), plan_.layers.end(),
                    [](const PlannedLayer& layer) { return layer.module == "lm_head"; });
    if (!has_head && std::find(ignore.begin(), ignore.end(), "lm_head") == ignore.end()) {
      ignore.push_back("lm_head");
    }
    report_.tensors_kept = static_cast<std::int64_t>(plan_.kept.size());
    note_unused_patterns();
    note_split_families();
    return std::move(plan_);
  }

 private:
  Status add(const TensorRef& tensor) {
    report_.bytes_before += tensor.entry->size_bytes();
    WeightChoice choice = choose_weight(*tensor.entry, report_.format, options_.patterns);
    const bool stack = is_expert_stack(*tensor.entry);
    if (choice.selection == Selection::kQuantize && !stack &&
        report_.convention == Convention::kGptOss) {
      choice = {Selection::kExclude, choice.module, "gpt-oss quantizes experts only"};
    }
    if (choice.selection != Selection::kQuantize) {
      keep(tensor, std::move(choice));
      return {};
    }
    if (stack) return add_stack(tensor);
    add_layer({tensor.entry->name, choice.module, matrix_of(tensor),
               linear_tensor_names(report_.convention, report_.format, choice.module),
               Packing::kRows, 0, 1, 0, std::nullopt},
              shared_scale_key(choice.module));
    return {};
  }

  void keep(const TensorRef& tensor, WeightChoice choice) {
    plan_.kept.push_back(tensor);
    if (choice.selection != Selection::kExclude) return;
    plan_.declaration.ignore.push_back(choice.module);
    report_.excluded.push_back({std::move(choice.module), std::move(choice.reason)});
  }

  Status add_stack(const TensorRef& tensor) {
    Result<StackPlan> stack =
        plan_stack(tensor, files_.place(tensor), model_, report_.convention, report_.format);
    if (!stack.ok()) return stack.status();
    const Packing packing = stack.value().packing;
    const bool split = packing == Packing::kRows;
    for (StackMatrix& matrix : stack.value().matrices) {
      const std::string& name = tensor.entry->name;
      const std::string expert =
          split ? matrix.module : name + "[" + std::to_string(matrix.matrix) + "]";
      const std::string key = split ? shared_scale_key(matrix.module) : name;
      add_layer({expert, matrix.module, matrix.source,
                 split ? linear_tensor_names(report_.convention, report_.format, matrix.module)
                       : stack_tensor_names(report_.convention, name),
                 packing, matrix.matrix, split ? 1 : tensor.entry->shape[0], 0, std::nullopt},
                key);
    }
    return {};
  }

  void add_layer(PlannedLayer layer, const std::string& key) {
    const auto [family, fresh] = families_.try_emplace(key, plan_.families.size());
    if (fresh) plan_.families.emplace_back();
    layer.family = family->second;
    plan_.families[layer.family].layers.push_back(plan_.layers.size());
    plan_.layers.push_back(std::move(layer));
  }

  Status choose_input_scales() {
    if (!options_.activation_amax) return {};
    std::set<std::string> used;
    for (const Family& family : plan_.families) {
      float largest = 0;
      for (const std::size_t index : family.layers) {
        std::string key;
        const std::string& module = plan_.layers[index].module;
        const float amax = find_activation_amax(*options_.activation_amax, module, key);
        if (amax == 0) {
          return {StatusCode::kData,
                  "activation amax: expected one for '" + module +
                      "', which is quantized, got none (an engine would read an uninitialised "
                      "scale; --ignore leaves the layer as it is)"};
        }
        used.insert(key);
        largest = std::max(largest, amax);
      }
      for (const std::size_t index : family.layers) {
        plan_.layers[index].input_scale = stored_scale_from_amax(report_.convention, largest);
      }
    }
    const std::size_t unused = options_.activation_amax->size() - used.size();
    if (unused > 0) {
      report_.notes.push_back(std::to_string(unused) +
                              " recorded activation amax name no quantized layer");
    }
    return {};
  }

  void note_unused_patterns() {
    for (const std::string& pattern : options_.patterns.ignore) {
      const std::string reason = "ignored by '" + pattern + "'";
      const auto used = [&](const ExcludedLayer& layer) { return layer.reason == reason; };
      if (std::none_of(report_.excluded.begin(), report_.excluded.end(), used)) {
        report_.notes.push_back("--ignore '" + pattern + "' left out no layer");
      }
    }
  }

  // Engines run fused layers as one matrix: half a family quantized does not load.
  void note_split_families() {
    for (const ExcludedLayer& layer : report_.excluded) {
      if (const auto other = families_.find(shared_scale_key(layer.module));
          other != families_.end()) {
        const std::size_t member = plan_.families[other->second].layers.front();
        report_.notes.push_back("'" + layer.module + "' is not quantized but '" +
                                plan_.layers[member].tensor + "', which engines fuse with it, is");
      }
    }
  }

  const ModelFiles& files_;
  const QuantizeOptions& options_;
  QuantizeReport& report_;
  ModelShape model_;
  QuantizePlan plan_;
  std::map<std::string, std::size_t> families_;
};

}  // namespace

Result<QuantizePlan> plan_quantization(const ModelFiles& files, const QuantizeOptions& options,
                                       QuantizeReport& report) {
  HALFBYTE_RETURN_IF_ERROR(not_quantized_yet(files));
  return Planner(files, options, report).run();
}

std::int64_t code_bytes(const PlannedLayer& layer) {
  return layer.source.rows * layer.source.columns / 2;
}

std::int64_t scale_bytes(const PlannedLayer& layer, Format format) {
  return layer.source.rows * (layer.source.columns / formats::block_elements(format));
}

std::vector<io::SafetensorsDeclaration> declare_layers(const QuantizePlan& plan,
                                                       std::size_t shard) {
  std::vector<io::SafetensorsDeclaration> tensors;
  const Format format = plan.declaration.format;
  const int block = formats::block_elements(format);
  const SafetensorsDType scale_dtype =
      format == Format::kNvfp4 ? SafetensorsDType::kF8E4M3 : SafetensorsDType::kU8;
  const std::vector<std::int64_t> scalar = plan.declaration.convention == Convention::kModelOpt
                                               ? std::vector<std::int64_t>{}
                                               : std::vector<std::int64_t>{1};
  for (const PlannedLayer& layer : plan.layers) {
    if (layer.source.tensor.shard != shard || layer.matrix != 0) continue;
    const std::int64_t e = layer.matrices, n = layer.source.rows, k = layer.source.columns;
    std::vector<std::int64_t> codes, scales;
    switch (layer.packing) {
      case Packing::kRows:
        codes = {n, k / 2};
        scales = {n, k / block};
        break;
      case Packing::kTransposed:
        codes = {e, k / 2, n};
        scales = {e, k / block, n};
        break;
      case Packing::kBlocks:
        codes = {e, n, k / block, block / 2};
        scales = {e, n, k / block};
        break;
    }
    if (format == Format::kNvfp4) {
      tensors.push_back({layer.names.global_scale, SafetensorsDType::kF32, scalar});
      if (layer.input_scale) {
        tensors.push_back({layer.names.input_scale, SafetensorsDType::kF32, scalar});
      }
    }
    tensors.push_back({layer.names.codes, SafetensorsDType::kU8, std::move(codes)});
    tensors.push_back({layer.names.scales, scale_dtype, std::move(scales)});
  }
  return tensors;
}

}  // namespace halfbyte::checkpoint
