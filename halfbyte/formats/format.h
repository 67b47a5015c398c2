// The quantized formats and the choices a caller has, as plain enums. The values are part of the C
// ABI (halfbyte.h); the names are those of the command line and of Python.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"

namespace halfbyte::formats {

enum class Format : std::int32_t {
  kNvfp4 = 0,  // blocks of 16 E2M1, one E4M3 scale each, one fp32 scale a tensor or a row
  kMxfp4 = 1,  // blocks of 32 E2M1, one UE8M0 scale each
  kFp8 = 2,    // E4M3, one fp32 scale a tensor or a row
};

enum class ScaleLayout : std::int32_t { kLinear = 0, k128x4 = 1, k8x4 = 2 };

// Which fp32 scale stands above the block scales.
enum class ScaleMode : std::int32_t {
  kTensor = 0,    // given: one value, or one a row; 1 if absent (NVFP4)
  kRow = 1,       // from each row's amax, in the same pass
  kComputed = 2,  // from the tensor's amax
};

// How NVFP4 forms a block scale: kKernel as vLLM, FlashInfer and TensorRT-LLM's kernels, kTe as
// TransformerEngine (it rounds in another order).
enum class ScaleRule : std::int32_t { kKernel = 0, kTe = 1 };

// How MXFP4 forms its exponent; libraries differ, so the rule has a name.
enum class MxRule : std::int32_t { kRoundUp = 0, kOcpFloor = 1 };

// Which of the two reciprocal fp32 scales a value is: encode multiplies x, decode multiplies codes.
enum class ScaleKind : std::int32_t { kNone = 0, kEncode = 1, kDecode = 2 };

// Elements that share one block scale; 1 where there is none (FP8).
HALFBYTE_HD constexpr int block_elements(Format format) {
  return format == Format::kNvfp4 ? 16 : format == Format::kMxfp4 ? 32 : 1;
}
HALFBYTE_HD constexpr bool has_block_scales(Format format) { return format != Format::kFp8; }

// Bytes of one row of codes: two FP4 codes a byte, one FP8 code a byte.
HALFBYTE_HD constexpr std::int64_t code_bytes(Format format, std::int64_t columns) {
  return format == Format::kFp8 ? columns : columns / 2;
}

constexpr const char* format_name(Format format) {
  return format == Format::kNvfp4 ? "nvfp4" : format == Format::kMxfp4 ? "mxfp4" : "fp8";
}
constexpr const char* layout_name(ScaleLayout layout) {
  return layout == ScaleLayout::kLinear  ? "linear"
         : layout == ScaleLayout::k128x4 ? "128x4"
                                         : "8x4";
}
constexpr const char* scale_mode_name(ScaleMode mode) {
  return mode == ScaleMode::kTensor ? "tensor" : mode == ScaleMode::kRow ? "row" : "computed";
}

}  // namespace halfbyte::formats
