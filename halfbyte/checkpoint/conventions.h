// How a quantized linear layer is stored so that engines load it: the names of its tensors, which
// of the two reciprocal fp32 scales is kept, and the JSON that declares it. Pure functions.
//
//               ModelOpt                               compressed-tensors
//   codes       weight            u8 [N, K/2]          weight_packed
//   scales      weight_scale      [N, K/block] linear  weight_scale (E4M3; MXFP4: u8)
//   fp32        weight_scale_2    f32 [], decode d     weight_global_scale  f32 [1], encode g
//   declared    hf_quant_config.json and config.json   config.json
//
// MXFP4 has no fp32 scale, and compressed-tensors alone stores it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/formats/format.h"

namespace halfbyte::checkpoint {

enum class Convention { kModelOpt, kCompressedTensors };

const char* convention_name(Convention convention);  // "modelopt", ..
std::optional<Convention> convention_from_name(std::string_view name);

// The tensors of one linear layer; `global_scale` is empty where there is none.
struct LinearTensorNames {
  std::string codes;
  std::string scales;
  std::string global_scale;
};
LinearTensorNames linear_tensor_names(Convention convention, formats::Format format,
                                      std::string_view module);

// The fp32 scale of an NVFP4 weight (or of the weights that share one), as used by the encode:
// decode == fl(1/encode). The one that a convention stores gives the other one back:
// ModelOpt's encode == fl(1/decode) too.
struct StoredScale {
  float encode = 1.0f;
  float decode = 1.0f;
};

// From the largest magnitude, finite. compressed-tensors stores g = fl(2688 / amax). ModelOpt's
// d = fl(amax / 2688) is not the reciprocal of any float in one case of seven; d is then moved by
// one unit in the last place to one that is, so that what encodes is exactly what the file says.
// A zero amax gives 1; one below 2688 / 2^126 gives g = 2^126 (both scales stay normal floats).
StoredScale stored_scale_from_amax(Convention convention, float amax);

// What a checkpoint declares about itself. Weight-only: activations are left alone.
struct QuantizationDeclaration {
  formats::Format format = formats::Format::kNvfp4;
  Convention convention = Convention::kModelOpt;
  std::vector<std::string> ignore;  // modules of linear layers that stay as they were
};

// The value of "quantization_config".
std::string quantization_config_json(const QuantizationDeclaration& declaration);
// `config` (the text of a config.json; `path` names it in errors) with "quantization_config" set.
// Errors (kData): not a JSON object; already quantized.
base::Result<std::string> quantized_config_json(const std::string& config, const std::string& path,
                                                const QuantizationDeclaration& declaration);
// The text of hf_quant_config.json (ModelOpt).
std::string hf_quant_config_json(const QuantizationDeclaration& declaration);

}  // namespace halfbyte::checkpoint
