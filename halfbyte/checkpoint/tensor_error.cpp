#include "halfbyte/checkpoint/tensor_error.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::checkpoint {
namespace {

using base::DType;
using base::TensorView;

float element(const TensorView& view, std::int64_t index) {
  switch (view.dtype) {
    case DType::kBF16:
      return numerics::to_float(view.as<const numerics::Bf16>()[index]);
    case DType::kF16:
      return numerics::to_float(view.as<const numerics::Fp16>()[index]);
    default:
      return view.as<const float>()[index];
  }
}

// One row; `restored` and `codes` are that row's, `first` its first element in `original`.
TensorError row_error(const float* restored, const std::uint8_t* codes, const TensorView& original,
                      std::int64_t first, std::int64_t columns) {
  TensorError error;
  for (std::int64_t i = 0; i < columns; ++i) {
    const double x = element(original, first + i);
    const double difference = static_cast<double>(restored[i]) - x;
    error.signal += x * x;
    error.noise += difference * difference;
    error.max_abs = std::max(error.max_abs, std::fabs(difference));
  }
  for (std::int64_t i = 0; i < columns / 2; ++i) {
    error.zero_codes += ((codes[i] & 0x07) == 0) + ((codes[i] & 0x70) == 0);
  }
  return error;
}

}  // namespace

double TensorError::sqnr_db() const {
  if (noise == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(signal / noise);
}

double TensorError::zero_share() const {
  return elements == 0 ? 0 : static_cast<double>(zero_codes) / static_cast<double>(elements);
}

base::Result<TensorError> tensor_error(const formats::PackedTensor& packed,
                                       const TensorView& original, int num_threads) {
  const std::int64_t rows = packed.rows, columns = packed.columns;
  if (packed.format == formats::Format::kFp8) {
    return base::invalid_argument("packed", "nvfp4 or mxfp4", "fp8");
  }
  if (!base::is_float(original.dtype) || !original.is_contiguous() ||
      original.numel() != rows * columns) {
    return base::invalid_argument("original", "contiguous floats of the packed shape",
                                  base::shape_string(original));
  }
  std::vector<float> restored(static_cast<std::size_t>(rows * columns));
  ops::DequantizeArgs args;
  args.packed = packed;
  args.x = TensorView(restored.data(), DType::kF32, {rows, columns});
  base::Execution execution;
  execution.num_threads = num_threads;
  HALFBYTE_RETURN_IF_ERROR(ops::dequantize(args, execution));

  // A sum a row, then the rows in order: the number of threads does not show.
  std::vector<TensorError> of_row(static_cast<std::size_t>(rows));
  const std::int64_t code_stride = packed.codes.strides[0];
#pragma omp parallel for schedule(static) \
    num_threads(num_threads > 0 ? num_threads : omp_get_max_threads())
  for (std::int64_t row = 0; row < rows; ++row) {
    of_row[static_cast<std::size_t>(row)] = row_error(
        restored.data() + row * columns, packed.codes.as<const std::uint8_t>() + row * code_stride,
        original, row * columns, columns);
  }
  TensorError total;
  total.elements = rows * columns;
  for (const TensorError& row : of_row) {
    total.zero_codes += row.zero_codes;
    total.signal += row.signal;
    total.noise += row.noise;
    total.max_abs = std::max(total.max_abs, row.max_abs);
  }
  return total;
}

}  // namespace halfbyte::checkpoint
