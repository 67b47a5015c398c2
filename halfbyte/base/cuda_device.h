// What CUDA this build and this machine have. Answers in every build; without CUDA the answer is
// "none" and why.
#pragma once

#include <string>
#include <vector>

#include "halfbyte/base/status.h"

namespace halfbyte::base {

struct CudaDevice {
  int index = 0;
  std::string name;
  int compute_capability = 0;  // 90 for sm_90
  int multiprocessors = 0;
};

bool built_with_cuda();
std::string compiled_cuda_architectures();  // "80,90a", empty without CUDA

// The devices of this machine; an error says why there are none (not built, no driver, no GPU).
Result<std::vector<CudaDevice>> cuda_devices();

}  // namespace halfbyte::base
