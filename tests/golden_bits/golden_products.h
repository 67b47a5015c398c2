// The products among the golden bits' calls. Nothing here may change, as in golden_calls.h.
#pragma once

#include "halfbyte/ops/gemm/gemm.h"
#include "tests/golden_bits/golden_calls.h"

namespace halfbyte::ops::golden {

struct Product {
  Format format = Format::kNvfp4;
  bool quantized = true;
  DType dtype = DType::kF32;  // of the product
  std::int64_t n = 0;
};

// The operands of kRows rows; `nan`: with special values among them.
void add_product(const Product& product, std::uint64_t seed, bool nan, TensorSet& set);
// All arguments but c.
GemmArgs product_args(const Product& product, const TensorSet& tensors);

}  // namespace halfbyte::ops::golden
