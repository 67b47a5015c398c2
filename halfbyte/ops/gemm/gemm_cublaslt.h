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

// The type of A and B. kE4m3: sm_89 on, k and n multiples of 16. kNvfp4: sm_100 on, multiples of
// 32; E2M1 codes with E4M3 scales of 16, in layout 128x4, of which the sign is ignored.
enum class Input { kBF16, kF16, kE4m3, kNvfp4 };

// D[m, n] = alpha * A[m, k] * B[n, k]^T in fp32 sums, rows of A and B dense, those of D `stride`
// elements apart.
struct Matmul {
  std::int64_t m = 0, n = 0, k = 0, stride = 0;
  Input input = Input::kBF16;
  base::DType output = base::DType::kBF16;  // of D: bf16, fp16 or fp32
  const void* a = nullptr;
  const void* b = nullptr;
  void* d = nullptr;
  // kNvfp4: the block scales, 16-byte aligned. kE4m3: fp32 factors of the rows of A [m] and B [n],
  // on sm_90; or neither. Else absent.
  const void* a_scales = nullptr;
  const void* b_scales = nullptr;
  const float* alpha = nullptr;  // device memory: the factor, then 0; nullptr: 1
  void* workspace = nullptr;     // kWorkspaceBytes
};
// On the current device.
base::Status matmul(const Matmul& problem, void* stream);
// Whether the library takes the description of such a product: needs no device, runs nothing.
base::Status describes(const Matmul& problem);

}  // namespace halfbyte::ops::cublaslt
