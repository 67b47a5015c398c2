// A file that appears under its name only when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "halfbyte/base/status.h"

namespace halfbyte::io {

// Bytes go to `.<name>.tmp-<pid>-<n>` in the target's folder; commit() renames it; discard() or the
// destructor removes it. A killed process leaves at most that file, which the next create() for the
// same target removes: the owner holds a lock (flock) on it as long as it lives.
class AtomicFile {
 public:
  // A target that is a symbolic link is replaced, not followed. Errors (kIo): the system refuses;
  // the target is not a regular file, or exists and overwrite is false.
  static base::Result<AtomicFile> create(const std::string& path, bool overwrite);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile() { discard(); }

  const std::string& path() const { return path_; }
  // Appends. kIo with the system's reason; the caller then discards.
  base::Status write(const std::byte* data, std::size_t bytes);
  // At a byte offset; from several threads at once.
  base::Status write_at(std::int64_t offset, std::span<const std::byte> bytes) const;
  // Flushes to the disk, renames; `overwrite` is checked again. On an error the file is removed.
  base::Status commit();
  void discard();

 private:
  AtomicFile(std::string path, bool overwrite) : path_(std::move(path)), overwrite_(overwrite) {}
  base::Status open_temporary();

  std::string path_;
  std::string temporary_;  // empty once renamed or removed
  int fd_ = -1;
  bool overwrite_ = true;
};

}  // namespace halfbyte::io
