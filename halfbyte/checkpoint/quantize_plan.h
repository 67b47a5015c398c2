// What becomes of each tensor of a checkpoint, decided from headers before anything is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/declaration.h"
#include "halfbyte/checkpoint/expert_stacks.h"
#include "halfbyte/checkpoint/quantize_checkpoint.h"

namespace halfbyte::checkpoint {

struct PlannedLayer {
  std::string tensor;  // as QuantizedLayer::tensor
  std::string module;
  MatrixSource source;
  LinearTensorNames names;
  Packing packing = Packing::kRows;
  std::int64_t matrix = 0;    // its place in the stack, where packing is one
  std::int64_t matrices = 1;  // of that stack
  std::size_t family = 0;     // index into families
  std::optional<StoredScale> input_scale;
};

// Layers that engines fuse into one matrix: they share one fp32 scale.
struct Family {
  std::vector<std::size_t> layers;
  bool has_scale = false;  // the rest is known once the weights have been read
  float amax = 0;
  StoredScale scale;
};

struct QuantizePlan {
  std::vector<PlannedLayer> layers;  // in the order of the files
  std::vector<Family> families;
  std::vector<TensorRef> kept;
  QuantizationDeclaration declaration;
};

// Takes format and convention from `report` and fills what it says before any encoding. Points into
// `files`. Errors: quantized already, nothing to quantize, a layer without an activation amax
// (kData), a stack of experts that no engine would load (kUnsupported).
base::Result<QuantizePlan> plan_quantization(const ModelFiles& files,
                                             const QuantizeOptions& options,
                                             QuantizeReport& report);

// Bytes of block scales and codes of one matrix.
std::int64_t code_bytes(const PlannedLayer& layer);
std::int64_t scale_bytes(const PlannedLayer& layer, formats::Format format);

// The tensors that the layers of a shard become; those of a stack once. Not the kept ones.
std::vector<io::SafetensorsDeclaration> declare_layers(const QuantizePlan& plan, std::size_t shard);

}  // namespace halfbyte::checkpoint
