// A matrix of floats inside a stored tensor: a weight, or one expert's part of a stack of them.
#pragma once

#include <cstdint>
#include <span>

#include "halfbyte/base/dtype.h"
#include "halfbyte/checkpoint/model_files.h"

namespace halfbyte::checkpoint {

// [rows, columns]; element (n, k) lies at first + n * row_stride + k * column_stride. No alignment.
struct MatrixSource {
  TensorRef tensor;
  base::DType dtype = base::DType::kF32;  // fp32, fp16 or bf16
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t first = 0;
  std::int64_t row_stride = 0;
  std::int64_t column_stride = 1;

  bool dense() const { return column_stride == 1 && row_stride == columns; }
};

// A whole 2-D tensor (or any other, as one matrix of its last dimension's rows).
MatrixSource matrix_of(const TensorRef& tensor);

// Rows [begin, begin + count) to `out`, dense, the source's type; `out` aligned for it.
void gather_rows(const MatrixSource& source, std::int64_t begin, std::int64_t count, void* out);
// Gives the pages of those rows back to the system, where they lie together.
void release_rows(const MatrixSource& source, std::int64_t begin, std::int64_t count);

// `out` [columns, rows] of `in` [rows, columns]; elements of 1, 2 or 4 bytes.
void transpose(const void* in, std::int64_t rows, std::int64_t columns, int element_bytes,
               void* out);

// `count` floats of any of the three types to fp32; `data` aligned.
void to_float(base::DType dtype, const void* data, std::int64_t count, float* out);
// And back, rounding to nearest even.
void from_float(const float* data, std::int64_t count, base::DType dtype, void* out);

// Rows that make a piece of work: about 2 MiB of `row_bytes`.
std::int64_t rows_per_piece(std::int64_t row_bytes);

}  // namespace halfbyte::checkpoint
