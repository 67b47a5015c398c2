// What one CPU implementation of this room is, over checked, resolved arguments. Internal.
#pragma once

#include <cstdint>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/silu_mul/silu_mul_math.h"

namespace halfbyte::ops {

// One pass over the rows: y, and what becomes of it. Any of y, target, amax may be wanted.
struct SiluMulProblem {
  Rows gate_up;
  std::int64_t columns = 0;  // I
  int interleave = 0;
  SiluMulRule rule;

  Rows y;                                      // absent: data == nullptr
  const formats::RowTarget* target = nullptr;  // quantize y
  float* amax = nullptr;                       // the tensor's amax of y (scale = computed)

  // On the CPU a pass may take some of the rows: those from first_row on, row_count of them (-1:
  // all that follow). The pass that takes the last one writes the rows of padding too.
  std::int64_t first_row = 0, row_count = -1;

  HALFBYTE_HD std::int64_t rows() const { return gate_up.map.rows; }
  HALFBYTE_HD std::int64_t end_row() const {
    return row_count < 0 ? rows() : first_row + row_count;
  }
  // The rows of y and of the scale arrays that this pass goes over.
  HALFBYTE_HD std::int64_t end_padded_row() const {
    return target != nullptr && end_row() == rows() ? target->padded_rows() : end_row();
  }
};

// scale = computed needs the tensor's amax before it can quantize, so it goes over the rows twice.
inline SiluMulProblem computed_first_pass(const SiluMulProblem& problem, float* amax) {
  SiluMulProblem pass = problem;
  pass.target = nullptr;
  pass.amax = amax;
  return pass;
}

using SiluMulKernel = void (*)(const SiluMulProblem& problem, int num_threads);

namespace reference {
void silu_mul_rows(const SiluMulProblem& problem, int num_threads);
}
namespace v3 {
void silu_mul_rows(const SiluMulProblem& problem, int num_threads);
}
namespace v4 {
void silu_mul_rows(const SiluMulProblem& problem, int num_threads);
}
namespace neon {
void silu_mul_rows(const SiluMulProblem& problem, int num_threads);
}
namespace cuda {
base::Status silu_mul_rows(const SiluMulProblem& problem, base::Device device,
                           const base::Execution& execution);
}

}  // namespace halfbyte::ops
