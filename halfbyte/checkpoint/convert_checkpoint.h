// An NVFP4 checkpoint from one convention to the other: codes and block scales keep their bits, the
// fp32 scales become their reciprocals, names and declarations follow.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/conventions.h"
#include "halfbyte/checkpoint/shard_output.h"

namespace halfbyte::checkpoint {

struct ConvertOptions {
  Convention convention = Convention::kModelOpt;  // or kCompressedTensors
  int num_threads = 0;                            // 0: all
  bool overwrite = false;
  ProgressCallback progress;
};

struct ConvertReport {
  std::int64_t weights = 0;
  std::int64_t tensors_kept = 0;
  std::int64_t scales = 0;  // fp32 scales, of weights and activations
  // Of these: fl(1/fl(1/x)) is not x, so that converting back gives another last bit. None for a
  // file that convert wrote.
  std::int64_t irreversible_scales = 0;
  std::int64_t bytes = 0;  // of tensor data
  std::vector<std::string> notes;
};

// A weight that has the wanted convention already is copied. Errors: those of quantize_checkpoint()
// for paths; kData for a checkpoint without NVFP4 weights, or whose fp32 scale is not finite and
// > 0; kUnsupported for stacks of experts (the other convention stores experts one by one) and
// MXFP4 or FP8 weights, which one convention has only.
base::Result<ConvertReport> convert_checkpoint(const std::filesystem::path& in,
                                               const std::filesystem::path& out,
                                               const ConvertOptions& options);

}  // namespace halfbyte::checkpoint
