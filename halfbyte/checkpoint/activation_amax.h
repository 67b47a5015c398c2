// The largest magnitudes of the inputs of linear layers, as calibration recorded them.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "halfbyte/base/status.h"

namespace halfbyte::checkpoint {

// Module name ("model.layers.0.mlp.down_proj") to amax: finite and > 0.
using ActivationAmax = std::map<std::string, float>;

// A JSON object of numbers, or a safetensors file of fp32, fp16 or bf16 tensors of one element (a
// name may end in ".amax" or ".input_amax"). Errors: kIo; kData for a file that is neither, a value
// that is not one finite number > 0.
base::Result<ActivationAmax> read_activation_amax(const std::filesystem::path& path);

// The amax recorded for `module`; of an expert that was not recorded by itself, that of the experts
// together ("experts.3.up_proj" -> "experts.up_proj"). 0 where there is none. `used` collects the
// key.
float find_activation_amax(const ActivationAmax& recorded, const std::string& module,
                           std::string& used);

}  // namespace halfbyte::checkpoint
