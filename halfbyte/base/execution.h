// How a call runs: which implementation, how many threads, on which stream.
#pragma once

#include <cstddef>
#include <optional>

#include "halfbyte/base/cpu_level.h"

namespace halfbyte::base {

// The values are part of the C ABI.
enum class Backend : int {
  kAuto = 0,       // by the tensors' device, the fastest implementation there
  kReference = 1,  // the naive loops (CPU tensors)
  kCpu = 2,        // the SIMD kernel (CPU tensors)
  kCuda = 3,       // the CUDA kernel (CUDA tensors)
};

struct Execution {
  Backend backend = Backend::kAuto;
  int num_threads = 0;                // CPU threads; 0: all that OpenMP gives
  std::optional<CpuLevel> cpu_level;  // CPU level to use; default_cpu_level() if not given
  void* stream = nullptr;             // cudaStream_t
  // Scratch in device memory for scale = computed on CUDA: kComputedWorkspaceBytes, 4-aligned.
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;

  // CUDA, sm_90 and later; without effect elsewhere. Programmatic dependent launch: the kernel may
  // start while the one before it on the stream still runs, and waits for it before it reads or
  // writes any tensor. constant_weights: nothing on the stream writes the weight, so that it may be
  // fetched before that wait.
  bool programmatic_launch = false;
  bool constant_weights = false;
};

inline constexpr std::size_t kComputedWorkspaceBytes = 4;

}  // namespace halfbyte::base
