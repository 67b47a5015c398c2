// What method = fp8 makes of its operands, on the device: E4M3 rows and fp32 factors.
#pragma once

#include <cstdint>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops::cuda {

// Rows of K bytes, one after another, 16-byte aligned; a row's values times its factor are the
// operand's, rounded.
struct Fp8Rows {
  std::int64_t rows = 0;  // those past the operand's become zero
  std::uint8_t* codes = nullptr;
  float* factors = nullptr;
};

// Each a launch; the status is simt::launch_status's.
base::Status launch_fp8_weights(const GemmProblem& problem, const Fp8Rows& to, int multiprocessors,
                                void* stream);
base::Status launch_fp8_activations(const GemmProblem& problem, const Fp8Rows& to, void* stream);

// `launch_fp8_weights` where they are prepared: `to` has a multiple of 16 rows.
base::Status launch_fp8_prepared(const GemmProblem& problem, const Fp8Rows& to, int multiprocessors,
                                 void* stream);
// `launch_fp8_activations` where A has 16 bits.
base::Status launch_fp8_values(const GemmProblem& problem, const Fp8Rows& to, void* stream);

}  // namespace halfbyte::ops::cuda
