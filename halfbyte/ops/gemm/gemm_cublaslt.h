// cuBLASLt, loaded at the first use: without it everything else still works.
#pragma once

#include <cstddef>
#include <cstdint>

#include "halfbyte/base/dtype.h"
#include "halfbyte/base/status.h"

namespace halfbyte::ops::cublaslt {

inline constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

// Whether the library (major version of the headers) can be loaded; the error says what was tried.
base::Status available();

// D[m, n] = alpha * A[m, k] * B[n, k]^T in fp32 sums, rows of A and B dense, those of D `stride`
// elements apart.
struct Matmul {
  std::int64_t m = 0, n = 0, k = 0, stride = 0;
  base::DType input = base::DType::kBF16;   // of A and B: bf16 or fp16
  base::DType output = base::DType::kBF16;  // of D: bf16, fp16 or fp32
  const void* a = nullptr;
  const void* b = nullptr;
  void* d = nullptr;
  const float* alpha = nullptr;  // device memory: the factor, then 0
  void* workspace = nullptr;     // kWorkspaceBytes
};
// On the current device.
base::Status matmul(const Matmul& problem, void* stream);

}  // namespace halfbyte::ops::cublaslt
