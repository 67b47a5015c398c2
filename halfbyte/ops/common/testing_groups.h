// Random RowGroups of the property tests.
#pragma once

#include <string>

#include "halfbyte/ops/common/testing_random.h"

namespace halfbyte::ops::testing {

// Splits the rows of a case that add_quantize_tensors has prepared among groups, some of them
// empty, some rows in none: adds "row_offsets" and "scale_row_offsets", and makes "scales",
// "scales_second" and a global_scale of more than one value anew. Nothing for FP8 and scale =
// computed.
void add_row_groups(Random& random, const QuantizeSpec& spec, const Shape& shape, TensorSet& set);
// The second half of it, where the set has "row_offsets": adds the offsets of scale rows as `name`.
void add_scale_row_offsets(Random& random, const QuantizeSpec& spec, const Shape& shape,
                           const std::string& name, TensorSet& set);
RowGroups row_groups(const TensorSet& set);

}  // namespace halfbyte::ops::testing
