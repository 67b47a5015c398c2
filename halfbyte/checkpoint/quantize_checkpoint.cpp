#include "halfbyte/checkpoint/quantize_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "halfbyte/checkpoint/layer_encoder.h"
#include "halfbyte/checkpoint/output_target.h"
#include "halfbyte/checkpoint/parallel.h"
#include "halfbyte/checkpoint/quantize_plan.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::Result;
using base::Status;
using base::StatusCode;
using formats::Format;

// Layers whose scales are computed together before they are encoded: what is read twice is still in
// the page cache the second time, also where the checkpoint is larger than memory.
constexpr std::int64_t kWindowBytes = std::int64_t{256} << 20;

class Quantizer {
 public:
  Quantizer(const ModelFiles& files, QuantizePlan& plan, const QuantizeOptions& options,
            QuantizeReport& report)
      : files_(files),
        plan_(plan),
        threads_(options.num_threads),
        report_(report),
        progress_(options.progress, report.bytes_before),
        scratch_(static_cast<std::size_t>(thread_count(threads_))) {
    report_.layers.resize(plan_.layers.size());
  }

  Status run(const OutputTarget& out) {
    std::vector<OutputShard> shards(files_.shards().size());
    for (std::size_t i = 0; i < shards.size(); ++i) {
      OutputShard& shard = shards[i];
      for (const TensorRef& tensor : plan_.kept) {
        if (tensor.shard != i) continue;
        shard.copied.push_back({tensor, tensor.entry->name});
        shard.tensors.push_back({tensor.entry->name, tensor.entry->dtype, tensor.entry->shape});
      }
      for (auto& tensor : declare_layers(plan_, i)) shard.tensors.push_back(std::move(tensor));
      order_for_alignment(shard.tensors);
      shard.metadata = files_.shards()[i].metadata();
      if (!files_.is_folder()) {
        shard.metadata["quantization_config"] = quantization_config_json(plan_.declaration);
      }
      shard.fill = [this, i](const io::SafetensorsShardWriter& writer) { return fill(i, writer); };
      report_.bytes_after += data_bytes(shard);
    }
    return write_shards(files_, out, shards, threads_, progress_);
  }

 private:
  struct Piece {
    std::size_t layer;
    RowRange rows;
  };

  // Encodes the layers of a shard, a window at a time.
  Status fill(std::size_t shard, const io::SafetensorsShardWriter& writer) {
    std::vector<std::size_t> window;
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < plan_.layers.size(); ++i) {
      if (plan_.layers[i].source.tensor.shard != shard) continue;
      window.push_back(i);
      bytes += report_.layers[i].bytes_before = source_bytes(plan_.layers[i]);
      if (bytes < kWindowBytes) continue;
      HALFBYTE_RETURN_IF_ERROR(encode(window, writer));
      window.clear();
      bytes = 0;
    }
    return encode(window, writer);
  }

  static std::int64_t source_bytes(const PlannedLayer& layer) {
    return layer.source.rows * layer.source.columns * base::dtype_bytes(layer.source.dtype);
  }

  std::vector<Piece> pieces(const std::vector<std::size_t>& layers) const {
    std::vector<Piece> all;
    for (const std::size_t layer : layers) {
      for (const RowRange rows : pieces_of(plan_.layers[layer].source))
        all.push_back({layer, rows});
    }
    return all;
  }

  // Fills the scales of the families that `layers` belong to.
  Status choose_scales(const std::vector<std::size_t>& layers) {
    std::vector<std::size_t> unread;
    for (const std::size_t layer : layers) {
      Family& family = plan_.families[plan_.layers[layer].family];
      if (std::exchange(family.has_scale, true)) continue;
      unread.insert(unread.end(), family.layers.begin(), family.layers.end());
    }
    const std::vector<Piece> work = pieces(unread);
    std::vector<float> amax(work.size());
    HALFBYTE_RETURN_IF_ERROR(run_parallel(
        static_cast<std::int64_t>(work.size()), threads_,
        [&](std::int64_t item, int worker) -> Status {
          const Piece& piece = work[static_cast<std::size_t>(item)];
          const PlannedLayer& layer = plan_.layers[piece.layer];
          const Result<float> largest =
              piece_amax(layer.source, piece.rows, scratch_[static_cast<std::size_t>(worker)]);
          if (!largest.ok()) return largest.status();
          if (!std::isfinite(largest.value())) {
            return {StatusCode::kData, files_.place(layer.source.tensor) +
                                           "expected finite weights, got " +
                                           (std::isnan(largest.value()) ? "NaN" : "Inf")};
          }
          amax[static_cast<std::size_t>(item)] = largest.value();
          return {};
        }));
    for (std::size_t i = 0; i < work.size(); ++i) {
      Family& family = plan_.families[plan_.layers[work[i].layer].family];
      family.amax = std::max(family.amax, amax[i]);
    }
    if (report_.format != Format::kNvfp4) return {};
    for (const std::size_t layer : unread) {
      Family& family = plan_.families[plan_.layers[layer].family];
      family.scale = stored_scale_from_amax(report_.convention, family.amax);
    }
    return {};
  }

  Status encode(const std::vector<std::size_t>& layers, const io::SafetensorsShardWriter& writer) {
    HALFBYTE_RETURN_IF_ERROR(choose_scales(layers));
    const std::vector<Piece> work = pieces(layers);
    std::vector<TensorError> errors(work.size());
    HALFBYTE_RETURN_IF_ERROR(run_parallel(
        static_cast<std::int64_t>(work.size()), threads_,
        [&](std::int64_t item, int worker) -> Status {
          const Piece& piece = work[static_cast<std::size_t>(item)];
          const PlannedLayer& layer = plan_.layers[piece.layer];
          Result<TensorError> error =
              encode_piece(layer, plan_.families[layer.family], plan_.declaration, piece.rows,
                           scratch_[static_cast<std::size_t>(worker)], writer);
          if (!error.ok()) return error.status();
          errors[static_cast<std::size_t>(item)] = error.value();
          progress_.add(piece.rows.count * layer.source.columns *
                        base::dtype_bytes(layer.source.dtype));
          return {};
        }));
    for (std::size_t i = 0; i < work.size(); ++i) report_.layers[work[i].layer].error += errors[i];
    for (const std::size_t index : layers) {
      const PlannedLayer& layer = plan_.layers[index];
      const Family& family = plan_.families[layer.family];
      HALFBYTE_RETURN_IF_ERROR(write_scalars(layer, family, report_.convention, writer));
      QuantizedLayer& reported = report_.layers[index];
      reported.tensor = layer.tensor;
      reported.rows = layer.source.rows;
      reported.columns = layer.source.columns;
      reported.scale = family.scale;
      reported.input_scale = layer.input_scale;
      const auto scalars = static_cast<std::int64_t>(
          layer.matrix != 0 ? 0
                            : sizeof(float) * (!layer.names.global_scale.empty() +
                                               layer.input_scale.has_value()));
      reported.bytes_after = code_bytes(layer) + scale_bytes(layer, report_.format) + scalars;
    }
    return {};
  }

  const ModelFiles& files_;
  QuantizePlan& plan_;
  int threads_;
  QuantizeReport& report_;
  Progress progress_;
  std::vector<EncodeScratch> scratch_;
};

Status check_options(const QuantizeOptions& options, QuantizeReport& report) {
  report.format = options.format;
  const bool nvfp4 = options.format == Format::kNvfp4;
  if (!nvfp4 && options.format != Format::kMxfp4) {
    return base::invalid_argument("format", "nvfp4 or mxfp4", formats::format_name(options.format));
  }
  report.convention =
      options.convention.value_or(nvfp4 ? Convention::kModelOpt : Convention::kCompressedTensors);
  if (!nvfp4 && report.convention == Convention::kModelOpt) {
    return base::invalid_argument("convention", "compressed-tensors or gpt-oss with format mxfp4",
                                  "modelopt");
  }
  if (nvfp4 && report.convention == Convention::kGptOss) {
    return base::invalid_argument("convention", "modelopt or compressed-tensors with format nvfp4",
                                  "gpt-oss");
  }
  if (!nvfp4 && options.activation_amax) {
    return base::invalid_argument("activation amax",
                                  "none with format mxfp4, whose activations "
                                  "have no stored scale",
                                  "one");
  }
  return {};
}

Status write_folder_files(const ModelFiles& files, const OutputTarget& out,
                          const QuantizationDeclaration& declaration, QuantizeReport& report) {
  if (!files.is_folder()) return {};
  auto left_out = out.copy_other_files();
  if (!left_out.ok()) return left_out.status();
  for (const std::string& name : left_out.value()) {
    report.notes.push_back("not copied: " + name + " (weights in another format)");
  }
  const auto config =
      quantized_config_json(files.config(), (files.path() / kConfigFile).string(), declaration);
  if (!config.ok()) return config.status();
  HALFBYTE_RETURN_IF_ERROR(out.write_text(kConfigFile, config.value()));
  if (report.convention != Convention::kModelOpt) return {};
  return out.write_text(kModelOptFile, hf_quant_config_json(declaration));
}

}  // namespace

double QuantizeReport::mean_sqnr_db() const {
  double sum = 0;
  std::int64_t count = 0;
  for (const QuantizedLayer& layer : layers) {
    const double sqnr = layer.error.sqnr_db();
    if (!std::isfinite(sqnr)) continue;
    sum += sqnr;
    ++count;
  }
  return count == 0 ? std::numeric_limits<double>::infinity() : sum / static_cast<double>(count);
}

Result<QuantizeReport> quantize_checkpoint(const fs::path& in, const fs::path& out,
                                           const QuantizeOptions& options) {
  QuantizeReport report;
  HALFBYTE_RETURN_IF_ERROR(check_options(options, report));
  const Result<ModelFiles> files = ModelFiles::open(in);
  if (!files.ok()) return files.status();
  Result<OutputTarget> target = OutputTarget::create(files.value(), out, options.overwrite);
  if (!target.ok()) return target.status();
  Result<QuantizePlan> plan = plan_quantization(files.value(), options, report);
  if (!plan.ok()) return plan.status();
  HALFBYTE_RETURN_IF_ERROR(
      Quantizer(files.value(), plan.value(), options, report).run(target.value()));
  HALFBYTE_RETURN_IF_ERROR(
      write_folder_files(files.value(), target.value(), plan.value().declaration, report));
  HALFBYTE_RETURN_IF_ERROR(target.value().commit());
  return report;
}

}  // namespace halfbyte::checkpoint
