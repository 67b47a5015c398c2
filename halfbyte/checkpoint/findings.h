// What is suspicious about an inspected checkpoint: rules over names, shapes and scales. Pure.
#pragma once

#include <vector>

#include "halfbyte/checkpoint/inspect_checkpoint.h"

namespace halfbyte::checkpoint {

// `plain`: the tensors that belong to no quantized weight. inspect_checkpoint.h lists the kinds.
std::vector<Finding> find_suspicious(const InspectReport& report,
                                     const std::vector<StoredWeight>& weights,
                                     const std::vector<TensorRef>& plain);

}  // namespace halfbyte::checkpoint
