// What one implementation of gemm_silu_mul_quantize is, over checked, resolved arguments. Internal.
#pragma once

#include <cstddef>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/ops/silu_mul/silu_mul_epilogue.h"

namespace halfbyte::ops {

// A plain struct: a kernel may take it by value.
struct GateUpProblem {
  // n = 2I. c is null, c_dtype is T: whoever stores gate_up anywhere rounds it to that, row m at
  // m * n as c_rows says.
  GemmProblem product;
  int interleave = 0;  // gate_column, up_column (silu_mul_math.h)
  SiluMulRule rule;
  // Of y: rows = product.m, columns = I. Of a query for workspace no pointers are in it.
  formats::RowTarget target;

  HALFBYTE_HD std::int64_t columns() const { return product.n / 2; }
};

// The second step by itself: problem.target of gate_up, the rows of product.c.
inline SiluMulProblem silu_mul_of(const GateUpProblem& problem) {
  const GemmProblem& product = problem.product;
  SiluMulProblem step;
  step.gate_up = {product.c, product.c_dtype, product.c_rows, product.n};
  step.columns = problem.columns();
  step.interleave = problem.interleave;
  step.rule = problem.rule;
  step.target = &problem.target;
  return step;
}

// The reference and every CPU level.
void gate_up_on_cpu(GateUpProblem& problem, base::CpuLevel level, int num_threads);

namespace cuda {
// As gemm_workspace_bytes in gemm_kernels.h.
base::Result<std::size_t> gate_up_workspace_bytes(const GateUpProblem& problem,
                                                  base::Device device);
// execution.workspace has gate_up_workspace_bytes.
base::Status launch_gate_up(const GateUpProblem& problem, base::Device device,
                            const base::Execution& execution);
}  // namespace cuda

}  // namespace halfbyte::ops
