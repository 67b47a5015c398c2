#include "halfbyte/checkpoint/declaration.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "halfbyte/formats/nvfp4.h"

namespace halfbyte::checkpoint {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;
using formats::Format;
using Json = nlohmann::ordered_json;  // keeps the order of the keys of a config.json

constexpr const char* kConfigKey = "quantization_config";

std::string text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json producer() { return {{"name", "halfbyte"}, {"version", HALFBYTE_VERSION}}; }

// With plain "NVFP4" engines expect an input_scale, and have multiplied by the uninitialised one.
const char* modelopt_algorithm(const QuantizationDeclaration& declaration) {
  return declaration.activations ? "NVFP4" : "W4A16_NVFP4";
}

Json modelopt_config(const QuantizationDeclaration& declaration) {
  const Json four_bits = {
      {"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", formats::kNvfp4Block}};
  Json group = Json::object();
  if (declaration.activations) group["input_activations"] = four_bits;
  group["weights"] = four_bits;
  group["targets"] = Json::array({"Linear"});
  Json config = {{"config_groups", {{"group_0", group}}},
                 {"ignore", declaration.ignore},
                 {"quant_algo", modelopt_algorithm(declaration)}};
  if (declaration.fp8_kv_cache) {
    config["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
  }
  config["producer"] = producer();
  config["quant_method"] = "modelopt";
  return config;
}

Json compressed_tensors_config(const QuantizationDeclaration& declaration) {
  const bool nvfp4 = declaration.format == Format::kNvfp4;
  const char* format = nvfp4 ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized";
  const char* scale_dtype = nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8";
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
                        {"scale_dtype", scale_dtype},
                        {"zp_dtype", nullptr}};
  Json inputs = nullptr;
  if (declaration.activations) {
    inputs = weights;
    inputs["dynamic"] = "local";  // block scales at run time, the fp32 one from the file
    inputs["observer"] = "static_minmax";
  }
  const Json group = {{"format", format},
                      {"targets", Json::array({"Linear"})},
                      {"weights", weights},
                      {"input_activations", inputs},
                      {"output_activations", nullptr}};
  Json kv_cache = nullptr;
  if (declaration.fp8_kv_cache) {
    kv_cache = {{"num_bits", 8},        {"type", "float"},  {"strategy", "tensor"},
                {"symmetric", true},    {"dynamic", false}, {"observer", "minmax"},
                {"group_size", nullptr}};
  }
  return {{"quant_method", "compressed-tensors"}, {"format", format},
          {"quantization_status", "compressed"},  {"config_groups", {{"group_0", group}}},
          {"ignore", declaration.ignore},         {"kv_cache_scheme", kv_cache},
          {"global_compression_ratio", nullptr}};
}

// What transformers reads for gpt-oss: everything but the experts stays as it is.
Json gpt_oss_config() {
  return {
      {"quant_method", "mxfp4"},
      {"modules_to_not_convert",
       {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}}};
}

Json quantization_config(const QuantizationDeclaration& declaration) {
  switch (declaration.convention) {
    case Convention::kModelOpt:
      return modelopt_config(declaration);
    case Convention::kCompressedTensors:
      return compressed_tensors_config(declaration);
    case Convention::kGptOss:
      break;
  }
  return gpt_oss_config();
}

Result<Json> parse_object(const std::string& text, const std::string& path) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  return Status(StatusCode::kData, path + ": expected a JSON object, got " +
                                       (json.is_discarded() ? "no JSON" : json.type_name()));
}

std::string string_at(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

void read_strings(const Json& json, const char* key, std::vector<std::string>& out) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_array()) return;
  for (const Json& item : *found) {
    if (item.is_string()) out.push_back(item.get<std::string>());
  }
}

bool has_value(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && !found->is_null();
}

void read_quantization_config(const Json& config, ReadDeclaration& read) {
  read.declared = true;
  read.method = string_at(config, "quant_method");
  if (read.method == "modelopt") read.convention = Convention::kModelOpt;
  if (read.method == "compressed-tensors") read.convention = Convention::kCompressedTensors;
  if (read.method == "mxfp4") read.convention = Convention::kGptOss;
  read.algorithm = string_at(config, read.method == "modelopt" ? "quant_algo" : "format");
  read.fp8_kv_cache = has_value(config, "kv_cache_scheme");
  read_strings(config, read.method == "mxfp4" ? "modules_to_not_convert" : "ignore", read.ignore);
  const auto groups = config.find("config_groups");
  if (groups == config.end() || !groups->is_object()) return;
  for (const auto& group : *groups) {
    if (group.is_object() && has_value(group, "input_activations")) read.activations = true;
  }
}

void read_modelopt_file(const Json& json, ReadDeclaration& read) {
  const auto inner = json.find("quantization");
  if (inner == json.end() || !inner->is_object()) return;
  read.declared = true;
  read.convention = Convention::kModelOpt;
  read.method = "modelopt";
  read.algorithm = string_at(*inner, "quant_algo");
  read.activations = read.activations || read.algorithm == "NVFP4" || read.algorithm == "FP8";
  read.fp8_kv_cache = read.fp8_kv_cache || has_value(*inner, "kv_cache_quant_algo");
  if (read.ignore.empty()) read_strings(*inner, "exclude_modules", read.ignore);
}

}  // namespace

std::string quantization_config_json(const QuantizationDeclaration& declaration) {
  return text(quantization_config(declaration));
}

std::string hf_quant_config_json(const QuantizationDeclaration& declaration) {
  Json kv_cache = nullptr;
  if (declaration.fp8_kv_cache) kv_cache = "FP8";
  return text({{"producer", producer()},
               {"quantization",
                {{"quant_algo", modelopt_algorithm(declaration)},
                 {"kv_cache_quant_algo", kv_cache},
                 {"group_size", formats::kNvfp4Block},
                 {"exclude_modules", declaration.ignore}}}});
}

Result<std::string> quantized_config_json(const std::string& config, const std::string& path,
                                          const QuantizationDeclaration& declaration) {
  Result<Json> json = parse_object(config, path);
  if (!json.ok()) return json.status();
  json.value()[kConfigKey] = quantization_config(declaration);
  return text(json.value());
}

Result<std::string> dequantized_config_json(const std::string& config, const std::string& path,
                                            const std::string& dtype) {
  Result<Json> json = parse_object(config, path);
  if (!json.ok()) return json.status();
  json.value().erase(kConfigKey);
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (json.value().contains(key)) json.value()[key] = dtype;
  }
  return text(json.value());
}

Result<ReadDeclaration> read_declaration(const ModelFiles& files) {
  ReadDeclaration read;
  if (!files.is_folder()) {
    const auto& metadata = files.shards().front().metadata();
    const auto found = metadata.find(kConfigKey);
    if (found == metadata.end()) return read;
    const Result<Json> json =
        parse_object(found->second, files.path().string() + ": __metadata__ quantization_config");
    if (!json.ok()) return json.status();
    read_quantization_config(json.value(), read);
    return read;
  }
  const Result<Json> json = parse_object(files.config(), (files.path() / kConfigFile).string());
  if (!json.ok()) return json.status();
  if (const auto config = json.value().find(kConfigKey);
      config != json.value().end() && config->is_object()) {
    read_quantization_config(*config, read);
  }
  if (!files.modelopt_config().empty()) {
    const Result<Json> other =
        parse_object(files.modelopt_config(), (files.path() / kModelOptFile).string());
    if (!other.ok()) return other.status();
    read_modelopt_file(other.value(), read);
  }
  return read;
}

ModelShape read_model_shape(const ModelFiles& files) {
  const Json json = Json::parse(files.config(), nullptr, /*allow_exceptions=*/false);
  ModelShape shape;
  if (!json.is_object()) return shape;
  const auto inner = json.find("text_config");
  for (const Json* config :
       {&json, inner != json.end() && inner->is_object() ? &*inner : nullptr}) {
    if (config == nullptr) continue;
    if (const std::string type = string_at(*config, "model_type"); !type.empty()) {
      shape.model_type = type;
    }
    if (const auto size = config->find("hidden_size");
        size != config->end() && size->is_number_integer()) {
      shape.hidden_size = size->get<std::int64_t>();
    }
  }
  return shape;
}

}  // namespace halfbyte::checkpoint
