// A as the SIMD kernels take it: unpacked once a call, shared by all threads. Internal.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops {

// What the integer dot products add to a weight to make it unsigned: 2 * e2m1 + 12 is 0 to 24.
inline constexpr int kWeightOffset = 12;

// Row m of A. Quantized: 2 * e2m1 as int8, of eight columns the even ones and then the odd ones (as
// the nibbles of a word of weights come apart); a block's correction is -12 times its sum. Else
// fp32 values in order.
struct GemmInput {
  const std::int8_t* codes = nullptr;         // m * k
  const std::int32_t* corrections = nullptr;  // m * blocks
  // NVFP4: S / 4, m * blocks. MXFP4: 2^e / 4 in two factors of about half the exponent, first those
  // of floor(e / 2), then those of the rest: m * 2 * blocks.
  const float* scales = nullptr;
  const float* values = nullptr;  // m * k
  bool vnni = false;              // the processor has AVX-512 VNNI
};

class GemmInputBuffer {
 public:
  GemmInputBuffer(const GemmProblem& problem, int num_threads);
  const GemmInput& input() const { return input_; }

 private:
  GemmInput input_;
  std::vector<std::int8_t> codes_;
  std::vector<std::int32_t> corrections_;
  std::vector<float> floats_;
};

}  // namespace halfbyte::ops
