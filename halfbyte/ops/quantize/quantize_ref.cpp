// The reference: naive loops over quantize_math.h, in row order, on one thread.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/quantize/quantize_kernels.h"
#include "halfbyte/ops/quantize/quantize_math.h"

namespace halfbyte::ops::reference {
namespace {

using formats::Format;
using numerics::visit_float;

// Column k of a row of T, as fp32.
template <class T>
struct RowValues {
  const T* row;
  float operator()(std::int64_t k) const { return numerics::to_float(row[k]); }
};

template <class T>
RowValues<T> row_values(const Rows& x, std::int64_t row) {
  return {static_cast<const T*>(x.data) + x.map.offset(row)};
}

void quantize(const Rows& x, const formats::RowTarget& target, int /*num_threads*/) {
  visit_float(x.dtype, [&]<class T>(T) {
    for (std::int64_t row = 0; row < target.padded_rows(); ++row) {
      if (row < target.rows) quantize_row(target, row, row_values<T>(x, row));
      target.pad_row(row);
    }
  });
}

float decode_element(const DequantizeProblem& problem, std::int64_t row, std::int64_t column) {
  const std::uint8_t* codes = problem.codes + problem.code_rows.offset(row);
  const float decode_scale = problem.decode_scale(row);
  if (problem.format == Format::kFp8) return formats::fp8_decode(codes[column], decode_scale);
  const int block = formats::block_elements(problem.format);
  const std::uint8_t code = formats::e2m1_unpack(codes[column / 2], static_cast<int>(column % 2));
  const std::uint8_t scale = problem.scales[formats::scale_offset(
      problem.layout, row, column / block, problem.x.columns / block)];
  return problem.format == Format::kNvfp4 ? formats::nvfp4_decode(code, scale, decode_scale)
                                          : formats::mxfp4_decode(code, scale);
}

void dequantize(const DequantizeProblem& problem, int /*num_threads*/) {
  const Rows& x = problem.x;
  visit_float(x.dtype, [&]<class T>(T) {
    for (std::int64_t row = 0; row < x.map.rows; ++row) {
      T* out = static_cast<T*>(x.data) + x.map.offset(row);
      for (std::int64_t k = 0; k < x.columns; ++k) {
        out[k] = numerics::round_to<T>(decode_element(problem, row, k));
      }
    }
  });
}

void amax(const Rows& x, bool per_row, float* amax, int /*num_threads*/) {
  visit_float(x.dtype, [&]<class T>(T) {
    std::uint32_t most = 0;
    for (std::int64_t row = 0; row < x.map.rows; ++row) {
      const float of_row = amax_of(row_values<T>(x, row), 0, x.columns);
      if (per_row) amax[row] = of_row;
      most = std::max(most, numerics::float_bits(of_row));
    }
    if (!per_row) amax[0] = numerics::bits_float(most);
  });
}

}  // namespace

const QuantizeKernels kQuantizeKernels = {quantize, dequantize, amax};

}  // namespace halfbyte::ops::reference
