#include "halfbyte/checkpoint/conventions.h"

#include "halfbyte/formats/nvfp4.h"

namespace halfbyte::checkpoint {
namespace {

using formats::Format;

constexpr Convention kConventions[] = {Convention::kModelOpt, Convention::kCompressedTensors,
                                       Convention::kGptOss};
constexpr float kLargestEncode = 0x1p126f;

bool is_tiny(float amax) { return amax <= formats::kNvfp4Range / kLargestEncode; }

}  // namespace

const char* convention_name(Convention convention) {
  switch (convention) {
    case Convention::kModelOpt:
      return "modelopt";
    case Convention::kCompressedTensors:
      return "compressed-tensors";
    case Convention::kGptOss:
      break;
  }
  return "gpt-oss";
}

std::optional<Convention> convention_from_name(std::string_view name) {
  for (const Convention convention : kConventions) {
    if (name == convention_name(convention)) return convention;
  }
  return std::nullopt;
}

LinearTensorNames linear_tensor_names(Convention convention, Format format,
                                      std::string_view module) {
  const std::string prefix = std::string(module) + ".";
  const bool modelopt = convention == Convention::kModelOpt;
  LinearTensorNames names{prefix + (modelopt ? "weight" : "weight_packed"), prefix + "weight_scale",
                          "", ""};
  if (format == Format::kNvfp4) {
    names.global_scale = prefix + (modelopt ? "weight_scale_2" : "weight_global_scale");
    names.input_scale = prefix + (modelopt ? "input_scale" : "input_global_scale");
  }
  return names;
}

LinearTensorNames stack_tensor_names(Convention convention, std::string_view name) {
  const std::string stack(name);
  if (convention == Convention::kGptOss) return {stack + "_blocks", stack + "_scales", "", ""};
  return {stack, stack + "_weight_scale", stack + "_weight_scale_2", stack + "_input_scale"};
}

StoredScale stored_scale_from_amax(Convention convention, float amax) {
  if (amax == 0.0f) return {};
  if (is_tiny(amax)) return {kLargestEncode, 1 / kLargestEncode};
  const float encode = formats::kNvfp4Range / amax;
  return {encode,
          convention == Convention::kModelOpt ? amax / formats::kNvfp4Range : 1.0f / encode};
}

bool encodes_as_computed(Convention convention, float amax) {
  return convention == Convention::kModelOpt && amax != 0.0f && !is_tiny(amax);
}

}  // namespace halfbyte::checkpoint
