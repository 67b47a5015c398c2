// Where a checkpoint is written: a file or a folder that appears under its name only when it is
// complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/model_files.h"

namespace halfbyte::checkpoint {

// A folder is filled as `.<name>.tmp-<pid>` beside the target; commit() gives it the target's name,
// in one step where the file system can exchange two names. Without commit() the destructor removes
// it. A killed process leaves at most that folder, which the next run for the same target removes:
// the owner holds a lock (flock) on it as long as it lives. A single file is an io::AtomicFile.
class OutputTarget {
 public:
  // A counterpart of `in`: a folder if that is one. Errors: kInvalidArgument for the input itself,
  // a path inside it or above it; for a target that exists while `overwrite` is off, that is of the
  // other kind, or that is a folder neither empty nor a checkpoint (no config.json: it is never
  // deleted). kIo when the system refuses.
  static base::Result<OutputTarget> create(const ModelFiles& in, const std::filesystem::path& out,
                                           bool overwrite);

  OutputTarget(OutputTarget&& other) noexcept;
  OutputTarget& operator=(OutputTarget&&) = delete;
  ~OutputTarget();

  // kIo, with both figures, unless the file system has room for the shards (`bytes`) and the other
  // files.
  base::Status check_space(std::int64_t bytes) const;
  // Where to write a shard.
  std::string shard_path(const std::string& name) const;
  bool overwrite() const { return overwrite_; }
  // Copies the other files of the input folder, folders included, links followed; hidden files,
  // recordings (`activations.*`) and weights in other formats are left out. Returns the names of
  // those weights.
  base::Result<std::vector<std::string>> copy_other_files() const;
  base::Status write_text(const std::string& name, const std::string& text) const;
  base::Status commit();

 private:
  OutputTarget(const ModelFiles& in, std::filesystem::path target, bool overwrite)
      : in_(&in), target_(std::move(target)), overwrite_(overwrite) {}
  base::Status create_staging();

  const ModelFiles* in_;
  std::filesystem::path target_;
  std::filesystem::path staging_;  // empty for a file, and once renamed
  int lock_ = -1;                  // descriptor of the staging folder
  bool overwrite_;
};

}  // namespace halfbyte::checkpoint
