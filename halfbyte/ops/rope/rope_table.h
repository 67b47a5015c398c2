// rope_table: the cos and sin tables of rope, on the host, once a model.
//
// The frequencies are those of Hugging Face transformers' rope types "default", "linear", "llama3"
// and "yarn", here in fp64; cos and sin of position * frequency too, rounded to fp32 once
// (docs/numerics.md, "RoPE"). Tables are data: copy them to a device, save them, make them
// elsewhere.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"

namespace halfbyte::ops {

using base::TensorView;

// The values are part of the C ABI.
enum class RopeScaling : std::int32_t {
  kNone = 0,
  kLinear = 1,  // every frequency / factor
  kLlama3 = 2,  // long wavelengths / factor, short ones kept, a ramp between
  kYarn = 3,    // the same over the index of the pair, and cos, sin * attention_factor
};

// In doubles, 0 means not given. What a scaling does not take must not be given.
struct RopeTableArgs {
  TensorView cos;  // out: fp32 [P, rope_dim / 2] on the CPU, last dimension dense, any row stride
  TensorView sin;  // out: the same; row p is that of position p
  double theta = 10000.0;  // base of the frequencies, > 1
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 0.0;                 // linear, llama3, yarn: > 0
  double low_freq_factor = 0.0;        // llama3: > 0
  double high_freq_factor = 0.0;       // llama3: > low_freq_factor
  double original_max_position = 0.0;  // llama3, yarn: > 0 (original_max_position_embeddings)
  double beta_fast = 0.0;              // yarn: 32 if not given
  double beta_slow = 0.0;              // yarn: 1 if not given
  double attention_factor = 0.0;       // yarn: of factor and the two below if not given
  double mscale = 0.0;                 // yarn: counts with mscale_all_dim alone, as there
  double mscale_all_dim = 0.0;         // yarn
  bool truncate = true;                // yarn: the ramp's ends are whole pairs
};

HALFBYTE_API base::Status rope_table(const RopeTableArgs& args);

}  // namespace halfbyte::ops
