// The norms of a model folder and what they really saw: the cases of `bench --model`.
#pragma once

#include <string>
#include <vector>

#include "apps/halfbyte/op_tensors.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

struct ModelNorm {
  std::string name;  // the module: "model.layers.0.input_layernorm"
  OwnedTensor x;
  OwnedTensor residual;  // given if recorded
  OwnedTensor weight;
};

struct ModelNorms {
  std::vector<ModelNorm> norms;
  float eps = 1e-6f;  // config.json's rms_norm_eps, if there
};

// Reads `<norm>.weight` of DIR/model.safetensors and, of DIR/activations.safetensors,
// `<norm>.x` with `<norm>.residual`, or `<norm>.input` where there is no such pair. Errors name
// file and tensor.
base::Result<ModelNorms> load_model_norms(const std::string& directory);

}  // namespace halfbyte::app
