// What the plans of this room ask of a CUDA device.
#pragma once

#include <cstdint>
#include <string>

namespace halfbyte::ops {

// Of the plans' small numbers.
constexpr int ceil_div(std::int64_t value, std::int64_t by) {
  return static_cast<int>((value + by - 1) / by);
}
constexpr int round_up(int value, int multiple) { return ceil_div(value, multiple) * multiple; }

struct GemmDevice {
  int compute_capability = 90;
  int multiprocessors = 132;
  int shared_bytes = 227 * 1024;  // of a block, at most
  std::string cublaslt;           // why it is not there; empty: it is
  bool has_sm_90a = true;         // this build has code for it
};

}  // namespace halfbyte::ops
