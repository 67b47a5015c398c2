#include "halfbyte/checkpoint/conventions.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "halfbyte/formats/nvfp4.h"

namespace halfbyte::checkpoint {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;
using formats::Format;
using Json = nlohmann::ordered_json;  // keeps the order of the keys of a config.json

std::string text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json producer() { return {{"name", "halfbyte"}, {"version", HALFBYTE_VERSION}}; }

// ModelOpt's name of a scheme whose activations are not quantized: with plain "NVFP4" engines
// expect an input_scale, and have multiplied by the uninitialised one.
constexpr const char* kModelOptAlgorithm = "W4A16_NVFP4";

Json modelopt_config(const QuantizationDeclaration& declaration) {
  const Json weights = {
      {"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", formats::kNvfp4Block}};
  return {{"config_groups",
           {{"group_0", {{"weights", weights}, {"targets", Json::array({"Linear"})}}}}},
          {"ignore", declaration.ignore},
          {"quant_algo", kModelOptAlgorithm},
          {"producer", producer()},
          {"quant_method", "modelopt"}};
}

Json compressed_tensors_config(const QuantizationDeclaration& declaration) {
  const bool nvfp4 = declaration.format == Format::kNvfp4;
  const char* format = nvfp4 ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized";
  const Json weights = {{"num_bits", 4},
                        {"type", "float"},
                        {"strategy", nvfp4 ? "tensor_group" : "group"},
                        {"group_size", formats::block_elements(declaration.format)},
                        {"symmetric", true},
                        {"dynamic", false},
                        {"actorder", nullptr},
                        {"block_structure", nullptr},
                        {"observer", "minmax"},
                        {"observer_kwargs", Json::object()},
                        {"scale_dtype", nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8"},
                        {"zp_dtype", nullptr}};
  const Json group = {{"format", format},
                      {"targets", Json::array({"Linear"})},
                      {"weights", weights},
                      {"input_activations", nullptr},
                      {"output_activations", nullptr}};
  return {{"quant_method", "compressed-tensors"}, {"format", format},
          {"quantization_status", "compressed"},  {"config_groups", {{"group_0", group}}},
          {"ignore", declaration.ignore},         {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr}};
}

Json quantization_config(const QuantizationDeclaration& declaration) {
  return declaration.convention == Convention::kModelOpt ? modelopt_config(declaration)
                                                         : compressed_tensors_config(declaration);
}

}  // namespace

const char* convention_name(Convention convention) {
  return convention == Convention::kModelOpt ? "modelopt" : "compressed-tensors";
}

std::optional<Convention> convention_from_name(std::string_view name) {
  for (const Convention convention : {Convention::kModelOpt, Convention::kCompressedTensors}) {
    if (name == convention_name(convention)) return convention;
  }
  return std::nullopt;
}

LinearTensorNames linear_tensor_names(Convention convention, Format format,
                                      std::string_view module) {
  const std::string prefix = std::string(module) + ".";
  const bool modelopt = convention == Convention::kModelOpt;
  LinearTensorNames names{prefix + (modelopt ? "weight" : "weight_packed"), prefix + "weight_scale",
                          ""};
  if (format == Format::kNvfp4) {
    names.global_scale = prefix + (modelopt ? "weight_scale_2" : "weight_global_scale");
  }
  return names;
}

StoredScale stored_scale_from_amax(Convention convention, float amax) {
  if (amax == 0.0f) return {};
  constexpr float kLargestEncode = 0x1p126f;
  if (amax <= formats::kNvfp4Range / kLargestEncode) return {kLargestEncode, 1 / kLargestEncode};
  // For every x, y = fl(1/x) has fl(1/fl(1/y)) == y (conventions_test.cpp tries all significands):
  // ModelOpt's g is such a y, so the d that is stored gives it back.
  const float encode = convention == Convention::kModelOpt ? 1.0f / (amax / formats::kNvfp4Range)
                                                           : formats::kNvfp4Range / amax;
  return {encode, 1.0f / encode};
}

std::string quantization_config_json(const QuantizationDeclaration& declaration) {
  return text(quantization_config(declaration));
}

Result<std::string> quantized_config_json(const std::string& config, const std::string& path,
                                          const QuantizationDeclaration& declaration) {
  Json json = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return Status(StatusCode::kData, path + ": expected a JSON object, got " +
                                         (json.is_discarded() ? "no JSON" : json.type_name()));
  }
  if (const auto old = json.find("quantization_config"); old != json.end() && !old->is_null()) {
    return Status(
        StatusCode::kData,
        path + ": expected a checkpoint that is not quantized, got a quantization_config");
  }
  json["quantization_config"] = quantization_config(declaration);
  return text(json);
}

std::string hf_quant_config_json(const QuantizationDeclaration& declaration) {
  return text({{"producer", producer()},
               {"quantization",
                {{"quant_algo", kModelOptAlgorithm},
                 {"kv_cache_quant_algo", nullptr},
                 {"group_size", formats::kNvfp4Block},
                 {"exclude_modules", declaration.ignore}}}});
}

}  // namespace halfbyte::checkpoint
