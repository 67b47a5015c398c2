// Which implementation a call runs, from its Execution and the tensors' device.
#pragma once

#include <cstddef>

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

// One entry of a room's ordered list of CPU implementations, which ends in the reference.
template <class Kernel>
struct LevelKernel {
  base::CpuLevel level;
  Kernel kernel;
};

// The kernel of a level, the reference's where the room has none.
template <class Kernel, std::size_t kCount>
Kernel kernel_of(const LevelKernel<Kernel> (&list)[kCount], base::CpuLevel level) {
  for (const LevelKernel<Kernel>& entry : list) {
    if (entry.level == level) return entry.kernel;
  }
  return list[kCount - 1].kernel;
}

// The workspace that scale = computed needs on CUDA.
base::Status check_workspace(const base::Execution& execution);

}  // namespace halfbyte::ops
