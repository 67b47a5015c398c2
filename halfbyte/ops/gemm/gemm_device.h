// What the plans of this room ask of a CUDA device.
#pragma once

#include <string>

namespace halfbyte::ops {

struct GemmDevice {
  int compute_capability = 90;
  int multiprocessors = 132;
  int shared_bytes = 227 * 1024;  // of a block, at most
  std::string cublaslt;           // why it is not there; empty: it is
  bool has_sm_90a = true;         // this build has code for it
};

}  // namespace halfbyte::ops
