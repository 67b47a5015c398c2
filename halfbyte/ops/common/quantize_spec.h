// The arguments that every operator ending in a quantization shares: what to make and where to put
// it. docs/numerics.md says what the bits are.
#pragma once

#include <optional>

#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/format.h"

namespace halfbyte::ops {

using base::TensorView;
using formats::Format;
using formats::MxRule;
using formats::ScaleLayout;
using formats::ScaleMode;
using formats::ScaleRule;

// Defaults are valid. An option that the format does not have is an error unless left at its
// default: MXFP4 and FP8 have no scale_rule, NVFP4 and FP8 no mx_rule, FP8 no layout (it has no
// block scales) and no computed scale, MXFP4 no scale mode and no fp32 scale.
struct QuantizeSpec {
  Format format = Format::kNvfp4;
  ScaleLayout layout = ScaleLayout::kLinear;
  std::optional<ScaleLayout> second_layout;  // the same scales once more, in another order
  ScaleMode scale = ScaleMode::kTensor;
  ScaleRule scale_rule = ScaleRule::kKernel;  // kTe: `quantize` only
  MxRule mx_rule = MxRule::kRoundUp;
};

// The fp32 scale that scale = tensor takes, on the tensors' device or, one value, on the host
// (read at the call). On the host it must be finite and > 0; in device memory it is not looked at.
struct GivenScale {
  TensorView global_scale;  // NVFP4 encode scale, fp32 [1] or [M]; absent: 1
  TensorView decode_scale;  // FP8 decode scale, fp32 [1]; FP8 with scale = tensor needs it
};

// Rows sorted by group, such as the tokens of a mixture of experts: group e has the rows
// row_offsets[e] .. row_offsets[e + 1] - 1 of x and the rows from scale_row_offsets[e] on of the
// scale arrays, whose number of rows is then the caller's: R rows, the array scale_bytes(layout, R,
// H / block). Empty groups are fine; rows of no group give codes 0 and no scales; scale rows of no
// row are zero. Not with FP8 or scale = computed. global_scale is [1] or [count], one a group.
//
// On the CPU the offsets must ascend, stay within x and the scale arrays, leave each group's scales
// room, and start each group's scales at a multiple of the layout's rows (128, 8 or 1). In device
// memory they are not looked at; then a row whose scales would lie outside gives codes 0.
struct RowGroups {
  TensorView row_offsets;        // i32 [count + 1], dense, on the device of x
  TensorView scale_row_offsets;  // the same
  std::int64_t count = 0;        // 0: no groups, and no offsets
};

// Outputs, preallocated, on the device of x, not overlapping any other argument. For x [.., H] with
// M rows: every byte of each is written, padding as zero.
struct QuantizeOutputs {
  TensorView codes;          // u8, M rows of H / 2 (FP4) or H (FP8); any row stride
  TensorView scales;         // u8, scale_bytes(layout, M, H / block) elements, contiguous; not FP8
  TensorView scales_second;  // the same in second_layout; given exactly when that is
  TensorView row_scale;      // fp32 [M], decode scales; given exactly when scale = row
  TensorView global_scale;   // fp32 [1]; given exactly when scale = computed
  TensorView decode_scale;   // fp32 [1]; given exactly when scale = computed
};

}  // namespace halfbyte::ops
