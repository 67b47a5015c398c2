// A checkpoint on disk: one safetensors file, or a Hugging Face folder with one or many.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/io/safetensors_reader.h"

namespace halfbyte::checkpoint {

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kIndexFile = "model.safetensors.index.json";
inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kModelOptFile = "hf_quant_config.json";

struct TensorRef {
  const io::SafetensorsEntry* entry = nullptr;  // nullptr: absent
  std::size_t shard = 0;
  explicit operator bool() const { return entry != nullptr; }
};

// Mapped, headers checked; no tensor data read. TensorRefs live as long as the object, which may be
// moved.
class ModelFiles {
 public:
  // A folder needs a config.json, and an index or one model.safetensors. Errors: kIo (no such
  // path, a shard that is missing), kData (a file that breaks a rule, a tensor that two shards
  // hold, one that the index puts where it is not).
  static base::Result<ModelFiles> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  bool is_folder() const { return is_folder_; }
  bool has_index() const { return has_index_; }
  const std::vector<io::SafetensorsFile>& shards() const { return shards_; }
  const std::vector<std::string>& shard_names() const { return shard_names_; }  // file names
  // The text of config.json, or of hf_quant_config.json; "" where there is none.
  const std::string& config() const { return config_; }
  const std::string& modelopt_config() const { return modelopt_config_; }
  std::int64_t data_bytes() const { return data_bytes_; }

  TensorRef find(std::string_view name) const;
  // "path/shard: tensor 'name': ", for messages.
  std::string place(const TensorRef& tensor) const;

 private:
  base::Status add_shard(const std::string& name);
  base::Status open_folder();
  base::Status open_indexed();

  std::filesystem::path path_;
  bool is_folder_ = false;
  bool has_index_ = false;
  std::vector<io::SafetensorsFile> shards_;
  std::vector<std::string> shard_names_;
  std::unordered_map<std::string_view, TensorRef> tensors_;
  std::string config_, modelopt_config_;
  std::int64_t data_bytes_ = 0;
};

// The whole of a text file. Errors: kIo.
base::Result<std::string> read_text(const std::filesystem::path& path);

}  // namespace halfbyte::checkpoint
