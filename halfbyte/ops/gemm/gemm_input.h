// A as the SIMD kernels take it: unpacked once a call, some rows at a time, for all threads.
// Internal.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops {

// What the integer dot products add to a weight to make it unsigned: 2 * e2m1 + 12 is 0 to 24.
inline constexpr int kWeightOffset = 12;

// The kernels take several rows of A at once, and want what those have of a column side by side: in
// all of these arrays `together` rows of a group alternate, element by element (of codes: four by
// four), and groups follow one another. Rows are those from first_row on. Quantized: 2 * e2m1 as
// int8, of eight columns the even ones and then the odd ones (as the nibbles of a word of weights
// come apart); a block's correction is -12 times its sum. Else fp32 values in order.
struct GemmInput {
  std::int64_t first_row = 0, rows = 0;
  std::int64_t together = 1;
  const std::int8_t* codes = nullptr;         // rows * k
  const std::int32_t* corrections = nullptr;  // rows * blocks
  // NVFP4: S / 4 * 2^120 (the inverse of kNvfp4StageFactor), rows * blocks. MXFP4: 2^e / 4 in two
  // factors of about half the exponent, first those of floor(e / 2), then those of the rest: rows *
  // 2 * blocks.
  const float* scales = nullptr;
  const float* values = nullptr;  // rows * k
  bool vnni = false;              // the processor has AVX-512 VNNI
};

class GemmInputBuffer {
 public:
  // The rows that are unpacked at a time: what a cache holds of them, and enough to share the work
  // on the weights; never more than most_rows.
  GemmInputBuffer(const GemmProblem& problem, int together,
                  std::int64_t most_rows = std::numeric_limits<std::int64_t>::max());
  std::int64_t rows_at_once() const { return rows_at_once_; }

  // Rows from `first_row` on, at most rows_at_once(). Valid until the next call.
  const GemmInput& unpack(std::int64_t first_row, int num_threads);

 private:
  const GemmProblem& problem_;
  std::int64_t rows_at_once_;
  GemmInput input_;
  std::vector<std::int8_t> codes_;
  std::vector<std::int32_t> corrections_;
  std::vector<float> floats_;
};

}  // namespace halfbyte::ops
