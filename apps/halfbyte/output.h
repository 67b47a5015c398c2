// What every command prints: errors, tables, JSON, progress; and the exit codes.
#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"

namespace halfbyte::app {

using Json = nlohmann::ordered_json;

enum ExitCode : int {
  kExitOk = 0,
  kExitData = 1,   // files, their contents, the machine
  kExitUsage = 2,  // arguments: options, keys, tensors that an operator does not take
};

// kInvalidArgument is a usage error, everything else is not.
ExitCode exit_code(const base::Status& status);

// "halfbyte: error: <message>" on stderr; returns the exit code.
ExitCode print_error(ExitCode code, const std::string& message);
ExitCode print_error(const base::Status& status);
// "halfbyte: warning: <message>" on stderr.
void print_warning(const std::string& message);

// The document of a reporting command: {"schema": 1, ...}. JSON has no infinity: it becomes null.
Json report_json();
std::string json_text(const Json& json);

// Writes a whole file under a temporary name, then renames it. Errors: kIo.
base::Status write_text_file(const std::string& path, const std::string& text);

// Columns as wide as their widest cell; the first is left-aligned, the others right-aligned. The
// header is bold on a terminal unless NO_COLOR is set.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void print(std::FILE* file) const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// "1.2 MB", decimal.
std::string bytes_text(std::int64_t bytes);

// A bar on stderr, redrawn in place; nothing unless stderr is a terminal. Its destructor erases it.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void update(std::int64_t done, std::int64_t total);

 private:
  std::string label_;
  bool visible_;
  int percent_ = -1;
};

}  // namespace halfbyte::app
