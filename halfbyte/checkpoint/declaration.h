// The JSON in which a checkpoint declares how it is quantized: writing it as engines expect it, and
// reading what a folder says about itself.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/conventions.h"
#include "halfbyte/checkpoint/model_files.h"
#include "halfbyte/formats/format.h"

namespace halfbyte::checkpoint {

struct QuantizationDeclaration {
  formats::Format format = formats::Format::kNvfp4;
  Convention convention = Convention::kModelOpt;
  bool activations = false;         // inputs are quantized too; else weight-only
  bool fp8_kv_cache = false;        // carried over by convert
  std::vector<std::string> ignore;  // modules of linear layers that stay as they were
};

// The value of "quantization_config".
std::string quantization_config_json(const QuantizationDeclaration& declaration);
// The text of hf_quant_config.json (ModelOpt).
std::string hf_quant_config_json(const QuantizationDeclaration& declaration);

// `config` (the text of a config.json; `path` names it in errors) with "quantization_config" set,
// an old one replaced. Errors (kData): not a JSON object.
base::Result<std::string> quantized_config_json(const std::string& config, const std::string& path,
                                                const QuantizationDeclaration& declaration);
// Without "quantization_config"; "dtype" or "torch_dtype", where there is one, says `dtype`
// ("bfloat16", ..).
base::Result<std::string> dequantized_config_json(const std::string& config,
                                                  const std::string& path,
                                                  const std::string& dtype);

// What a checkpoint's own JSON says; every field may be absent.
struct ReadDeclaration {
  bool declared = false;                 // there is a quantization_config or hf_quant_config.json
  std::optional<Convention> convention;  // by quant_method
  std::string method;                    // quant_method as it stands
  std::string algorithm;                 // ModelOpt's quant_algo, compressed-tensors' format
  bool activations = false;
  bool fp8_kv_cache = false;
  std::vector<std::string> ignore;
};
// From config.json, hf_quant_config.json or the metadata of a single file. Errors (kData): a text
// that is not a JSON object.
base::Result<ReadDeclaration> read_declaration(const ModelFiles& files);

// Sizes that tell how stacks of experts are oriented; 0 and "" where config.json does not say.
struct ModelShape {
  std::string model_type;  // text_config's where there is one
  std::int64_t hidden_size = 0;
};
ModelShape read_model_shape(const ModelFiles& files);

}  // namespace halfbyte::checkpoint
