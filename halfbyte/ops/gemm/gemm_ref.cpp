// The reference: naive loops over gemm_math.h, an element of C at a time, on one thread.
#include <vector>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops::reference {
namespace {

using numerics::visit_float;

// Row n of the weights of one group, plain or prepared.
class WeightRow {
 public:
  WeightRow(const GemmProblem& problem, std::int64_t group, std::int64_t n)
      : problem_(problem),
        n_(n),
        prepared_(problem.b_prepared + group * problem.b_prepared_stride, problem.format, problem.k,
                  n) {
    if (problem.form == WeightForm::kPrepared) return;
    codes_ = problem.b_codes + problem.b_rows.offset(group * problem.n + n);
    scales_ = problem.b_scales + group * problem.b_scale_stride;
  }

  std::uint8_t scale(std::int64_t block) const {
    if (problem_.form == WeightForm::kPrepared) return prepared_.scale(block);
    return scales_[formats::scale_offset(problem_.b_layout, n_, block, problem_.blocks())];
  }
  // The codes of a block, two a byte.
  void codes(std::int64_t block, std::uint8_t* to) const {
    const int bytes = problem_.block() / 2;
    for (int i = 0; i < bytes; ++i) {
      const std::int64_t byte = block * bytes + i;
      to[i] = problem_.form == WeightForm::kPlain
                  ? codes_[byte]
                  : formats::e2m1_pack(prepared_.code(2 * byte), prepared_.code(2 * byte + 1));
    }
  }

 private:
  const GemmProblem& problem_;
  std::int64_t n_;
  PreparedRow prepared_;
  const std::uint8_t* codes_ = nullptr;
  const std::uint8_t* scales_ = nullptr;
};

// The sum over K, slice by slice; add(acc, block) is the next block of a slice.
template <class Add>
float sum_blocks(const GemmProblem& problem, const Add& add) {
  const std::int64_t blocks = problem.blocks(), width = slice_blocks(problem.format);
  numerics::TreeSum slices;
  for (std::int64_t begin = 0; begin < blocks; begin += width) {
    float acc = 0.0f;
    for (std::int64_t block = begin; block < begin + width && block < blocks; ++block) {
      acc = add(acc, block);
    }
    slices.add(acc);
  }
  return slices.total();
}

float sum_quantized(const GemmProblem& problem, std::int64_t row, std::int64_t scale_row,
                    const WeightRow& weights) {
  const std::uint8_t* codes = problem.a_codes + problem.a_rows.offset(row);
  const int bytes = problem.block() / 2;
  return sum_blocks(problem, [&](float acc, std::int64_t block) {
    std::uint8_t weight_codes[16];
    weights.codes(block, weight_codes);
    const int dot = block_dot(codes + block * bytes, weight_codes, bytes);
    const std::uint8_t scale =
        problem
            .a_scales[formats::scale_offset(problem.a_layout, scale_row, block, problem.blocks())];
    return add_block(problem.format, acc, dot, scale, weights.scale(block));
  });
}

float sum_values(const GemmProblem& problem, const float* x, const WeightRow& weights) {
  const int block_columns = problem.block();
  return sum_blocks(problem, [&](float acc, std::int64_t block) {
    std::uint8_t weight_codes[16];
    weights.codes(block, weight_codes);
    const float dot = block_dot_16bit(x + block * block_columns, weight_codes, block_columns);
    return add_block_16bit(problem.format, acc, dot, weights.scale(block));
  });
}

float bias_at(const GemmProblem& problem, std::int64_t index) {
  return visit_float(problem.bias_dtype, [&]<class T>(T) {
    return numerics::to_float(static_cast<const T*>(problem.bias)[index]);
  });
}

// Row `row` of A as fp32, where it is not quantized.
std::vector<float> row_values(const GemmProblem& problem, std::int64_t row) {
  std::vector<float> x(problem.quantized ? 0 : static_cast<std::size_t>(problem.k));
  visit_float(problem.x_dtype, [&]<class T>(T) {
    const T* from = static_cast<const T*>(problem.x) + problem.x_rows.offset(row);
    for (std::size_t k = 0; k < x.size(); ++k) x[k] = numerics::to_float(from[k]);
  });
  return x;
}

template <class T>
void compute_row(const GemmProblem& problem, std::int64_t row, T* c) {
  std::int64_t group = problem.group_of_row(row);
  std::int64_t scale_row = row;
  if (group >= 0 && problem.quantized) scale_row = problem.a_scale_row(row, group);
  if (scale_row < 0) group = -1;
  const std::vector<float> x = row_values(problem, row);
  for (std::int64_t n = 0; n < problem.n; ++n) {
    if (group < 0) {
      c[n] = numerics::round_to<T>(0.0f);
      continue;
    }
    const WeightRow weights(problem, group, n);
    const float sum = problem.quantized ? sum_quantized(problem, row, scale_row, weights)
                                        : sum_values(problem, x.data(), weights);
    const float scaled = scale_sum(sum, problem.quantized ? problem.a_decode(row, group) : 1.0f,
                                   problem.b_scale.decode(group));
    c[n] = numerics::round_to<T>(
        problem.bias == nullptr
            ? scaled
            : numerics::add_rn(scaled, bias_at(problem, group * problem.n + n)));
  }
}

}  // namespace

void gemm(const GemmProblem& problem, std::int64_t begin, std::int64_t end) {
  visit_float(problem.c_dtype, [&]<class T>(T) {
    for (std::int64_t row = begin; row < end; ++row) {
      compute_row(problem, row, static_cast<T*>(problem.c) + problem.c_rows.offset(row));
    }
  });
}

}  // namespace halfbyte::ops::reference
