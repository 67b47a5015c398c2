#include "halfbyte/io/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "halfbyte/io/io_error.h"

namespace halfbyte::io {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;

// The folder of `path` with its final '/', or "" for the current one.
std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

// Makes a rename durable. The file is already in place, and not every file system can sync a
// folder, so a refusal is not an error.
void sync_folder(const std::string& path) {
  const std::string folder = folder_of(path);
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

// Renames unless the target exists; 0 or an errno.
int rename_new(const char* from, const char* to) {
  if (::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A file system without RENAME_NOREPLACE: link() refuses an existing target as well.
  if (::link(from, to) != 0) return errno;
  ::unlink(from);
  return 0;
}

// Removes the temporary files that start with `prefix` and that nobody holds a lock on.
void remove_stale(const std::string& folder, const std::string& prefix) {
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(folder.empty() ? "." : folder, ignored)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    const int fd = ::open(entry.path().c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(entry.path().c_str());
    ::close(fd);
  }
}

}  // namespace

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::exchange(other.fd_, -1)),
      overwrite_(other.overwrite_) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  discard();
  path_ = std::move(other.path_);
  temporary_ = std::exchange(other.temporary_, {});
  fd_ = std::exchange(other.fd_, -1);
  overwrite_ = other.overwrite_;
  return *this;
}

Result<AtomicFile> AtomicFile::create(const std::string& path, bool overwrite) {
  AtomicFile file(path, overwrite);
  HALFBYTE_RETURN_IF_ERROR(file.open_temporary());
  return file;
}

Status AtomicFile::open_temporary() {
  constexpr std::size_t kBaseBytes = 200;  // leaves room for the suffix within NAME_MAX
  constexpr int kAttempts = 100;           // names that other processes hold
  const std::string base = path_.substr(folder_of(path_).size(), kBaseBytes);
  if (base.empty()) return {StatusCode::kIo, path_ + ": expected the name of a file"};
  struct stat info {};
  if (::stat(path_.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return {StatusCode::kIo, path_ + ": the target exists and is not a regular file"};
    }
    if (!overwrite_) return io_error(path_, "overwrite is off", EEXIST);
  }
  remove_stale(folder_of(path_), "." + base + ".tmp-");
  static std::atomic<unsigned> counter{0};
  std::string name;
  int error = EEXIST;
  for (int i = 0; i < kAttempts && error == EEXIST; ++i) {
    name = folder_of(path_) + "." + base + ".tmp-" + std::to_string(::getpid()) + "-" +
           std::to_string(counter++);
    fd_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) {
      error = errno;
      continue;
    }
    // Where locks are refused the file is merely never taken for a stale one's owner. Another
    // process may have removed the file between open and lock: then it has no name any more.
    ::flock(fd_, LOCK_EX | LOCK_NB);
    if (::fstat(fd_, &info) == 0 && info.st_nlink > 0) {
      temporary_ = name;
      return {};
    }
    ::close(std::exchange(fd_, -1));
  }
  return io_error(path_, "cannot create " + name, error);
}

void AtomicFile::discard() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Status AtomicFile::write(const std::byte* data, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t count = ::write(fd_, data, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return io_error(path_, "cannot write", count < 0 ? errno : EIO);
    data += count;
    bytes -= static_cast<std::size_t>(count);
  }
  return {};
}

Status AtomicFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return io_error(path_, "cannot write", count < 0 ? errno : EIO);
    offset += count;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Status AtomicFile::commit() {
  const auto fail = [&](const std::string& what, int error) {
    discard();
    return io_error(path_, what, error);
  };
  // Network file systems report a full disk as late as here. The lock is kept until the rename.
  if (::fsync(fd_) != 0) return fail("cannot sync", errno);
  const char* from = temporary_.c_str();
  const char* to = path_.c_str();
  const int error = !overwrite_ ? rename_new(from, to) : ::rename(from, to) != 0 ? errno : 0;
  if (error != 0) return fail("cannot rename " + temporary_, error);
  temporary_.clear();
  ::close(std::exchange(fd_, -1));  // the data was synced: nothing is left to fail
  sync_folder(path_);
  return {};
}

}  // namespace halfbyte::io
