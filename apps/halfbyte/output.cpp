#include "apps/halfbyte/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace halfbyte::app {
namespace {

bool is_terminal(std::FILE* file) { return isatty(fileno(file)) == 1; }

// https://no-color.org: set and not empty.
bool has_color(std::FILE* file) {
  const char* no_color = std::getenv("NO_COLOR");
  return is_terminal(file) && (no_color == nullptr || *no_color == '\0');
}

std::string prefix(const char* kind, const char* color) {
  if (!has_color(stderr)) return fmt::format("halfbyte: {}: ", kind);
  return fmt::format("halfbyte: \033[1;{}m{}:\033[0m ", color, kind);
}

// Bytes that start a code point: what a terminal shows one column for, near enough.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

ExitCode exit_code(const base::Status& status) {
  if (status.ok()) return kExitOk;
  return status.code() == base::StatusCode::kInvalidArgument ? kExitUsage : kExitData;
}

ExitCode print_error(ExitCode code, const std::string& message) {
  std::fflush(stdout);
  fmt::print(stderr, "{}{}\n", prefix("error", "31"), message);
  return code;
}

ExitCode print_error(const base::Status& status) {
  return print_error(exit_code(status), status.message());
}

void print_warning(const std::string& message) {
  fmt::print(stderr, "{}{}\n", prefix("warning", "33"), message);
}

Json report_json() { return {{"schema", 1}, {"halfbyte", HALFBYTE_VERSION}}; }

std::string json_text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

base::Status write_text_file(const std::string& path, const std::string& text) {
  const std::string temporary = fmt::format("{}.tmp-{}", path, getpid());
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file != nullptr) written = std::fclose(file) == 0 && written;
  if (written && std::rename(temporary.c_str(), path.c_str()) == 0) return {};
  const int error = errno;
  std::remove(temporary.c_str());
  return {base::StatusCode::kIo, path + ": cannot write: " + std::strerror(error)};
}

void Table::print(std::FILE* file) const {
  std::vector<std::size_t> widths;
  for (const std::string& cell : header_) widths.push_back(width(cell));
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  const auto line = [&](const std::vector<std::string>& row) {
    std::string text;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - width(row[i]), ' ');
      text += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    return text;
  };
  const bool color = has_color(file);
  fmt::print(file, "{}{}{}\n", color ? "\033[1m" : "", line(header_), color ? "\033[0m" : "");
  for (const auto& row : rows_) fmt::print(file, "{}\n", line(row));
}

std::string bytes_text(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes >= 1'000'000'000) return fmt::format("{:.2f} GB", value / 1e9);
  if (bytes >= 1'000'000) return fmt::format("{:.2f} MB", value / 1e6);
  if (bytes >= 1'000) return fmt::format("{:.1f} kB", value / 1e3);
  return fmt::format("{} B", bytes);
}

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), visible_(is_terminal(stderr)) {}

ProgressBar::~ProgressBar() {
  if (visible_ && percent_ >= 0) fmt::print(stderr, "\r\033[K");
}

void ProgressBar::update(std::int64_t done, std::int64_t total) {
  const int percent = total > 0 ? static_cast<int>(done * 100 / total) : 100;
  if (!visible_ || percent == percent_) return;
  percent_ = percent;
  constexpr int kWidth = 40;
  const auto filled = static_cast<std::size_t>(percent * kWidth / 100);
  fmt::print(stderr, "\r{} [{}{}] {:3d}%", label_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), percent);
  std::fflush(stderr);
}

}  // namespace halfbyte::app
