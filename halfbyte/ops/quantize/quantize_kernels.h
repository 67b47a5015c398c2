// What one CPU implementation of this room is: a table of functions over checked, resolved
// arguments. quantize.cpp lists them in order of preference. Internal.
#pragma once

#include <cstdint>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/ops/common/arguments.h"

namespace halfbyte::ops {

struct DequantizeProblem {
  formats::Format format = formats::Format::kNvfp4;
  formats::ScaleLayout layout = formats::ScaleLayout::kLinear;
  const std::uint8_t* codes = nullptr;
  base::RowMap code_rows;  // bytes
  const std::uint8_t* scales = nullptr;
  formats::ScaleKind scale_kind = formats::ScaleKind::kNone;
  const float* scale = nullptr;  // nullptr: scale_value
  std::int64_t scale_stride = 0;
  float scale_value = 1.0f;
  Rows x;

  // The decode scale of a row.
  HALFBYTE_HD float decode_scale(std::int64_t row) const {
    const float value = scale != nullptr ? scale[row * scale_stride] : scale_value;
    return scale_kind == formats::ScaleKind::kEncode ? numerics::div_rn(1.0f, value) : value;
  }
};

struct QuantizeKernels {
  // Rows of x to target; every padded row is written.
  void (*quantize)(const Rows& x, const formats::RowTarget& target, int num_threads);
  void (*dequantize)(const DequantizeProblem& problem, int num_threads);
  // amax[row] of each row, or amax[0] of the tensor.
  void (*amax)(const Rows& x, bool per_row, float* amax, int num_threads);
};

namespace reference {
extern const QuantizeKernels kQuantizeKernels;
}
namespace v3 {
extern const QuantizeKernels kQuantizeKernels;
}
namespace v4 {
extern const QuantizeKernels kQuantizeKernels;
}
namespace neon {
extern const QuantizeKernels kQuantizeKernels;
}

namespace cuda {
base::Status quantize(const Rows& x, const formats::RowTarget& target, base::Device device,
                      const base::Execution& execution);
base::Status dequantize(const DequantizeProblem& problem, base::Device device,
                        const base::Execution& execution);
base::Status amax(const Rows& x, bool per_row, float* amax, base::Device device,
                  const base::Execution& execution);
}  // namespace cuda

}  // namespace halfbyte::ops
