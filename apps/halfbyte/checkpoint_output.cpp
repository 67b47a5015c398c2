#include "apps/halfbyte/checkpoint_output.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cmath>
#include <fstream>
#include <string>

namespace halfbyte::app {

std::string sqnr_text(double sqnr_db) {
  return std::isfinite(sqnr_db) ? fmt::format("{:.2f}", sqnr_db)
         : sqnr_db > 0          ? "exact"
                                : fmt::format("{}", sqnr_db);
}

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json error_json(const checkpoint::TensorError& error) {
  return {{"sqnr_db", number_or_null(error.sqnr_db())},
          {"max_abs_error", number_or_null(error.max_abs)},
          {"max_relative_error", number_or_null(error.max_relative)}};
}

double Meter::seconds() const {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
  return passed.count();
}

std::int64_t Meter::peak_bytes() {
  // Not getrusage() where it can be helped: that counts what the parent had before exec, too.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  }
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::string Meter::text(std::int64_t bytes) const {
  const double passed = seconds();
  return fmt::format("{:.2f} s, {:.0f} MB/s, peak memory {}", passed,
                     static_cast<double>(bytes) / 1e6 / passed, bytes_text(peak_bytes()));
}

void Meter::add_to(Json& json, std::int64_t bytes) const {
  const double passed = seconds();
  json["seconds"] = passed;
  json["mb_per_s"] = static_cast<double>(bytes) / 1e6 / passed;
  json["peak_memory_bytes"] = peak_bytes();
}

}  // namespace halfbyte::app
