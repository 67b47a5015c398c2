// Turns the arguments of a quantization into the RowTarget that kernels take, checking each.
#pragma once

#include <cstdint>

#include "halfbyte/base/status.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/common/quantize_spec.h"

namespace halfbyte::ops {

// A value of the enum: a caller of the C++ functions may have cast anything to one.
base::Status check_format(Format format);
base::Status check_layout(const char* argument, ScaleLayout layout);

// Groups whose offsets the host can read.
struct GroupOffsets {
  std::int64_t groups = 0, rows = 0;                // rows: of x
  const std::int32_t* row_offsets = nullptr;        // groups + 1
  const std::int32_t* scale_row_offsets = nullptr;  // groups + 1; nullptr: there are no scales
  std::int64_t scale_rows = 0;                      // of the scale array
  int scale_row_unit = 1;                           // each group's scales start at a multiple
  const char* scale_row_argument = "scale_row_offsets";
};
base::Status check_group_offsets(const GroupOffsets& offsets);

// "codes": u8 on `device`, `rows` rows of the bytes that `columns` elements of the format take.
base::Result<Rows> resolve_codes(const TensorView& codes, Format format, std::int64_t rows,
                                 std::int64_t columns, base::Device device);

// `rows` x `columns` is the tensor to be quantized, on `device`; every tensor that is read or
// written is added to `overlap`. For scale = computed the caller sets tensor_amax afterwards.
// scale_row_offsets: what the operator calls that member of `groups`.
base::Result<formats::RowTarget> resolve_target(
    const QuantizeSpec& spec, const GivenScale& given, const QuantizeOutputs& out,
    std::int64_t rows, std::int64_t columns, base::Device device, OverlapCheck& overlap,
    const RowGroups& groups = {}, const char* scale_row_offsets = "scale_row_offsets");

}  // namespace halfbyte::ops
