// Two checkpoints, tensor by tensor: bits where both store the same, values where one or both are
// quantized.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/shard_output.h"
#include "halfbyte/checkpoint/tensor_error.h"

namespace halfbyte::checkpoint {

struct ComparedTensor {
  std::string name;  // of the float tensor; "experts.3.up_proj.weight" for a part of a stack
  std::string kind_a, kind_b;  // "BF16", "nvfp4", ..
  bool equal_bits = false;     // same type, shape and bytes (of codes and all scales)
  bool compared = false;       // error is of the values of B against those of A
  std::string difference;      // why not: "shape [2] and [3]", "dtype I64"
  TensorError error;
};

struct CompareReport {
  std::vector<ComparedTensor> tensors;  // those that both have
  std::vector<std::string> only_a, only_b;
  std::int64_t bytes = 0;  // read, of both

  // Every tensor of either is in both, bit for bit.
  bool equal_bits() const;
};

struct CompareOptions {
  int num_threads = 0;  // 0: all
  ProgressCallback progress;
};

// Files or folders, also one of each. Scales of activations count as tensors. A stack of experts on
// one side and one layer an expert on the other are matched (expert_stacks.h).
base::Result<CompareReport> compare_checkpoints(const std::filesystem::path& a,
                                                const std::filesystem::path& b,
                                                const CompareOptions& options);

}  // namespace halfbyte::checkpoint
