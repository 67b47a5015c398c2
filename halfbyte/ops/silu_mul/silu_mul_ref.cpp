// The reference: naive loops over silu_mul_math.h and quantize_math.h, in row order, on one thread.
#include <algorithm>
#include <vector>

#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/quantize/quantize_math.h"
#include "halfbyte/ops/silu_mul/silu_mul_kernels.h"

namespace halfbyte::ops::reference {

void silu_mul_rows(const SiluMulProblem& problem, int /*num_threads*/) {
  const std::int64_t columns = problem.columns;
  std::vector<float> y(static_cast<std::size_t>(columns));
  const auto y_at = [&](std::int64_t k) { return y[static_cast<std::size_t>(k)]; };
  std::uint32_t most = 0;

  numerics::visit_float(problem.gate_up.dtype, [&]<class T>(T) {
    for (std::int64_t row = problem.first_row; row < problem.end_row(); ++row) {
      const T* in = static_cast<const T*>(problem.gate_up.data) + problem.gate_up.map.offset(row);
      for (std::int64_t k = 0; k < columns; ++k) {
        const float gate = numerics::to_float(in[gate_column(k, problem.interleave)]);
        const float up = numerics::to_float(in[up_column(k, columns, problem.interleave)]);
        const T rounded = silu_mul_apply<T>(gate, up, problem.rule);
        y[static_cast<std::size_t>(k)] = numerics::to_float(rounded);
        if (problem.y) static_cast<T*>(problem.y.data)[problem.y.map.offset(row) + k] = rounded;
      }
      if (problem.target != nullptr) quantize_row(*problem.target, row, y_at);
      if (problem.amax != nullptr) {
        most = std::max(most, numerics::float_bits(amax_of(y_at, 0, columns)));
      }
    }
  });
  if (problem.amax != nullptr) *problem.amax = numerics::bits_float(most);
  if (problem.target != nullptr) {
    for (std::int64_t row = problem.first_row; row < problem.end_padded_row(); ++row) {
      problem.target->pad_row(row);
    }
  }
}

}  // namespace halfbyte::ops::reference
