// What becomes of each tensor of a file, decided before anything is written.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/checkpoint/conventions.h"
#include "halfbyte/checkpoint/quantize_checkpoint.h"
#include "halfbyte/io/safetensors_reader.h"

namespace halfbyte::checkpoint {

struct PlannedLayer {
  const io::SafetensorsEntry* entry = nullptr;
  LinearTensorNames names;
  std::string scale_key;
  StoredScale scale;
};

// Points into the file that it was made of.
struct QuantizePlan {
  std::vector<PlannedLayer> layers;
  std::vector<const io::SafetensorsEntry*> kept;
  QuantizationDeclaration declaration;
};

// Reads every weight once, for the fp32 scales: one from the largest magnitude of each family of
// layers that engines fuse. Takes format and convention from `report` and fills what it says
// before any encoding. Errors (kData, naming file and tensor): quantized already, nothing to
// quantize, a weight with NaN or Inf.
base::Result<QuantizePlan> plan_quantization(const io::SafetensorsFile& file,
                                             const QuantizeOptions& options,
                                             QuantizeReport& report);

// The entry's elements at an aligned address: in the mapping, or copied to `storage` (the format
// promises no alignment). The entry has a type that halfbyte computes on.
base::TensorView aligned_view(const io::SafetensorsEntry& entry, std::vector<std::byte>& storage);

}  // namespace halfbyte::checkpoint
