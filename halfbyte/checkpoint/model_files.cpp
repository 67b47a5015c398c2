#include "halfbyte/checkpoint/model_files.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <set>
#include <system_error>
#include <utility>

#include "halfbyte/io/safetensors_index.h"
#include "halfbyte/io/utf8.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::Result;
using base::Status;
using base::StatusCode;

Status missing(const fs::path& folder, const std::string& what) {
  return {StatusCode::kData, folder.string() + ": expected a file " + what + ", got none"};
}

}  // namespace

Result<std::string> read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const auto failed = [&](const char* what) {
    return Status(StatusCode::kIo,
                  path.string() + ": " + what + ": " + std::generic_category().message(errno));
  };
  if (!file) return failed("cannot open");
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) return failed("cannot read");
  return text;
}

Result<ModelFiles> ModelFiles::open(const fs::path& path) {
  ModelFiles files;
  files.path_ = path;
  std::error_code error;
  if (!fs::exists(path, error)) {
    return Status(StatusCode::kIo, path.string() + ": no such file or folder");
  }
  files.is_folder_ = fs::is_directory(path, error);
  if (files.is_folder_) {
    HALFBYTE_RETURN_IF_ERROR(files.open_folder());
  } else {
    HALFBYTE_RETURN_IF_ERROR(files.add_shard(path.filename().string()));
  }
  return files;
}

Status ModelFiles::open_folder() {
  std::error_code error;
  if (!fs::exists(path_ / kConfigFile, error)) return missing(path_, kConfigFile);
  for (const auto& [name, text] : {std::pair<const char*, std::string*>{kConfigFile, &config_},
                                   {kModelOptFile, &modelopt_config_}}) {
    if (!fs::exists(path_ / name, error)) continue;
    Result<std::string> read = read_text(path_ / name);
    if (!read.ok()) return read.status();
    *text = std::move(read).value();
  }
  has_index_ = fs::exists(path_ / kIndexFile, error);
  if (has_index_) return open_indexed();
  if (!fs::exists(path_ / kModelFile, error)) {
    return missing(path_, std::string(kModelFile) + " or " + kIndexFile);
  }
  return add_shard(kModelFile);
}

Status ModelFiles::open_indexed() {
  const std::string index_path = (path_ / kIndexFile).string();
  const Result<std::string> text = read_text(index_path);
  if (!text.ok()) return text.status();
  const auto index = io::parse_safetensors_index(text.value(), index_path);
  if (!index.ok()) return index.status();
  std::set<std::string> names;
  for (const auto& [tensor, shard] : index.value()) names.insert(shard);
  if (names.empty()) {
    return {StatusCode::kData, index_path + ": weight_map: expected a tensor, got none"};
  }
  for (const std::string& name : names) {
    std::error_code error;
    if (!fs::exists(path_ / name, error)) {
      return {StatusCode::kData,
              index_path + ": expected the shard " + io::quote_text(name) + ", got no such file"};
    }
    HALFBYTE_RETURN_IF_ERROR(add_shard(name));
  }
  for (const auto& [tensor, shard] : index.value()) {
    const TensorRef found = find(tensor);
    const std::string place = index_path + ": tensor " + io::quote_text(tensor);
    if (!found) {
      return {StatusCode::kData, place + ": expected it in " + io::quote_text(shard) +
                                     ", got no such tensor in any shard"};
    }
    if (shard_names_[found.shard] != shard) {
      return {StatusCode::kData, place + ": expected it in " + io::quote_text(shard) +
                                     ", got it in " + io::quote_text(shard_names_[found.shard])};
    }
  }
  return {};
}

Status ModelFiles::add_shard(const std::string& name) {
  auto file = io::SafetensorsFile::open((is_folder_ ? path_ / name : path_).string());
  if (!file.ok()) return file.status();
  shards_.push_back(std::move(file).value());
  shard_names_.push_back(name);
  const std::size_t shard = shards_.size() - 1;
  // The entries' names stay where they are when the file object moves: they live in a vector.
  for (const io::SafetensorsEntry& entry : shards_.back().entries()) {
    const auto [other, fresh] = tensors_.try_emplace(entry.name, TensorRef{&entry, shard});
    if (!fresh) {
      return {StatusCode::kData, place({&entry, shard}) + "expected in one shard, got it in " +
                                     io::quote_text(shard_names_[other->second.shard]) + " too"};
    }
    data_bytes_ += entry.size_bytes();
  }
  return {};
}

TensorRef ModelFiles::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? TensorRef{} : found->second;
}

std::string ModelFiles::place(const TensorRef& tensor) const {
  return shards_[tensor.shard].path() + ": tensor " + io::quote_text(tensor.entry->name) + ": ";
}

}  // namespace halfbyte::checkpoint
