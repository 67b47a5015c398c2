#include "apps/halfbyte/bench_model.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "halfbyte/checkpoint/model_files.h"
#include "halfbyte/io/safetensors_reader.h"

namespace halfbyte::app {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;

// "layers.10" after "layers.9": runs of digits compare as numbers.
bool natural_less(std::string_view a, std::string_view b) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!is_digit(a[i]) || !is_digit(b[j])) {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
      continue;
    }
    const std::size_t a_start = i, b_start = j;
    while (i < a.size() && is_digit(a[i])) ++i;
    while (j < b.size() && is_digit(b[j])) ++j;
    if (i - a_start != j - b_start) return i - a_start < j - b_start;
    const int order = a.substr(a_start, i - a_start).compare(b.substr(b_start, j - b_start));
    if (order != 0) return order < 0;
  }
  return a.size() - i < b.size() - j;
}

std::vector<std::string> recorded_norms(const io::SafetensorsFile& activations) {
  constexpr std::string_view kInput = ".input";
  std::vector<std::string> names;
  for (const io::SafetensorsEntry& entry : activations.entries()) {
    if (!entry.name.ends_with(kInput)) continue;
    names.push_back(entry.name.substr(0, entry.name.size() - kInput.size()));
  }
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

Status load(const io::SafetensorsFile& file, const std::string& name, int dimensions,
            OwnedTensor& tensor) {
  const io::SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) {
    return {StatusCode::kData, file.path() + ": expected a tensor '" + name + "', got none"};
  }
  if (static_cast<int>(entry->shape.size()) != dimensions) {
    return {StatusCode::kData, file.path() + ": tensor '" + name + "': expected " +
                                   std::to_string(dimensions) + " dimensions, got shape " +
                                   io::short_shape(entry->shape)};
  }
  Result<OwnedTensor> copy = OwnedTensor::copy_of(*entry, kHost);
  if (!copy.ok()) return {StatusCode::kData, file.path() + ": " + copy.status().message()};
  tensor = std::move(copy).value();
  return {};
}

float config_eps(const std::string& directory, float fallback) {
  const Result<std::string> text = checkpoint::read_text(directory + "/config.json");
  if (!text.ok()) return fallback;
  const auto json = nlohmann::json::parse(text.value(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("rms_norm_eps")) return fallback;
  return json["rms_norm_eps"].is_number() ? json["rms_norm_eps"].get<float>() : fallback;
}

}  // namespace

Result<ModelNorms> load_model_norms(const std::string& directory) {
  const auto model = io::SafetensorsFile::open(directory + "/model.safetensors");
  if (!model.ok()) return model.status();
  const auto activations = io::SafetensorsFile::open(directory + "/activations.safetensors");
  if (!activations.ok()) return activations.status();
  ModelNorms result;
  result.eps = config_eps(directory, result.eps);
  for (const std::string& name : recorded_norms(activations.value())) {
    ModelNorm norm;
    norm.name = name;
    const bool pair = activations.value().find(name + ".residual") != nullptr;
    HALFBYTE_RETURN_IF_ERROR(load(activations.value(), name + (pair ? ".x" : ".input"), 2, norm.x));
    if (pair) {
      HALFBYTE_RETURN_IF_ERROR(load(activations.value(), name + ".residual", 2, norm.residual));
    }
    HALFBYTE_RETURN_IF_ERROR(load(model.value(), name + ".weight", 1, norm.weight));
    result.norms.push_back(std::move(norm));
  }
  if (result.norms.empty()) {
    return Status(StatusCode::kData,
                  activations.value().path() + ": expected tensors '<norm>.input', got none");
  }
  return result;
}

}  // namespace halfbyte::app
