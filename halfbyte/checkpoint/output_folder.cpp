#include "halfbyte/checkpoint/output_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::Result;
using base::Status;
using base::StatusCode;

Status io_status(const fs::path& path, const std::string& what, const std::error_code& error) {
  return {StatusCode::kIo, path.string() + ": " + what + ": " + error.message()};
}

// "OUT/" and "OUT" are one target.
fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

fs::path beside(const fs::path& target, const char* role) {
  const std::string name = target.filename().string();
  return target.parent_path() / ("." + name + "." + role + "-" + std::to_string(::getpid()));
}

Status check_replaceable(const fs::path& target, bool overwrite) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(target, error))) return {};
  const std::string name = target.string();
  if (!overwrite) {
    return base::invalid_argument(name, "a path that does not exist (--force replaces it)",
                                  "one that does");
  }
  if (!fs::is_directory(target, error)) return base::invalid_argument(name, "a folder", "a file");
  if (!fs::is_empty(target, error) && !fs::exists(target / "config.json", error)) {
    return base::invalid_argument(name, "a checkpoint folder or an empty one to replace",
                                  "a folder without config.json");
  }
  return {};
}

}  // namespace

OutputFolder::OutputFolder(fs::path target, fs::path staging, bool overwrite)
    : target_(std::move(target)), staging_(std::move(staging)), overwrite_(overwrite) {}

OutputFolder::OutputFolder(OutputFolder&& other) noexcept
    : target_(std::move(other.target_)),
      staging_(std::exchange(other.staging_, {})),
      overwrite_(other.overwrite_) {}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
}

Result<OutputFolder> OutputFolder::create(const fs::path& path, bool overwrite) {
  const fs::path target = without_trailing_slash(path);
  HALFBYTE_RETURN_IF_ERROR(check_replaceable(target, overwrite));
  const fs::path staging = beside(target, "tmp");
  std::error_code error;
  fs::remove_all(staging, error);  // of a killed run that had our process id
  if (!fs::create_directory(staging, error)) return io_status(path, "cannot create", error);
  return OutputFolder(target, staging, overwrite);
}

Status OutputFolder::copy_files(const fs::path& source,
                                const std::function<bool(const fs::path&)>& skip) {
  std::error_code error;
  fs::recursive_directory_iterator it(source, fs::directory_options::none, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const fs::path relative = it->path().lexically_relative(source);
    if (it->path().filename().string().front() == '.') {
      it.disable_recursion_pending();
      continue;
    }
    if (skip(relative)) continue;
    std::error_code failed;
    if (it->is_directory(failed)) {
      fs::create_directories(staging_ / relative, failed);
    } else if (it->is_regular_file(failed)) {  // the file behind a link: model hubs keep links
      fs::copy_file(it->path(), staging_ / relative, failed);
    }
    if (failed) return io_status(it->path(), "cannot copy", failed);
  }
  return error ? io_status(source, "cannot list", error) : Status();
}

Status OutputFolder::write_text(const std::string& name, const std::string& text) {
  std::ofstream file(staging_ / name, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (file) return {};
  return io_status(staging_ / name, "cannot write", {errno, std::generic_category()});
}

Status OutputFolder::commit() {
  HALFBYTE_RETURN_IF_ERROR(check_replaceable(target_, overwrite_));
  std::error_code error;
  const fs::path old = beside(target_, "old");
  const bool replaces = fs::exists(target_, error);
  if (replaces) {
    fs::rename(target_, old, error);
    if (error) return io_status(target_, "cannot move aside", error);
  }
  fs::rename(staging_, target_, error);
  if (error) {
    std::error_code ignored;
    if (replaces) fs::rename(old, target_, ignored);
    return io_status(target_, "cannot rename " + staging_.string(), error);
  }
  staging_.clear();
  fs::remove_all(old, error);  // what is left of it is hidden and harmless
  return {};
}

Result<std::string> read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_status(path, "cannot open", {errno, std::generic_category()});
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) return io_status(path, "cannot read", {errno, std::generic_category()});
  return text;
}

}  // namespace halfbyte::checkpoint
