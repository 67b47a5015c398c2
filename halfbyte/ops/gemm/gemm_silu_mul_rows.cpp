// gemm_silu_mul_quantize on the CPU: some rows of gate_up at a time, by the product's kernel of the
// level, and on to the activation's.
#include <algorithm>
#include <memory>

#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/ops/gemm/gemm_run.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_kernels.h"

namespace halfbyte::ops {

namespace {

// Of gate_up: what the last-level cache holds of it, but enough rows to share the work on the
// weights: as many as the product's kernels take together, or several times that.
std::int64_t rows_of_scratch(const GemmProblem& product) {
  constexpr std::int64_t kBytes = 16 << 20, kTogether = 64;
  const std::int64_t rows = kBytes / (product.n * base::dtype_bytes(product.c_dtype));
  return std::max<std::int64_t>(1, rows / kTogether) * kTogether;
}

}  // namespace

void gate_up_on_cpu(GateUpProblem& problem, base::CpuLevel level, int num_threads) {
  GemmProblem& product = problem.product;
  const SiluMulKernel kernel = silu_mul_kernel(level);
  CpuProduct parts(product, level, num_threads, rows_of_scratch(product));
  const std::int64_t rows = parts.rows_at_once();  // 0 of none
  const auto scratch = std::make_unique_for_overwrite<std::byte[]>(
      static_cast<std::size_t>(rows * product.n * base::dtype_bytes(product.c_dtype)));
  // Row m lies where m % rows does; so the rows of every part begin at the scratch's first.
  product.c = scratch.get();
  product.c_rows = {.rows = product.m, .inner_rows = rows, .inner_stride = product.n};

  // Makes the rows of a part, unless it is made, and passes over them.
  std::int64_t made = -1;
  const auto pass = [&](std::int64_t first, SiluMulProblem step) {
    step.first_row = first;
    step.row_count = std::min(rows, product.m - first);
    if (made != first && step.row_count > 0) parts.compute(first);
    made = first;
    kernel(step, num_threads);
  };
  const SiluMulProblem last = silu_mul_of(problem);
  std::uint32_t most = 0;
  float amax = 0.0f;
  if (problem.target.mode == ScaleMode::kComputed) {
    for (std::int64_t first = 0; first < product.m; first += rows) {
      pass(first, computed_first_pass(last, &amax));
      most = std::max(most, numerics::float_bits(amax));
    }
    amax = numerics::bits_float(most);
    problem.target.tensor_amax = &amax;
    problem.target.put_computed_scale();
  }
  std::int64_t first = 0;
  do {  // without rows there may be scales to write as zero
    pass(first, last);
    first += rows;
  } while (first < product.m);
}

}  // namespace halfbyte::ops
