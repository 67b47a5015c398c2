#include "halfbyte/checkpoint/output_target.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <system_error>

#include "halfbyte/io/atomic_file.h"
#include "halfbyte/io/io_error.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::Result;
using base::Status;
using base::StatusCode;

// Weights that are not the input's safetensors shards: an engine could load them instead of ours.
constexpr const char* kOtherWeights[] = {"*.safetensors",  "*.safetensors.index.json",
                                         "pytorch_model*", "*.pth",
                                         "*.gguf",         "*.ckpt",
                                         "*.msgpack",      "*.h5",
                                         "*.onnx*"};

Status io_status(const fs::path& path, const std::string& what, const std::error_code& error) {
  return {StatusCode::kIo, path.string() + ": " + what + ": " + error.message()};
}

// "OUT/" and "OUT" are one target.
fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

fs::path folder_of(const fs::path& target) {
  return target.has_parent_path() ? target.parent_path() : fs::path(".");
}

// True if `inner` is `outer` or lies in it.
bool contains(const fs::path& outer, const fs::path& inner) {
  std::error_code error;
  const fs::path a = fs::weakly_canonical(fs::absolute(outer, error), error);
  const fs::path b = fs::weakly_canonical(fs::absolute(inner, error), error);
  const auto ends = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return ends.first == a.end() || (ends.first->empty() && std::next(ends.first) == a.end());
}

Status check_replaceable(const fs::path& target, bool folder, bool overwrite) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(target, error))) return {};
  const std::string name = target.string();
  if (!overwrite) {
    return base::invalid_argument(name, "a path that does not exist (--force replaces it)",
                                  "one that does");
  }
  if (fs::is_directory(target, error) != folder) {
    return base::invalid_argument(name, folder ? "a folder" : "a file",
                                  folder ? "a file" : "a folder");
  }
  if (folder && !fs::is_empty(target, error) && !fs::exists(target / kConfigFile, error)) {
    return base::invalid_argument(name, "a checkpoint folder or an empty one to replace",
                                  "a folder without config.json");
  }
  return {};
}

// The folder's descriptor with its lock, or -1 where another process holds it.
int lock_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -1;
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

std::string staging_prefix(const fs::path& target) {
  std::string prefix = ".";
  return prefix.append(target.filename().string()).append(".tmp-");
}

// Removes the staging folders that killed runs left behind.
void remove_stale(const fs::path& target) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_of(target), ignored)) {
    if (!entry.path().filename().string().starts_with(staging_prefix(target))) continue;
    const int fd = lock_folder(entry.path());
    if (fd < 0) continue;
    fs::remove_all(entry.path(), ignored);
    ::close(fd);
  }
}

bool is_other_weights(const fs::path& path) {
  const std::string name = path.filename().string();
  return std::any_of(std::begin(kOtherWeights), std::end(kOtherWeights),
                     [&](const char* pattern) { return ::fnmatch(pattern, name.c_str(), 0) == 0; });
}

struct OtherFiles {
  std::vector<fs::path> folders, files;  // relative
  std::vector<std::string> left_out;     // weights in other formats
  std::int64_t bytes = 0;
};

Result<OtherFiles> other_files(const ModelFiles& in) {
  OtherFiles found;
  const auto& shards = in.shard_names();
  std::error_code error;
  fs::recursive_directory_iterator it(in.path(), fs::directory_options::none, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const fs::path relative = it->path().lexically_relative(in.path());
    const std::string name = it->path().filename().string();
    std::error_code failed;
    if (name.front() == '.') {
      it.disable_recursion_pending();
    } else if (it->is_directory(failed)) {
      found.folders.push_back(relative);
    } else if (it->is_regular_file(failed)) {  // also behind a link: model hubs keep links
      const std::string path = relative.string();
      const bool written = path == kConfigFile || path == kIndexFile || path == kModelOptFile ||
                           std::find(shards.begin(), shards.end(), path) != shards.end();
      if (written || path.starts_with("activations.")) continue;
      if (is_other_weights(relative)) {
        found.left_out.push_back(path);
      } else {
        found.files.push_back(relative);
        found.bytes += static_cast<std::int64_t>(it->file_size(failed));
      }
    }
    if (failed) return io_status(it->path(), "cannot look at", failed);
  }
  if (error) return io_status(in.path(), "cannot list", error);
  return found;
}

void sync_path(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

OutputTarget::OutputTarget(OutputTarget&& other) noexcept
    : in_(other.in_),
      target_(std::move(other.target_)),
      staging_(std::exchange(other.staging_, {})),
      lock_(std::exchange(other.lock_, -1)),
      overwrite_(other.overwrite_) {}

OutputTarget::~OutputTarget() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

Result<OutputTarget> OutputTarget::create(const ModelFiles& in, const fs::path& out,
                                          bool overwrite) {
  if (contains(out, in.path()) || contains(in.path(), out)) {
    return base::invalid_argument("output " + out.string(), "a path apart from the input",
                                  in.path().string());
  }
  OutputTarget target(in, without_trailing_slash(out), overwrite);
  HALFBYTE_RETURN_IF_ERROR(check_replaceable(target.target_, in.is_folder(), overwrite));
  if (in.is_folder()) HALFBYTE_RETURN_IF_ERROR(target.create_staging());
  return target;
}

Status OutputTarget::create_staging() {
  remove_stale(target_);
  const fs::path staging =
      folder_of(target_) / (staging_prefix(target_) + std::to_string(::getpid()));
  std::error_code error;
  constexpr int kAttempts = 3;  // another run may take the new folder for a stale one
  for (int i = 0; i < kAttempts; ++i) {
    if (!fs::create_directory(staging, error)) {
      return io_status(target_, "cannot create",
                       error ? error : std::make_error_code(std::errc::file_exists));
    }
    lock_ = lock_folder(staging);
    struct stat info {};
    if (lock_ >= 0 && ::fstat(lock_, &info) == 0 && info.st_nlink > 0) {
      staging_ = staging;
      return {};
    }
    if (lock_ >= 0) ::close(std::exchange(lock_, -1));
    fs::remove_all(staging, error);
  }
  return {StatusCode::kIo, staging.string() + ": cannot lock"};
}

Status OutputTarget::check_space(std::int64_t bytes) const {
  if (in_->is_folder()) {
    const Result<OtherFiles> others = other_files(*in_);
    if (!others.ok()) return others.status();
    bytes += others.value().bytes;
  }
  struct statvfs info {};
  const fs::path folder = folder_of(target_);
  if (::statvfs(folder.c_str(), &info) != 0) return {};  // unknown: the writes will tell
  const auto free =
      static_cast<std::int64_t>(info.f_bavail) * static_cast<std::int64_t>(info.f_frsize);
  if (bytes <= free) return {};
  return {StatusCode::kIo, target_.string() + ": disk space: expected at least " +
                               std::to_string(bytes) + " bytes free, got " + std::to_string(free)};
}

std::string OutputTarget::shard_path(const std::string& name) const {
  return staging_.empty() ? target_.string() : (staging_ / name).string();
}

Result<std::vector<std::string>> OutputTarget::copy_other_files() const {
  Result<OtherFiles> others = other_files(*in_);
  if (!others.ok()) return others.status();
  std::error_code error;
  for (const fs::path& folder : others.value().folders) {
    fs::create_directories(staging_ / folder, error);
    if (error) return io_status(staging_ / folder, "cannot create", error);
  }
  for (const fs::path& file : others.value().files) {
    fs::copy_file(in_->path() / file, staging_ / file, error);
    if (error) return io_status(in_->path() / file, "cannot copy", error);
    sync_path(staging_ / file);
  }
  for (auto folder = others.value().folders.rbegin(); folder != others.value().folders.rend();
       ++folder) {
    fs::remove(staging_ / *folder, error);  // those that hold nothing now; others are refused
  }
  return std::move(others.value().left_out);
}

Status OutputTarget::write_text(const std::string& name, const std::string& text) const {
  auto file = io::AtomicFile::create((staging_ / name).string(), false);
  if (!file.ok()) return file.status();
  HALFBYTE_RETURN_IF_ERROR(
      file.value().write(reinterpret_cast<const std::byte*>(text.data()), text.size()));
  return file.value().commit();
}

Status OutputTarget::commit() {
  if (staging_.empty()) return {};
  HALFBYTE_RETURN_IF_ERROR(check_replaceable(target_, true, overwrite_));
  const char* from = staging_.c_str();
  const char* to = target_.c_str();
  std::error_code ignored;
  const bool replaces = fs::exists(target_, ignored);
  int error = 0;
  if (replaces && ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) != 0) {
    // A file system that cannot exchange: for a moment the name does not exist.
    const fs::path old = staging_.string() + ".old";
    error = ::rename(to, old.c_str()) != 0 ? errno : 0;
    if (error == 0 && ::rename(from, to) != 0) {
      error = errno;
      ::rename(old.c_str(), to);
    } else if (error == 0) {
      ::rename(old.c_str(), from);
    }
  } else if (!replaces && ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) != 0) {
    error = ::rename(from, to) != 0 ? errno : 0;
  }
  if (error != 0)
    return io::io_error(target_.string(), "cannot rename " + staging_.string(), error);
  sync_path(folder_of(target_));
  if (replaces) fs::remove_all(staging_, ignored);  // what was there before
  staging_.clear();
  return {};
}

}  // namespace halfbyte::checkpoint
