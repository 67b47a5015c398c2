#include "halfbyte/checkpoint/activation_amax.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "halfbyte/checkpoint/linear_weights.h"
#include "halfbyte/checkpoint/matrix_source.h"
#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/utf8.h"

namespace halfbyte::checkpoint {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;

Status bad_value(const std::filesystem::path& path, const std::string& module,
                 const std::string& actual) {
  return {StatusCode::kData, path.string() + ": amax of " + io::quote_text(module) +
                                 ": expected one finite number > 0, got " + actual};
}

bool is_usable(double value) {
  return value > 0 && std::isfinite(static_cast<float>(value)) && static_cast<float>(value) > 0;
}

Result<ActivationAmax> from_json(const std::filesystem::path& path) {
  const Result<std::string> text = read_text(path);
  if (!text.ok()) return text.status();
  const auto json = nlohmann::json::parse(text.value(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return Status(StatusCode::kData,
                  path.string() + ": expected a JSON object or a safetensors file, got neither");
  }
  ActivationAmax amax;
  for (const auto& [module, value] : json.items()) {
    if (!value.is_number() || !is_usable(value.get<double>())) {
      return bad_value(path, module, value.dump().substr(0, 40));
    }
    amax[module] = value.get<float>();
  }
  return amax;
}

Result<ActivationAmax> from_safetensors(const std::filesystem::path& path) {
  const auto file = io::SafetensorsFile::open(path.string());
  if (!file.ok()) return file.status();
  ActivationAmax amax;
  for (const io::SafetensorsEntry& entry : file.value().entries()) {
    const MatrixSource source = matrix_of({&entry, 0});
    if (!is_float_tensor(entry) || source.rows * source.columns != 1) {
      return bad_value(
          path, entry.name,
          std::string(io::dtype_name(entry.dtype)) + " " + io::short_shape(entry.shape));
    }
    float stored = 0, value = 0;
    gather_rows(source, 0, 1, &stored);
    to_float(source.dtype, &stored, 1, &value);
    if (!is_usable(value)) return bad_value(path, entry.name, std::to_string(value));
    std::string module = entry.name;
    for (const std::string_view suffix : {".input_amax", ".amax"}) {
      if (module.ends_with(suffix)) module.resize(module.size() - suffix.size());
    }
    amax[module] = value;
  }
  return amax;
}

}  // namespace

Result<ActivationAmax> read_activation_amax(const std::filesystem::path& path) {
  Result<ActivationAmax> amax =
      path.extension() == ".safetensors" ? from_safetensors(path) : from_json(path);
  if (amax.ok() && amax.value().empty()) {
    return Status(StatusCode::kData, path.string() + ": expected at least one amax, got none");
  }
  return amax;
}

float find_activation_amax(const ActivationAmax& recorded, const std::string& module,
                           std::string& used) {
  auto found = recorded.find(module);
  constexpr std::string_view kExperts = ".experts.";
  if (const auto at = module.find(kExperts); found == recorded.end() && at != std::string::npos) {
    const auto number = at + kExperts.size();
    const auto dot = module.find('.', number);
    if (dot != std::string::npos) {
      found = recorded.find(module.substr(0, number) + module.substr(dot + 1));
    }
  }
  if (found == recorded.end()) return 0;
  used = found->first;
  return found->second;
}

}  // namespace halfbyte::checkpoint
