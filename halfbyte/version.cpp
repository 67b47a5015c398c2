// The C functions that describe the library and sizes; the operators' are in their rooms (*_c.cpp).
#include "halfbyte/numerics/version.h"

#include <limits>

#include "halfbyte/base/cpu_level.h"
#include "halfbyte/base/execution.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/halfbyte.h"

using halfbyte::formats::Format;
using halfbyte::formats::ScaleLayout;

extern "C" const char* halfbyte_version(void) { return HALFBYTE_VERSION; }

extern "C" int halfbyte_numerics_version(void) { return halfbyte::numerics::kNumericsVersion; }

extern "C" const char* halfbyte_cuda_architectures(void) {
#ifdef HALFBYTE_WITH_CUDA
  return HALFBYTE_CUDA_ARCHS;
#else
  return "";
#endif
}

extern "C" const char* halfbyte_cpu_level(void) {
  try {
    return halfbyte::base::cpu_level_name(halfbyte::base::default_cpu_level()).data();
  } catch (...) {
    return "reference";
  }
}

extern "C" uint64_t halfbyte_workspace_bytes(int32_t scale_mode) {
  return scale_mode == HALFBYTE_SCALE_COMPUTED ? halfbyte::base::kComputedWorkspaceBytes : 0;
}

extern "C" int64_t halfbyte_scale_bytes(int32_t format, int32_t layout, int64_t rows,
                                        int64_t columns) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  if (format < 0 || format > HALFBYTE_FP8 || layout < 0 || layout > HALFBYTE_LAYOUT_8X4) return -1;
  if (rows < 0 || columns < 1 || rows > kMost - 128) return -1;
  if (format == HALFBYTE_FP8) return layout == HALFBYTE_LAYOUT_LINEAR ? 0 : -1;
  const int block = halfbyte::formats::block_elements(static_cast<Format>(format));
  if (columns % block != 0) return -1;
  const auto order = static_cast<ScaleLayout>(layout);
  const std::int64_t padded_rows = halfbyte::formats::padded_scale_rows(order, rows);
  const std::int64_t padded_columns =
      halfbyte::formats::padded_scale_columns(order, columns / block);
  std::int64_t bytes = 0;
  return __builtin_mul_overflow(padded_rows, padded_columns, &bytes) ? -1 : bytes;
}
