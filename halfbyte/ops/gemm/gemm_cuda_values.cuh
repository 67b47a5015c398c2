// Elements of this room's tensors, one at a time.
#pragma once

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops::cuda {

inline __device__ float value_at(const void* data, base::DType dtype, std::int64_t index) {
  if (dtype == base::DType::kBF16)
    return numerics::to_float(static_cast<const numerics::Bf16*>(data)[index]);
  if (dtype == base::DType::kF16)
    return numerics::to_float(static_cast<const numerics::Fp16*>(data)[index]);
  return static_cast<const float*>(data)[index];
}

inline __device__ void put_value(void* data, base::DType dtype, std::int64_t index, float value) {
  if (dtype == base::DType::kBF16) {
    static_cast<numerics::Bf16*>(data)[index] = numerics::round_to<numerics::Bf16>(value);
  } else if (dtype == base::DType::kF16) {
    static_cast<numerics::Fp16*>(data)[index] = numerics::round_to<numerics::Fp16>(value);
  } else {
    static_cast<float*>(data)[index] = value;
  }
}

// Row n of one group's weights, plain or prepared.
struct DeviceWeightRow {
  const GemmProblem& problem;
  std::int64_t n;
  PreparedRow prepared;
  const std::uint8_t* codes;
  const std::uint8_t* scales;

  __device__ DeviceWeightRow(const GemmProblem& of, std::int64_t group, std::int64_t row)
      : problem(of),
        n(row),
        prepared(of.b_prepared + group * of.b_prepared_stride, of.format, of.k, row),
        codes(of.b_codes + of.b_rows.offset(group * of.n + row)),
        scales(of.b_scales + group * of.b_scale_stride) {}

  __device__ std::uint8_t scale(std::int64_t block) const {
    if (problem.form == WeightForm::kPrepared) return prepared.scale(block);
    return scales[formats::scale_offset(problem.b_layout, n, block, problem.blocks())];
  }
  __device__ std::uint8_t code(std::int64_t k) const {
    if (problem.form == WeightForm::kPrepared) return prepared.code(k);
    return formats::e2m1_unpack(codes[k / 2], static_cast<int>(k % 2));
  }
};

}  // namespace halfbyte::ops::cuda
