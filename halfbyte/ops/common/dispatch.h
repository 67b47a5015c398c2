// Which implementation a call runs, from its Execution and the tensors' device.
#pragma once

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"

namespace halfbyte::ops {

struct Choice {
  bool cuda = false;
  base::CpuLevel cpu_level = base::CpuLevel::kReference;  // where not cuda
};

// Errors: a backend that does not fit the device, a CPU level that this machine lacks, a negative
// number of threads, CUDA tensors in a build without CUDA.
base::Result<Choice> choose_implementation(const base::Execution& execution, base::Device device);

// The workspace that scale = computed needs on CUDA.
base::Status check_workspace(const base::Execution& execution);

}  // namespace halfbyte::ops
