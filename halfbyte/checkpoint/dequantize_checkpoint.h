// A quantized checkpoint of any convention back to floats that transformers loads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "halfbyte/base/dtype.h"
#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/shard_output.h"

namespace halfbyte::checkpoint {

struct DequantizeOptions {
  base::DType dtype = base::DType::kBF16;  // or kF16, kF32: of the weights that were quantized
  int num_threads = 0;                     // 0: all
  bool overwrite = false;
  ProgressCallback progress;
};

struct DequantizeReport {
  std::int64_t weights = 0;        // decoded; a stack counts once
  std::int64_t tensors_kept = 0;   // carried over unchanged
  std::vector<std::string> notes;  // what a person should look at
  std::int64_t bytes_before = 0;   // of tensor data
  std::int64_t bytes_after = 0;
};

// Weights take the name and shape that transformers expects: `<module>.weight` [N, K]; stacks
// [E, K, N] under their own name. Layers that quantize split out of a stack stay split. Scales of
// activations and of the KV cache are dropped; other tensors keep their bits. config.json loses
// its quantization_config.
//
// Errors: those of quantize_checkpoint() for paths, kData for a checkpoint without quantized
// weights, kUnsupported for a kind of quantization that is not known here.
base::Result<DequantizeReport> dequantize_checkpoint(const std::filesystem::path& in,
                                                     const std::filesystem::path& out,
                                                     const DequantizeOptions& options);

// Scales that mean nothing without quantized weights or caches: input_scale, k_scale, ..
bool is_leftover_scale(const std::string& tensor);

}  // namespace halfbyte::checkpoint
