#include "halfbyte/checkpoint/quantize_plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "halfbyte/checkpoint/linear_weights.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::checkpoint {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::StatusCode;
using base::TensorView;
using formats::Format;
using io::SafetensorsEntry;

std::string in_file(const io::SafetensorsFile& file, const std::string& tensor) {
  return file.path() + ": tensor '" + tensor + "': ";
}

Status not_quantized_yet(const io::SafetensorsFile& file) {
  for (const SafetensorsEntry& entry : file.entries()) {
    if (is_quantized_tensor(entry)) {
      return {StatusCode::kData,
              in_file(file, entry.name) + "expected a checkpoint that is not quantized, got " +
                  std::string(io::dtype_name(entry.dtype)) + " " + io::short_shape(entry.shape)};
    }
  }
  return {};
}

void note_unused_patterns(const QuantizeOptions& options, QuantizeReport& report) {
  for (const std::string& pattern : options.ignore) {
    const std::string reason = "ignored by '" + pattern + "'";
    const auto used = [&](const ExcludedLayer& layer) { return layer.reason == reason; };
    if (std::none_of(report.excluded.begin(), report.excluded.end(), used)) {
      report.notes.push_back("--ignore '" + pattern + "' left out no layer");
    }
  }
}

// Engines run fused layers as one matrix: half a family quantized does not load.
void note_split_families(const QuantizePlan& plan, QuantizeReport& report) {
  std::map<std::string, std::string> quantized;  // key -> a quantized member
  for (const PlannedLayer& layer : plan.layers) quantized[layer.scale_key] = layer.entry->name;
  for (const ExcludedLayer& layer : report.excluded) {
    if (const auto other = quantized.find(shared_scale_key(layer.module));
        other != quantized.end()) {
      report.notes.push_back("'" + layer.module + "' is not quantized but '" + other->second +
                             "', which engines fuse with it, is");
    }
  }
}

Result<QuantizePlan> make_plan(const io::SafetensorsFile& file, const QuantizeOptions& options,
                               QuantizeReport& report) {
  HALFBYTE_RETURN_IF_ERROR(not_quantized_yet(file));
  QuantizePlan plan;
  plan.declaration.format = report.format;
  plan.declaration.convention = report.convention;
  for (const SafetensorsEntry& entry : file.entries()) {
    WeightChoice choice = choose_weight(entry, report.format, options.ignore);
    report.bytes_before += entry.size_bytes();
    if (choice.selection == Selection::kQuantize) {
      plan.layers.push_back({&entry,
                             linear_tensor_names(report.convention, report.format, choice.module),
                             shared_scale_key(choice.module), StoredScale{}});
      continue;
    }
    plan.kept.push_back(&entry);
    if (choice.selection == Selection::kExclude) {
      plan.declaration.ignore.push_back(choice.module);
      report.excluded.push_back({std::move(choice.module), std::move(choice.reason)});
    }
  }
  if (plan.layers.empty()) {
    return Status(StatusCode::kData,
                  file.path() + ": expected a linear weight to quantize, got none (" +
                      std::to_string(plan.kept.size()) + " other tensors, " +
                      std::to_string(report.excluded.size()) + " linear layers left out)");
  }
  // Tied to the embedding it has no tensor, but engines still make the layer.
  auto& ignore = plan.declaration.ignore;
  if (std::find(ignore.begin(), ignore.end(), "lm_head") == ignore.end()) {
    ignore.push_back("lm_head");
  }
  report.tensors_kept = static_cast<std::int64_t>(plan.kept.size());
  note_unused_patterns(options, report);
  note_split_families(plan, report);
  return plan;
}

// Fills the fp32 scales: one from the largest magnitude of each family.
Status choose_scales(const io::SafetensorsFile& file, const QuantizeReport& report, int num_threads,
                     QuantizePlan& plan) {
  base::Execution execution;
  execution.num_threads = num_threads;
  std::map<std::string, float> amax;
  for (const PlannedLayer& layer : plan.layers) {
    std::vector<std::byte> storage;
    float value = 0;
    ops::AmaxArgs args;
    args.x = aligned_view(*layer.entry, storage);
    args.amax = TensorView(&value, DType::kF32, {1});
    HALFBYTE_RETURN_IF_ERROR(ops::amax(args, execution));
    if (!std::isfinite(value)) {
      return {StatusCode::kData, in_file(file, layer.entry->name) +
                                     "expected finite weights, got " +
                                     (std::isnan(value) ? "NaN" : "Inf")};
    }
    float& largest = amax[layer.scale_key];
    largest = std::max(largest, value);
  }
  if (report.format != Format::kNvfp4) return {};
  for (PlannedLayer& layer : plan.layers) {
    layer.scale = stored_scale_from_amax(report.convention, amax[layer.scale_key]);
  }
  return {};
}

}  // namespace

// The entry's elements at an aligned address: in the mapping, or copied to `storage` (the format
// promises no alignment).
TensorView aligned_view(const SafetensorsEntry& entry, std::vector<std::byte>& storage) {
  const DType dtype = *io::computed_dtype(entry.dtype);
  const auto address = reinterpret_cast<std::uintptr_t>(entry.data);
  void* data = const_cast<std::byte*>(entry.data);  // kernels only read x
  if (address % static_cast<std::uintptr_t>(base::dtype_bytes(dtype)) != 0) {
    storage.assign(entry.bytes().begin(), entry.bytes().end());
    data = storage.data();
  }
  return TensorView(data, dtype, entry.shape);
}

Result<QuantizePlan> plan_quantization(const io::SafetensorsFile& file,
                                       const QuantizeOptions& options, QuantizeReport& report) {
  Result<QuantizePlan> plan = make_plan(file, options, report);
  if (!plan.ok()) return plan.status();
  HALFBYTE_RETURN_IF_ERROR(choose_scales(file, report, options.num_threads, plan.value()));
  return plan;
}

}  // namespace halfbyte::checkpoint
