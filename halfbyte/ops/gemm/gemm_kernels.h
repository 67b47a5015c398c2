// What one implementation of this room is, over checked, resolved arguments. Internal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/ops/gemm/gemm.h"

namespace halfbyte::ops {

// The fp32 scale of an operand.
struct ScaleValue {
  const float* data = nullptr;  // nullptr: `value`
  std::int64_t stride = 0;      // elements; 0: one for all
  float value = 1.0f;
  ScaleKind kind = ScaleKind::kNone;

  HALFBYTE_HD float decode(std::int64_t index) const {
    if (kind == ScaleKind::kNone) return 1.0f;
    const float scale = data != nullptr ? data[index * stride] : value;
    return kind == ScaleKind::kEncode ? numerics::div_rn(1.0f, scale) : scale;
  }
};

struct GemmProblem {
  Format format = Format::kNvfp4;  // of B, and of A where it is quantized
  std::int64_t m = 0, n = 0, k = 0;
  GemmMethod method = GemmMethod::kAuto;

  // A: codes and scales where quantized, else x.
  bool quantized = false;
  const std::uint8_t* a_codes = nullptr;
  base::RowMap a_rows;  // bytes
  const std::uint8_t* a_scales = nullptr;
  ScaleLayout a_layout = ScaleLayout::kLinear;
  std::int64_t a_scale_rows = 0;  // rows of the scale array, without padding
  ScaleValue a_scale;             // by row, or by group
  bool a_scale_per_group = false;
  const void* x = nullptr;
  base::DType x_dtype = base::DType::kBF16;
  base::RowMap x_rows;  // elements

  // B. Plain weights of group e: rows e * n on of b_codes, e * b_scale_stride of b_scales.
  WeightForm form = WeightForm::kPlain;
  const std::uint8_t* b_codes = nullptr;
  base::RowMap b_rows;  // bytes
  const std::uint8_t* b_scales = nullptr;
  ScaleLayout b_layout = ScaleLayout::kLinear;
  std::int64_t b_scale_stride = 0;  // bytes
  const std::uint8_t* b_prepared = nullptr;
  std::int64_t b_prepared_stride = 0;  // bytes
  ScaleValue b_scale;                  // by group

  const void* bias = nullptr;  // nullptr: none; group e's from element e * n on
  base::DType bias_dtype = base::DType::kF32;
  void* c = nullptr;
  base::DType c_dtype = base::DType::kF32;
  base::RowMap c_rows;  // elements

  // As in RowTarget; 0 groups: row m takes the one matrix.
  std::int64_t groups = 0;
  const std::int32_t* row_offsets = nullptr;        // groups + 1
  const std::int32_t* scale_row_offsets = nullptr;  // groups + 1; nullptr with x

  HALFBYTE_HD int block() const { return formats::block_elements(format); }
  HALFBYTE_HD std::int64_t blocks() const { return k / block(); }
  // The group of a row; -1: in none.
  HALFBYTE_HD std::int64_t group_of_row(std::int64_t row) const {
    return groups == 0 ? 0 : formats::group_of(row_offsets, groups, row);
  }
  // The row of a's scales that a row of group `group` >= 0 has; -1: it lies outside, and the row is
  // as one of no group.
  HALFBYTE_HD std::int64_t a_scale_row(std::int64_t row, std::int64_t group) const {
    if (groups == 0) return row;
    const std::int64_t found = scale_row_offsets[group] + (row - row_offsets[group]);
    return found >= 0 && found < a_scale_rows ? found : -1;
  }
  HALFBYTE_HD float a_decode(std::int64_t row, std::int64_t group) const {
    return a_scale.decode(a_scale_per_group ? group : row);
  }
};

struct PrepareProblem {
  Format format = Format::kNvfp4;
  std::int64_t rows = 0, columns = 0;  // N, K
  std::uint8_t* codes = nullptr;
  base::RowMap code_rows;  // bytes
  std::uint8_t* scales = nullptr;
  ScaleLayout layout = ScaleLayout::kLinear;
  std::uint8_t* prepared = nullptr;
};

// The rows that are in `input` (gemm_input.h).
struct GemmInput;
using GemmKernel = void (*)(const GemmProblem& problem, const GemmInput& input, int num_threads);

namespace reference {
// The rows of C from `begin` to `end`.
void gemm(const GemmProblem& problem, std::int64_t begin, std::int64_t end);
// On every CPU level.
void prepare_weights(const PrepareProblem& problem, int num_threads);
void unprepare_weights(const PrepareProblem& problem, int num_threads);
}  // namespace reference
// Rows of A that a kernel takes at once (GemmInput::together).
namespace v3 {
inline constexpr int kGemmRowsTogether = 2;
void gemm(const GemmProblem& problem, const GemmInput& input, int num_threads);
}  // namespace v3
namespace v4 {
inline constexpr int kGemmRowsTogether = 4;
void gemm(const GemmProblem& problem, const GemmInput& input, int num_threads);
}  // namespace v4
namespace neon {
inline constexpr int kGemmRowsTogether = 2;
void gemm(const GemmProblem& problem, const GemmInput& input, int num_threads);
}  // namespace neon

namespace cuda {
// kUnsupported or kInvalidArgument where the method is impossible; gemm.cpp asks before it calls
// gemm, which then has nothing to refuse. Pointers may be null.
base::Result<std::size_t> gemm_workspace_bytes(const GemmProblem& problem, base::Device device);
base::Result<std::string> explain_gemm(const GemmProblem& problem, base::Device device);
base::Status gemm(const GemmProblem& problem, base::Device device,
                  const base::Execution& execution);
base::Status prepare_weights(const PrepareProblem& problem, base::Device device, void* stream);
base::Status unprepare_weights(const PrepareProblem& problem, base::Device device, void* stream);
}  // namespace cuda

}  // namespace halfbyte::ops
