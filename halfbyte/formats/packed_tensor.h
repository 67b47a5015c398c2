// PackedTensor: a borrowed quantized tensor that knows its format, layout, shape and which of the
// two reciprocal fp32 scales it holds.
#pragma once

#include <cstdint>

#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/format.h"

namespace halfbyte::formats {

struct PackedTensor {
  Format format = Format::kNvfp4;
  ScaleLayout layout = ScaleLayout::kLinear;
  std::int64_t rows = 0;     // M, as the padding of `scales` hides it
  std::int64_t columns = 0;  // H
  base::TensorView codes;    // u8, M rows of H / 2 (FP4) or H (FP8); any row stride
  base::TensorView scales;   // u8 block scales in `layout`, contiguous; absent for FP8
  base::TensorView scale;    // fp32 [1] or [M]; absent if scale_kind is kNone
  // What `scale` is: a writer stores that one unchanged, since fl(1/fl(1/d)) is not always d.
  ScaleKind scale_kind = ScaleKind::kNone;
};

}  // namespace halfbyte::formats
