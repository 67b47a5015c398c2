// A safetensors file or a Hugging Face folder to its NVFP4 or MXFP4 counterpart: linear weights are
// quantized (weight-only), everything else is carried over. See conventions.h and linear_weights.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/conventions.h"
#include "halfbyte/checkpoint/tensor_error.h"
#include "halfbyte/formats/format.h"

namespace halfbyte::checkpoint {

struct QuantizeOptions {
  formats::Format format = formats::Format::kNvfp4;  // or kMxfp4
  // Default: ModelOpt for NVFP4, compressed-tensors for MXFP4 (ModelOpt does not have it).
  std::optional<Convention> convention;
  std::vector<std::string> ignore;  // shell globs over module and tensor names
  int num_threads = 0;              // 0: all
  bool overwrite = false;           // replace an output that exists
  // Called after each tensor with the bytes of the input read so far, and all of them.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

struct QuantizedLayer {
  std::string tensor;  // its name in the input
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  StoredScale scale;  // 1 for MXFP4
  TensorError error;
};

struct ExcludedLayer {
  std::string module;
  std::string reason;
};

struct QuantizeReport {
  formats::Format format = formats::Format::kNvfp4;
  Convention convention = Convention::kModelOpt;
  std::vector<QuantizedLayer> layers;
  std::vector<ExcludedLayer> excluded;  // linear layers left as they were
  std::vector<std::string> notes;       // what a person should look at
  std::int64_t tensors_kept = 0;        // carried over unchanged, those of `excluded` too
  std::int64_t bytes_before = 0;        // of tensor data
  std::int64_t bytes_after = 0;

  double mean_sqnr_db() const;  // of the layers that lose anything; +Inf if none does
};

// `in` and `out` are both files or both folders. A folder holds one model.safetensors and a
// config.json; its other files are copied (not hidden ones, not `activations.*`). For a file the
// declaration goes to the metadata key "quantization_config".
//
// Errors: kInvalidArgument (an output that exists, the input as output, an option the format does
// not have), kData (quantized already, a weight with NaN or Inf, nothing to quantize, a file that
// breaks a rule), kUnsupported (a sharded folder), kIo. After an error there is no output.
base::Result<QuantizeReport> quantize_checkpoint(const std::filesystem::path& in,
                                                 const std::filesystem::path& out,
                                                 const QuantizeOptions& options);

}  // namespace halfbyte::checkpoint
