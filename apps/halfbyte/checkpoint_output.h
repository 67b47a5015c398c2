// What the commands on checkpoints print alike.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/tensor_error.h"

namespace halfbyte::app {

// "20.44", or "exact" where nothing is lost.
std::string sqnr_text(double sqnr_db);
// JSON has no infinity and no NaN: null.
Json number_or_null(double value);
// sqnr_db, max_abs_error, max_relative_error.
Json error_json(const checkpoint::TensorError& error);

// Time from its making, and the most memory that the process has had.
class Meter {
 public:
  double seconds() const;
  static std::int64_t peak_bytes();
  // "1.20 s, 840 MB/s, peak memory 61.20 MB"
  std::string text(std::int64_t bytes) const;
  // seconds, mb_per_s, peak_memory_bytes
  void add_to(Json& json, std::int64_t bytes) const;

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace halfbyte::app
