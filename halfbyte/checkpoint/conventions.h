// How a quantized linear layer is stored so that engines load it: the names of its tensors and
// which of the two reciprocal fp32 scales is kept. Pure functions.
//
//               ModelOpt                               compressed-tensors
//   codes       weight            u8 [N, K/2]          weight_packed
//   scales      weight_scale      [N, K/block] linear  weight_scale (E4M3; MXFP4: u8)
//   fp32        weight_scale_2    f32 [], decode d     weight_global_scale  f32 [1], encode g
//   activation  input_scale       f32 [], decode d     input_global_scale   f32 [1], encode g
//   declared    hf_quant_config.json and config.json   config.json
//
// MXFP4 has no fp32 scale; compressed-tensors stores it as above, gpt-oss stacks of experts as
//   <name>_blocks u8 [E, N, K/32, 16] and <name>_scales u8 [E, N, K/32].
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "halfbyte/formats/format.h"

namespace halfbyte::checkpoint {

enum class Convention { kModelOpt, kCompressedTensors, kGptOss };

const char* convention_name(Convention convention);  // "modelopt", "compressed-tensors", "gpt-oss"
std::optional<Convention> convention_from_name(std::string_view name);

// The tensors of one linear layer; "" where there is none.
struct LinearTensorNames {
  std::string codes;
  std::string scales;
  std::string global_scale;
  std::string input_scale;
};
// `module` of a 2-D weight `<module>.weight`.
LinearTensorNames linear_tensor_names(Convention convention, formats::Format format,
                                      std::string_view module);
// Of a stack of experts `name` stored as one tensor: ModelOpt (Llama 4, gpt-oss) or gpt-oss.
LinearTensorNames stack_tensor_names(Convention convention, std::string_view name);

// The two fp32 scales of an NVFP4 weight (or of the weights, or activations, that share one). The
// file stores `decode` for ModelOpt and `encode` for compressed-tensors, and what encodes is
// exactly what a reader of the file has:
//   ModelOpt            d = fl(amax / 2688), g = fl(2688 / amax): both as computed, like scale =
//                       computed of the operator, and like ModelOpt's own files
//   compressed-tensors  g = fl(2688 / amax), d = fl(1 / g)
struct StoredScale {
  float encode = 1.0f;
  float decode = 1.0f;
};

// From the largest magnitude, finite. A zero amax gives 1; one whose g would exceed 2^126 gives
// g = 2^126 and d = 2^-126: both scales stay normal floats.
StoredScale stored_scale_from_amax(Convention convention, float amax);
// True where both are as computed from `amax` and g and d are not each other's reciprocal by
// definition: the layer is then encoded with scale = computed.
bool encodes_as_computed(Convention convention, float amax);

// The other one of the two scales; what convert writes. fl(1/fl(1/x)) is x for six values in seven.
inline float reciprocal_scale(float scale) { return 1.0f / scale; }

}  // namespace halfbyte::checkpoint
