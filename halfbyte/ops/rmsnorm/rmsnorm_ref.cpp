// The reference: naive loops over rmsnorm_math.h and quantize_math.h, in row order, on one thread.
#include <algorithm>
#include <vector>

#include "halfbyte/numerics/row_sum.h"
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/quantize/quantize_math.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_kernels.h"

namespace halfbyte::ops::reference {
namespace {

template <class T>
T* row_of(const Rows& rows, std::int64_t row) {
  return static_cast<T*>(rows.data) + rows.map.offset(row);
}

// The sum of squares of h, whose length is a multiple of the leaf, zero past the row's end.
float sum_of_squares(const std::vector<float>& h) {
  numerics::TreeSum sum;
  for (std::size_t k = 0; k < h.size(); k += numerics::kLeafElements) {
    sum.add(numerics::leaf_sum_of_squares(h.data() + k));
  }
  return sum.total();
}

std::vector<float> read_weight(const NormProblem& problem) {
  std::vector<float> weight(static_cast<std::size_t>(problem.columns()));
  numerics::visit_float(problem.weight_dtype, [&]<class W>(W) {
    for (std::size_t k = 0; k < weight.size(); ++k) {
      weight[k] = rmsnorm_weight(numerics::to_float(static_cast<const W*>(problem.weight)[k]),
                                 problem.weight_bias);
    }
  });
  return weight;
}

}  // namespace

void rmsnorm_rows(const NormProblem& problem, int /*num_threads*/) {
  const std::int64_t columns = problem.columns();
  const std::vector<float> weight = read_weight(problem);
  const std::int64_t leaf = numerics::kLeafElements;
  std::vector<float> h(static_cast<std::size_t>((columns + leaf - 1) / leaf * leaf));
  std::vector<float> y(static_cast<std::size_t>(columns));
  const auto y_at = [&](std::int64_t k) { return y[static_cast<std::size_t>(k)]; };
  std::uint32_t most = 0;

  numerics::visit_float(problem.x.dtype, [&]<class T>(T) {
    for (std::int64_t row = 0; row < problem.rows(); ++row) {
      const T* x = row_of<T>(problem.x, row);
      for (std::int64_t k = 0; k < columns; ++k) {
        float value = numerics::to_float(x[k]);
        if (problem.residual) {
          T& residual = row_of<T>(problem.residual, row)[k];
          value = rmsnorm_add<T>(value, numerics::to_float(residual));
          residual = numerics::round_to<T>(value);
        }
        h[static_cast<std::size_t>(k)] = value;
      }
      const float rstd = rmsnorm_rstd(sum_of_squares(h), columns, problem.eps);
      for (std::int64_t k = 0; k < columns; ++k) {
        const auto i = static_cast<std::size_t>(k);
        const T rounded = rmsnorm_apply<T>(h[i], rstd, weight[i], problem.rounding);
        y[i] = numerics::to_float(rounded);
        if (problem.y) row_of<T>(problem.y, row)[k] = rounded;
      }
      if (problem.target != nullptr) quantize_row(*problem.target, row, y_at);
      if (problem.amax != nullptr) {
        most = std::max(most, numerics::float_bits(amax_of(y_at, 0, columns)));
      }
    }
  });
  if (problem.amax != nullptr) *problem.amax = numerics::bits_float(most);
  if (problem.target != nullptr) {
    for (std::int64_t row = 0; row < problem.target->padded_rows(); ++row) {
      problem.target->pad_row(row);
    }
  }
}

}  // namespace halfbyte::ops::reference
