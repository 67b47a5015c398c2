// Writing the shards of a checkpoint from several threads: what quantize, dequantize and convert
// share.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/model_files.h"
#include "halfbyte/checkpoint/output_target.h"
#include "halfbyte/io/safetensors_index.h"
#include "halfbyte/io/safetensors_shard_writer.h"

namespace halfbyte::checkpoint {

// Called with the bytes of the input that are done, and all of them; one call at a time.
using ProgressCallback = std::function<void(std::int64_t done, std::int64_t total)>;

class Progress {
 public:
  Progress(ProgressCallback callback, std::int64_t total)
      : callback_(std::move(callback)), total_(total) {}
  void add(std::int64_t bytes) {
    if (!callback_) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    callback_(done_ += bytes, total_);
  }

 private:
  ProgressCallback callback_;
  std::mutex mutex_;
  std::int64_t done_ = 0;
  std::int64_t total_;
};

// A tensor that is carried over bit for bit, perhaps under another name.
struct CopiedTensor {
  TensorRef tensor;
  std::string name;
};

// One file of the output.
struct OutputShard {
  std::vector<io::SafetensorsDeclaration> tensors;
  io::SafetensorsMetadata metadata;
  std::vector<CopiedTensor> copied;
  // Writes the other tensors.
  std::function<base::Status(const io::SafetensorsShardWriter&)> fill;
};

// Wide types first, so that every tensor of the file is aligned to its element; otherwise the order
// stays.
void order_for_alignment(std::vector<io::SafetensorsDeclaration>& tensors);
std::int64_t data_bytes(const OutputShard& shard);

// The shards under the names of `in`'s, one by one, after check_space(); then the index, if `in`
// has one. `out` is not committed.
base::Status write_shards(const ModelFiles& in, const OutputTarget& out,
                          std::span<const OutputShard> shards, int num_threads, Progress& progress);

}  // namespace halfbyte::checkpoint
