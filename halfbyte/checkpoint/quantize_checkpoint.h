// A safetensors file or a Hugging Face folder to its NVFP4 or MXFP4 counterpart: linear weights are
// quantized, everything else is carried over. See conventions.h, linear_weights.h and
// expert_stacks.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/activation_amax.h"
#include "halfbyte/checkpoint/conventions.h"
#include "halfbyte/checkpoint/linear_weights.h"
#include "halfbyte/checkpoint/shard_output.h"
#include "halfbyte/checkpoint/tensor_error.h"
#include "halfbyte/formats/format.h"

namespace halfbyte::checkpoint {

struct QuantizeOptions {
  formats::Format format = formats::Format::kNvfp4;  // or kMxfp4
  // Default: ModelOpt for NVFP4, compressed-tensors for MXFP4 (ModelOpt does not have it).
  std::optional<Convention> convention;
  WeightPatterns patterns;
  // With it the inputs are quantized too (NVFP4): every quantized layer must have one.
  std::optional<ActivationAmax> activation_amax;
  int num_threads = 0;     // 0: all
  bool overwrite = false;  // replace an output that exists
  ProgressCallback progress;
};

struct QuantizedLayer {
  std::string tensor;  // its name in the input; "[3]" after it: that expert of a stack
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  StoredScale scale;                       // 1 for MXFP4
  std::optional<StoredScale> input_scale;  // of the activations
  std::int64_t bytes_before = 0;
  std::int64_t bytes_after = 0;
  TensorError error;
};

struct ExcludedLayer {
  std::string module;
  std::string reason;
};

struct QuantizeReport {
  formats::Format format = formats::Format::kNvfp4;
  Convention convention = Convention::kModelOpt;
  bool activations = false;
  std::vector<QuantizedLayer> layers;
  std::vector<ExcludedLayer> excluded;  // linear layers left as they were
  std::vector<std::string> notes;       // what a person should look at
  std::int64_t tensors_kept = 0;        // carried over unchanged, those of `excluded` too
  std::int64_t bytes_before = 0;        // of tensor data
  std::int64_t bytes_after = 0;

  double mean_sqnr_db() const;  // of the layers that lose anything; +Inf if none does
};

// `in` and `out` are both files or both folders; shards keep their names, other files of a folder
// are copied (output_target.h). For a file the declaration goes to the metadata key
// "quantization_config". Shards are written one by one; a piece of a tensor is in memory at a time,
// of a transposed stack one expert's matrix a thread.
//
// Errors: kInvalidArgument (an output that exists, the input as output, an option the format does
// not have), kData (quantized already, a weight with NaN or Inf, nothing to quantize, no amax for a
// layer, a file that breaks a rule), kUnsupported (expert_stacks.h), kIo. After an error there is
// no output.
base::Result<QuantizeReport> quantize_checkpoint(const std::filesystem::path& in,
                                                 const std::filesystem::path& out,
                                                 const QuantizeOptions& options);

}  // namespace halfbyte::checkpoint
