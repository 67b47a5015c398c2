#include "halfbyte/checkpoint/convert_checkpoint.h"

#include <cmath>
#include <utility>

#include "halfbyte/checkpoint/declaration.h"
#include "halfbyte/checkpoint/linear_weights.h"
#include "halfbyte/checkpoint/output_target.h"
#include "halfbyte/checkpoint/stored_weights.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::Result;
using base::Status;
using base::StatusCode;
using formats::Format;
using io::SafetensorsDType;

struct Scalar {
  std::string name;
  float value;
};

class Converter {
 public:
  Converter(const ModelFiles& files, const StoredCheckpoint& stored, const ConvertOptions& options,
            ConvertReport& report)
      : files_(files),
        stored_(stored),
        options_(options),
        report_(report),
        shards_(files.shards().size()),
        scalars_(files.shards().size()) {}

  Status plan() {
    for (const StoredWeight& weight : stored_.weights) HALFBYTE_RETURN_IF_ERROR(add(weight));
    for (const TensorRef& tensor : stored_.plain) {
      copy(tensor, tensor.entry->name);
      ++report_.tensors_kept;
    }
    return declare();
  }

  Status write(const OutputTarget& out) {
    Progress progress(options_.progress, files_.data_bytes());
    for (std::size_t i = 0; i < shards_.size(); ++i) {
      order_for_alignment(shards_[i].tensors);
      shards_[i].metadata = files_.shards()[i].metadata();
      if (!files_.is_folder()) {
        shards_[i].metadata["quantization_config"] = quantization_config_json(declaration_);
      }
      report_.bytes += data_bytes(shards_[i]);
      shards_[i].fill = [this, i](const io::SafetensorsShardWriter& writer) -> Status {
        for (const Scalar& scalar : scalars_[i]) {
          HALFBYTE_RETURN_IF_ERROR(
              writer.write(scalar.name, 0, std::as_bytes(std::span(&scalar.value, 1))));
        }
        return {};
      };
    }
    HALFBYTE_RETURN_IF_ERROR(write_shards(files_, out, shards_, options_.num_threads, progress));
    if (!files_.is_folder()) return {};
    auto left_out = out.copy_other_files();
    if (!left_out.ok()) return left_out.status();
    for (const std::string& name : left_out.value()) {
      report_.notes.push_back("not copied: " + name + " (weights in another format)");
    }
    const auto config = quantized_config_json(files_.config(),
                                              (files_.path() / kConfigFile).string(), declaration_);
    if (!config.ok()) return config.status();
    HALFBYTE_RETURN_IF_ERROR(out.write_text(kConfigFile, config.value()));
    if (options_.convention != Convention::kModelOpt) return {};
    return out.write_text(kModelOptFile, hf_quant_config_json(declaration_));
  }

 private:
  Status add(const StoredWeight& weight) {
    const std::string place = files_.place(weight.codes);
    if (weight.format != Format::kNvfp4) {
      return base::unsupported(place +
                               "expected an NVFP4 weight, which both conventions have, got " +
                               formats::format_name(weight.format));
    }
    if (weight.is_stack()) {
      return base::unsupported(place +
                               "expected one layer an expert, which both conventions have, "
                               "got a stack (dequantize it, then quantize)");
    }
    ++report_.weights;
    const LinearTensorNames names =
        linear_tensor_names(options_.convention, weight.format, weight.module);
    copy(weight.codes, names.codes);
    copy(weight.scales, names.scales);
    HALFBYTE_RETURN_IF_ERROR(convert(weight, weight.global_scale, names.global_scale));
    if (weight.input_scale) {
      HALFBYTE_RETURN_IF_ERROR(convert(weight, weight.input_scale, names.input_scale));
    }
    activations_ += weight.input_scale ? 1 : 0;
    return {};
  }

  void copy(const TensorRef& tensor, const std::string& name) {
    shards_[tensor.shard].copied.push_back({tensor, name});
    shards_[tensor.shard].tensors.push_back({name, tensor.entry->dtype, tensor.entry->shape});
  }

  Status convert(const StoredWeight& weight, const TensorRef& scale, const std::string& name) {
    if (weight.convention == options_.convention) {
      copy(scale, name);
      return {};
    }
    const float value = stored_scale(scale, 0), other = reciprocal_scale(value);
    if (!(value > 0) || !std::isfinite(value) || !(other > 0) || !std::isfinite(other)) {
      return {StatusCode::kData, files_.place(scale) +
                                     "expected a finite scale > 0 with a finite reciprocal, got " +
                                     std::to_string(value)};
    }
    ++report_.scales;
    report_.irreversible_scales += reciprocal_scale(other) != value;
    const std::vector<std::int64_t> shape = options_.convention == Convention::kModelOpt
                                                ? std::vector<std::int64_t>{}
                                                : std::vector<std::int64_t>{1};
    shards_[scale.shard].tensors.push_back({name, SafetensorsDType::kF32, shape});
    scalars_[scale.shard].push_back({name, other});
    return {};
  }

  Status declare() {
    const Result<ReadDeclaration> read = read_declaration(files_);
    if (!read.ok()) return read.status();
    declaration_.format = Format::kNvfp4;
    declaration_.convention = options_.convention;
    declaration_.fp8_kv_cache = read.value().fp8_kv_cache;
    declaration_.activations = activations_ == report_.weights;
    if (activations_ != 0 && !declaration_.activations) {
      return {StatusCode::kData,
              files_.path().string() +
                  ": expected activation scales for all layers or for none, got " +
                  std::to_string(activations_) + " of " + std::to_string(report_.weights)};
    }
    if (read.value().declared && read.value().activations != declaration_.activations) {
      report_.notes.push_back(
          std::string("declared now as ") +
          (declaration_.activations ? "weights and activations" : "weight-only") +
          ", which is what the scales say; the input declared otherwise");
    }
    // The names of the layers that are not quantized, not the input's patterns: the conventions
    // write those differently.
    bool has_head = false;
    for (const TensorRef& tensor : stored_.plain) {
      const WeightChoice choice = choose_weight(*tensor.entry, Format::kNvfp4, {});
      if (choice.selection == Selection::kKeep) continue;
      declaration_.ignore.push_back(choice.module);
      has_head = has_head || choice.module == "lm_head";
    }
    if (!has_head && stored_.find("lm_head.weight") == nullptr) {
      declaration_.ignore.emplace_back("lm_head");
    }
    return {};
  }

  const ModelFiles& files_;
  const StoredCheckpoint& stored_;
  const ConvertOptions& options_;
  ConvertReport& report_;
  QuantizationDeclaration declaration_;
  std::vector<OutputShard> shards_;
  std::vector<std::vector<Scalar>> scalars_;
  std::int64_t activations_ = 0;  // weights with an activation scale
};

}  // namespace

Result<ConvertReport> convert_checkpoint(const fs::path& in, const fs::path& out,
                                         const ConvertOptions& options) {
  if (options.convention == Convention::kGptOss) {
    return base::invalid_argument("convention", "modelopt or compressed-tensors", "gpt-oss");
  }
  const Result<ModelFiles> files = ModelFiles::open(in);
  if (!files.ok()) return files.status();
  Result<OutputTarget> target = OutputTarget::create(files.value(), out, options.overwrite);
  if (!target.ok()) return target.status();
  const Result<StoredCheckpoint> stored = find_stored_weights(files.value());
  if (!stored.ok()) return stored.status();
  if (stored.value().weights.empty()) {
    return Status(StatusCode::kData, in.string() + ": expected a quantized weight, got none");
  }
  ConvertReport report;
  Converter converter(files.value(), stored.value(), options, report);
  HALFBYTE_RETURN_IF_ERROR(converter.plan());
  HALFBYTE_RETURN_IF_ERROR(converter.write(target.value()));
  HALFBYTE_RETURN_IF_ERROR(target.value().commit());
  return report;
}

}  // namespace halfbyte::checkpoint
