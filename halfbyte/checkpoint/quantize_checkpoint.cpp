#include "halfbyte/checkpoint/quantize_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <system_error>
#include <utility>

#include "halfbyte/checkpoint/output_folder.h"
#include "halfbyte/checkpoint/quantize_plan.h"
#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/safetensors_writer.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::DType;
using base::Result;
using base::Status;
using base::StatusCode;
using base::TensorView;
using formats::Format;
using io::SafetensorsDType;
using io::SafetensorsEntry;

constexpr const char* kModelFile = "model.safetensors";

// Wide types first, so that every tensor of the file is aligned to its element.
std::vector<io::SafetensorsDeclaration> declare_tensors(const QuantizePlan& plan,
                                                        const QuantizeReport& report) {
  std::vector<io::SafetensorsDeclaration> tensors;
  for (const SafetensorsEntry* entry : plan.kept) {
    tensors.push_back({entry->name, entry->dtype, entry->shape});
  }
  const bool modelopt = report.convention == Convention::kModelOpt;
  const SafetensorsDType scale_dtype =
      report.format == Format::kNvfp4 ? SafetensorsDType::kF8E4M3 : SafetensorsDType::kU8;
  for (const PlannedLayer& layer : plan.layers) {
    const std::int64_t rows = layer.entry->shape[0], columns = layer.entry->shape[1];
    if (!layer.names.global_scale.empty()) {
      const std::vector<std::int64_t> shape =
          modelopt ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{1};
      tensors.push_back({layer.names.global_scale, SafetensorsDType::kF32, shape});
    }
    tensors.push_back({layer.names.codes, SafetensorsDType::kU8, {rows, columns / 2}});
    tensors.push_back({layer.names.scales,
                       scale_dtype,
                       {rows, columns / formats::block_elements(report.format)}});
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return io::dtype_bits(a.dtype) > io::dtype_bits(b.dtype);
  });
  return tensors;
}

template <class T>
std::span<const std::byte> bytes_of(const T& values) {
  return std::as_bytes(std::span(values));
}

struct EncodedLayer {
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
};

Result<QuantizedLayer> encode_layer(const PlannedLayer& layer, const QuantizeReport& report,
                                    int num_threads, EncodedLayer& encoded) {
  const std::int64_t rows = layer.entry->shape[0], columns = layer.entry->shape[1];
  const std::int64_t scale_columns = columns / formats::block_elements(report.format);
  encoded.codes.resize(static_cast<std::size_t>(rows * columns / 2));
  encoded.scales.resize(static_cast<std::size_t>(rows * scale_columns));
  const TensorView codes(encoded.codes.data(), DType::kU8, {rows, columns / 2});
  const TensorView scales(encoded.scales.data(), DType::kU8, {rows * scale_columns});
  const bool nvfp4 = report.format == Format::kNvfp4;
  StoredScale scale = layer.scale;

  base::Execution execution;
  execution.num_threads = num_threads;
  std::vector<std::byte> storage;
  ops::QuantizeArgs args;
  args.x = aligned_view(*layer.entry, storage);
  args.spec.format = report.format;
  if (nvfp4) args.given.global_scale = TensorView(&scale.encode, DType::kF32, {1});
  args.out.codes = codes;
  args.out.scales = scales;
  HALFBYTE_RETURN_IF_ERROR(ops::quantize(args, execution));

  formats::PackedTensor packed;
  packed.format = report.format;
  packed.rows = rows;
  packed.columns = columns;
  packed.codes = codes;
  packed.scales = scales;
  if (nvfp4) {  // as a reader of the file sees it
    const bool decode = report.convention == Convention::kModelOpt;
    packed.scale = TensorView(decode ? &scale.decode : &scale.encode, DType::kF32, {1});
    packed.scale_kind = decode ? formats::ScaleKind::kDecode : formats::ScaleKind::kEncode;
  }
  const Result<TensorError> error = tensor_error(packed, args.x, num_threads);
  if (!error.ok()) return error.status();
  return QuantizedLayer{layer.entry->name, rows, columns, layer.scale, error.value()};
}

// Streams the planned tensors to `path`.
Status write_file(const std::string& path, const QuantizePlan& plan,
                  const io::SafetensorsMetadata& metadata, const QuantizeOptions& options,
                  QuantizeReport& report) {
  std::map<std::string, const SafetensorsEntry*> kept;
  for (const SafetensorsEntry* entry : plan.kept) kept[entry->name] = entry;
  std::map<std::string, const PlannedLayer*> by_codes, by_global_scale;
  for (const PlannedLayer& layer : plan.layers) {
    by_codes[layer.names.codes] = &layer;
    if (!layer.names.global_scale.empty()) by_global_scale[layer.names.global_scale] = &layer;
  }
  const auto tensors = declare_tensors(plan, report);
  auto created =
      io::SafetensorsWriter::create(path, tensors, metadata, {.overwrite = options.overwrite});
  if (!created.ok()) return created.status();
  io::SafetensorsWriter& writer = created.value();
  EncodedLayer encoded;
  std::int64_t done = 0;
  for (const auto& tensor : tensors) {
    std::int64_t read = 0;
    if (const auto entry = kept.find(tensor.name); entry != kept.end()) {
      HALFBYTE_RETURN_IF_ERROR(writer.append(tensor.name, entry->second->bytes()));
      report.bytes_after += read = entry->second->size_bytes();
    } else if (const auto owner = by_global_scale.find(tensor.name);
               owner != by_global_scale.end()) {
      const StoredScale& scale = owner->second->scale;
      const float stored[] = {report.convention == Convention::kModelOpt ? scale.decode
                                                                         : scale.encode};
      HALFBYTE_RETURN_IF_ERROR(writer.append(tensor.name, bytes_of(stored)));
      report.bytes_after += sizeof(float);
    } else if (const auto codes = by_codes.find(tensor.name); codes != by_codes.end()) {
      auto layer = encode_layer(*codes->second, report, options.num_threads, encoded);
      if (!layer.ok()) return layer.status();
      report.layers.push_back(std::move(layer).value());
      HALFBYTE_RETURN_IF_ERROR(writer.append(tensor.name, bytes_of(encoded.codes)));
      // Its scales are declared next: both are bytes, and the sort is stable.
      HALFBYTE_RETURN_IF_ERROR(
          writer.append(codes->second->names.scales, bytes_of(encoded.scales)));
      report.bytes_after += static_cast<std::int64_t>(encoded.codes.size() + encoded.scales.size());
      read = codes->second->entry->size_bytes();
    }
    done += read;
    if (options.progress && read > 0) options.progress(done, report.bytes_before);
  }
  return writer.finish();
}

Status quantize_file(const fs::path& in, const fs::path& out, const QuantizeOptions& options,
                     QuantizeReport& report) {
  const auto file = io::SafetensorsFile::open(in.string());
  if (!file.ok()) return file.status();
  const Result<QuantizePlan> plan = plan_quantization(file.value(), options, report);
  if (!plan.ok()) return plan.status();
  io::SafetensorsMetadata metadata = file.value().metadata();
  metadata["quantization_config"] = quantization_config_json(plan.value().declaration);
  return write_file(out.string(), plan.value(), metadata, options, report);
}

// The folder's own files, checked: what can be refused is refused before the weights are read.
Status check_folder(const fs::path& in) {
  std::error_code error;
  if (fs::exists(in / "model.safetensors.index.json", error)) {
    return base::unsupported((in / "model.safetensors.index.json").string() +
                             ": sharded checkpoints are not in this build yet; expected one " +
                             kModelFile);
  }
  for (const char* name : {kModelFile, "config.json"}) {
    if (fs::exists(in / name, error)) continue;
    return {StatusCode::kData, in.string() + ": expected a file " + name + ", got none"};
  }
  if (fs::exists(in / "hf_quant_config.json", error)) {
    return {StatusCode::kData, (in / "hf_quant_config.json").string() +
                                   ": expected a checkpoint that is not quantized, got this file"};
  }
  return {};
}

Status quantize_folder(const fs::path& in, const fs::path& out, const QuantizeOptions& options,
                       QuantizeReport& report) {
  HALFBYTE_RETURN_IF_ERROR(check_folder(in));
  const std::string config_path = (in / "config.json").string();
  const Result<std::string> config = read_text(config_path);
  if (!config.ok()) return config.status();
  HALFBYTE_RETURN_IF_ERROR(quantized_config_json(config.value(), config_path, {}).status());

  const auto file = io::SafetensorsFile::open((in / kModelFile).string());
  if (!file.ok()) return file.status();
  Result<OutputFolder> folder = OutputFolder::create(out, options.overwrite);
  if (!folder.ok()) return folder.status();
  const Result<QuantizePlan> plan = plan_quantization(file.value(), options, report);
  if (!plan.ok()) return plan.status();
  const QuantizationDeclaration& declaration = plan.value().declaration;

  HALFBYTE_RETURN_IF_ERROR(folder.value().copy_files(in, [](const fs::path& path) {
    return path == kModelFile || path == "config.json" ||
           path.string().starts_with("activations.");  // recordings, not part of the model
  }));
  const auto new_config = quantized_config_json(config.value(), config_path, declaration);
  HALFBYTE_RETURN_IF_ERROR(new_config.status());
  HALFBYTE_RETURN_IF_ERROR(folder.value().write_text("config.json", new_config.value()));
  if (report.convention == Convention::kModelOpt) {
    HALFBYTE_RETURN_IF_ERROR(
        folder.value().write_text("hf_quant_config.json", hf_quant_config_json(declaration)));
  }
  HALFBYTE_RETURN_IF_ERROR(write_file((folder.value().path() / kModelFile).string(), plan.value(),
                                      file.value().metadata(), options, report));
  return folder.value().commit();
}

// True if `inner` is `outer` or lies in it.
bool contains(const fs::path& outer, const fs::path& inner) {
  std::error_code error;
  const fs::path a = fs::weakly_canonical(fs::absolute(outer, error), error);
  const fs::path b = fs::weakly_canonical(fs::absolute(inner, error), error);
  const auto ends = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return ends.first == a.end() || (ends.first->empty() && std::next(ends.first) == a.end());
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
  report.format = options.format;
  const bool nvfp4 = options.format == Format::kNvfp4;
  if (!nvfp4 && options.format != Format::kMxfp4) {
    return base::invalid_argument("format", "nvfp4 or mxfp4", formats::format_name(options.format));
  }
  report.convention =
      options.convention.value_or(nvfp4 ? Convention::kModelOpt : Convention::kCompressedTensors);
  if (!nvfp4 && report.convention == Convention::kModelOpt) {
    return base::invalid_argument("convention", "compressed-tensors with format mxfp4", "modelopt");
  }
  std::error_code error;
  const bool is_folder = fs::is_directory(in, error);
  if (!fs::exists(in, error)) {
    return Status(StatusCode::kIo, in.string() + ": no such file or folder");
  }
  if (contains(out, in) || contains(in, out)) {
    return base::invalid_argument("output " + out.string(), "a path apart from the input",
                                  in.string());
  }
  if (!is_folder && !options.overwrite && fs::exists(out, error)) {
    return base::invalid_argument(out.string(), "a path that does not exist (--force replaces it)",
                                  "one that does");
  }
  const Status status = is_folder ? quantize_folder(in, out, options, report)
                                  : quantize_file(in, out, options, report);
  if (!status.ok()) return status;
  return report;
}

}  // namespace halfbyte::checkpoint
