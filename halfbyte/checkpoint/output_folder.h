// A checkpoint folder that appears under its name only when it is complete.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "halfbyte/base/status.h"

namespace halfbyte::checkpoint {

// Files go to `.<name>.tmp-<pid>` beside the target; commit() renames it. Without commit() the
// destructor removes it. A killed process leaves at most that folder.
class OutputFolder {
 public:
  // Errors: kInvalidArgument for a target that exists while `overwrite` is off, that is not a
  // folder, or that is neither empty nor a checkpoint (has no config.json: it is never deleted);
  // kIo when the system refuses.
  static base::Result<OutputFolder> create(const std::filesystem::path& target, bool overwrite);

  OutputFolder(OutputFolder&& other) noexcept;
  OutputFolder& operator=(OutputFolder&&) = delete;
  ~OutputFolder();

  const std::filesystem::path& path() const { return staging_; }
  // Copies the files of `source`, folders included, links followed, hidden ones left out, except
  // those that `skip` names (a path relative to `source`).
  base::Status copy_files(const std::filesystem::path& source,
                          const std::function<bool(const std::filesystem::path&)>& skip);
  base::Status write_text(const std::string& name, const std::string& text);
  base::Status commit();

 private:
  OutputFolder(std::filesystem::path target, std::filesystem::path staging, bool overwrite);
  std::filesystem::path target_;
  std::filesystem::path staging_;  // empty once renamed
  bool overwrite_;
};

// The whole of a text file. Errors: kIo.
base::Result<std::string> read_text(const std::filesystem::path& path);

}  // namespace halfbyte::checkpoint
