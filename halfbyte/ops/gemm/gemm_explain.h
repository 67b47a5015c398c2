// What gemm would do: for people, and for benchmarks that say what they time.
#pragma once

#include <string>

#include "halfbyte/ops/gemm/gemm.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops {

// The kernel that computes the product on its device, its numbers, and why that one. It depends on
// what gemm_workspace_bytes depends on; pointers may be null.
HALFBYTE_API base::Result<std::string> explain_gemm(const GemmArgs& args,
                                                    const base::Execution& execution = {});

namespace cuda {
base::Result<std::string> explain_gemm(const GemmProblem& problem, base::Device device);
}

}  // namespace halfbyte::ops
