// Test support of this room: random products, as tensors under the names of the arguments.
#pragma once

#include <string>

#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/gemm/gemm.h"

namespace halfbyte::ops::testing {

// What a random product may be.
struct GemmChoices {
  bool quantized = true;      // W4A4, else W4A16
  bool grouped = false;       // mixture of experts
  bool plain_weights = true;  // of every two; else all prepared
  GemmMethod method = GemmMethod::kAuto;
  bool any_layout = true;  // of a's scales; else linear
};

struct GemmShape {
  Format format = Format::kNvfp4;
  std::int64_t m = 0, n = 0, k = 0, groups = 0;
  std::int64_t matrices() const { return groups == 0 ? 1 : groups; }
};

struct GemmCase {
  TensorSet set;
  GemmArgs args;  // its views are set anew by gemm_args
  GemmShape shape;
  std::string text;
};

GemmCase random_gemm(Random& random, const GemmChoices& choices);
GemmCase random_gemm(Random& random, const GemmChoices& choices, const GemmShape& shape);
// The arguments with the tensors of `set`, a clone of the case's.
GemmArgs gemm_args(const GemmCase& test, const TensorSet& set);

// Block scales of a format: ordinary ones, with zeros, NaN, signs and the ends of the range now and
// then.
void fill_scales(Random& random, Format format, const TensorView& scales);
void fill_bytes(Random& random, const TensorView& codes);
// Plain weights of the set (b_codes, b_scales) to b_prepared, group by group.
void add_prepared(const GemmWeights& plain, const GemmShape& shape, TensorSet& set);

// gemm on a case, with the workspace that it asks for on CUDA.
Case gemm_case(GemmCase test);

}  // namespace halfbyte::ops::testing
