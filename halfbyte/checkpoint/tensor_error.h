// How far a quantized tensor is from the one it was made of.
#pragma once

#include <cstdint>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/packed_tensor.h"

namespace halfbyte::checkpoint {

// Sums over all elements, in fp64; the same for any number of threads.
struct TensorError {
  std::int64_t elements = 0;
  std::int64_t zero_codes = 0;  // elements whose code is +0 or -0
  double signal = 0;            // sum of x^2
  double noise = 0;             // sum of (x' - x)^2
  double max_abs = 0;           // largest |x' - x|

  // 10 log10(signal / noise); +Inf where nothing is lost.
  double sqnr_db() const;
  double zero_share() const;
};

// `packed` (FP4, its fp32 scale as stored) dequantized to fp32 against `original`, contiguous fp32,
// fp16 or bf16 [rows, columns]. CPU tensors.
base::Result<TensorError> tensor_error(const formats::PackedTensor& packed,
                                       const base::TensorView& original, int num_threads = 0);

}  // namespace halfbyte::checkpoint
