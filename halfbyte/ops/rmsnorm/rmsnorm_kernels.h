// What one CPU implementation of this room is, over checked, resolved arguments. Internal.
#pragma once

#include <cstdint>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_math.h"

namespace halfbyte::ops {

// One pass over the rows: h, y, and what becomes of y. Any of y, target, amax may be wanted.
struct NormProblem {
  Rows x;
  Rows residual;  // absent: data == nullptr
  const void* weight = nullptr;
  base::DType weight_dtype = base::DType::kF32;
  float eps = 0.0f;
  Rounding rounding = Rounding::kFloat32;
  bool weight_bias = false;

  Rows y;                                      // absent: data == nullptr
  const formats::RowTarget* target = nullptr;  // quantize y
  float* amax = nullptr;                       // the tensor's amax of y (scale = computed)

  std::int64_t rows() const { return x.map.rows; }
  std::int64_t columns() const { return x.columns; }
};

// scale = computed needs the tensor's amax before it can quantize, so it goes over the rows twice:
// first the residual addition and the amax, then everything else, where h already is the residual.
inline NormProblem computed_first_pass(const NormProblem& problem, float* amax) {
  NormProblem pass = problem;
  pass.y = {};
  pass.target = nullptr;
  pass.amax = amax;
  return pass;
}
inline NormProblem computed_second_pass(const NormProblem& problem) {
  NormProblem pass = problem;
  if (pass.residual) pass.x = pass.residual;
  pass.residual = {};
  return pass;
}

using NormKernel = void (*)(const NormProblem& problem, int num_threads);

namespace reference {
void rmsnorm_rows(const NormProblem& problem, int num_threads);
}
namespace v3 {
void rmsnorm_rows(const NormProblem& problem, int num_threads);
}
namespace v4 {
void rmsnorm_rows(const NormProblem& problem, int num_threads);
}
namespace neon {
void rmsnorm_rows(const NormProblem& problem, int num_threads);
}
namespace cuda {
base::Status rmsnorm_rows(const NormProblem& problem, base::Device device,
                          const base::Execution& execution);
}

}  // namespace halfbyte::ops
