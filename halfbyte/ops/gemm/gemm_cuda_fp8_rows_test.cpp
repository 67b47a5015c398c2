// What method = fp8 makes of its operands on CUDA: every E4M3 code and every factor, exactly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "halfbyte/formats/fp8.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_fp8_math.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

#ifdef HALFBYTE_WITH_CUDA
#include "halfbyte/ops/gemm/gemm_cuda_fp8.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::Random;

struct Expected {
  std::vector<std::uint8_t> codes;
  std::vector<float> factors;
};

template <class Code, class Scale>
void add_row(const GemmProblem& problem, const Code& code, const Scale& scale, float decode,
             Expected& to) {
  int rank = 0;
  for (std::int64_t i = 0; i < problem.blocks(); ++i)
    rank = std::max(rank, fp8_scale_rank(problem.format, scale(i)));
  const int shift = fp8_shift(problem.format, rank);
  for (std::int64_t k = 0; k < problem.k; ++k) {
    to.codes.push_back(fp8_of_fp4(problem.format, code(k), scale(k / problem.block()), shift));
  }
  to.factors.push_back(numerics::mul_rn(decode, fp8_factor(shift)));
}

Expected weights_of(const GemmProblem& problem) {
  Expected to;
  for (std::int64_t n = 0; n < problem.n; ++n) {
    const float decode = problem.b_scale.decode(0);
    if (problem.form == WeightForm::kPrepared) {
      const PreparedRow row(problem.b_prepared, problem.format, problem.k, n);
      add_row(
          problem, [&](std::int64_t k) { return row.code(k); },
          [&](std::int64_t i) { return row.scale(i); }, decode, to);
      continue;
    }
    const std::uint8_t* codes = problem.b_codes + problem.b_rows.offset(n);
    add_row(
        problem,
        [&](std::int64_t k) { return formats::e2m1_unpack(codes[k / 2], static_cast<int>(k % 2)); },
        [&](std::int64_t i) {
          return problem.b_scales[formats::scale_offset(problem.b_layout, n, i, problem.blocks())];
        },
        decode, to);
  }
  return to;
}

Expected activations_of(const GemmProblem& problem) {
  Expected to;
  for (std::int64_t m = 0; m < problem.m; ++m) {
    if (problem.quantized) {
      const std::uint8_t* codes = problem.a_codes + problem.a_rows.offset(m);
      add_row(
          problem,
          [&](std::int64_t k) {
            return formats::e2m1_unpack(codes[k / 2], static_cast<int>(k % 2));
          },
          [&](std::int64_t i) {
            return problem
                .a_scales[formats::scale_offset(problem.a_layout, m, i, problem.blocks())];
          },
          problem.a_scale.decode(m), to);
      continue;
    }
    const auto* x = static_cast<const std::uint16_t*>(problem.x) + problem.x_rows.offset(m);
    const auto value = [&](std::int64_t k) {
      return problem.x_dtype == DType::kBF16 ? numerics::to_float(numerics::Bf16{x[k]})
                                             : numerics::to_float(numerics::Fp16{x[k]});
    };
    std::uint32_t most = 0;
    for (std::int64_t k = 0; k < problem.k; ++k)
      most = std::max(most, numerics::abs_bits(value(k)));
    const formats::Fp8Scale scale = formats::fp8_scale_from_amax(numerics::bits_float(most));
    for (std::int64_t k = 0; k < problem.k; ++k)
      to.codes.push_back(formats::fp8_encode(value(k), scale));
    to.factors.push_back(scale.decode);
  }
  return to;
}

// The codes of `rows` rows, the factors behind them.
void compare(const Expected& expected, const TensorView& got, std::int64_t k, const char* what) {
  const std::vector<std::uint8_t> bytes = testing::bytes(got);
  const std::size_t codes = expected.codes.size();
  for (std::size_t i = 0; i < codes; ++i) {
    const bool nan = (expected.codes[i] & 0x7F) == formats::kE4m3Nan;
    ASSERT_EQ(nan ? bytes[i] & 0x7F : bytes[i], nan ? 0x7F : expected.codes[i])
        << what << ", row " << i / static_cast<std::size_t>(k) << ", column "
        << i % static_cast<std::size_t>(k);
  }
}
void compare_factors(const Expected& expected, const TensorView& got, const char* what) {
  for (std::size_t i = 0; i < expected.factors.size(); ++i) {
    const float factor = testing::get(got, static_cast<std::int64_t>(i));
    if (expected.factors[i] != expected.factors[i]) {
      ASSERT_TRUE(factor != factor) << what << ", factor " << i;
      continue;
    }
    ASSERT_EQ(numerics::float_bits(factor), numerics::float_bits(expected.factors[i]))
        << what << ", factor " << i << ": " << factor << " for " << expected.factors[i];
  }
}

void expect_equal(testing::GemmCase product) {
  SCOPED_TRACE(product.text);
  if (product.shape.m == 0 || product.shape.n == 0) return;
  const std::int64_t m = product.shape.m, k = product.shape.k;
  const std::int64_t n = (product.shape.n + 15) / 16 * 16;
  product.set.add("w8", testing::TestTensor(DType::kU8, {n, k}));
  product.set.add("w8_factors", testing::TestTensor(DType::kF32, {n}));
  product.set.add("x8", testing::TestTensor(DType::kU8, {m, k}));
  product.set.add("x8_factors", testing::TestTensor(DType::kF32, {m}));
  const auto problem_of = [&](const testing::TensorSet& set) {
    OverlapCheck overlap;
    return resolve_gemm(testing::gemm_args(product, set), GemmCheck::kCall, overlap);
  };
  const auto operation = [&](const testing::TensorSet& set,
                             const base::Execution& execution) -> base::Status {
    const base::Result<GemmProblem> problem = problem_of(set);
    if (!problem.ok()) return problem.status();
    const auto rows = [&](std::int64_t count, const char* codes, const char* factors) {
      return cuda::Fp8Rows{count, set.view(codes).as<std::uint8_t>(),
                           set.view(factors).as<float>()};
    };
    HALFBYTE_RETURN_IF_ERROR(cuda::launch_fp8_weights(problem.value(), rows(n, "w8", "w8_factors"),
                                                      132, execution.stream));
    return cuda::launch_fp8_activations(problem.value(), rows(m, "x8", "x8_factors"),
                                        execution.stream);
  };
  testing::TensorSet result = product.set.clone();
  const testing::Runner runner = testing::cuda_runners().front();
  const base::Status status = runner.run(result, operation);
  ASSERT_TRUE(status.ok()) << status.message();
  const base::Result<GemmProblem> problem = problem_of(result);
  ASSERT_TRUE(problem.ok());
  const Expected weights = weights_of(problem.value());
  const Expected activations = activations_of(problem.value());
  compare(weights, result.view("w8"), k, "weights");
  compare_factors(weights, result.view("w8_factors"), "weights");
  compare(activations, result.view("x8"), k, "activations");
  compare_factors(activations, result.view("x8_factors"), "activations");
  const std::vector<std::uint8_t> codes = testing::bytes(result.view("w8"));
  for (std::size_t i = weights.codes.size(); i < codes.size(); ++i)
    ASSERT_EQ(codes[i] & 0x7F, 0) << "a row of padding";
}

int count_of(int cases) {
  const char* most = std::getenv("HALFBYTE_TEST_CASES");
  return most == nullptr ? cases : std::min(cases, std::atoi(most));
}

TEST(GemmCudaFp8Rows, EqualTheDefinition) {
  if (testing::cuda_runners().empty()) GTEST_SKIP() << "no CUDA device";
  for (int i = 0; i < count_of(600); ++i) {
    Random random(33'000'000 + static_cast<std::uint64_t>(i));
    expect_equal(testing::random_gemm(random, {.quantized = i % 2 == 0}));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(GemmCudaFp8Rows, LongRowsAndManyTiles) {
  if (testing::cuda_runners().empty()) GTEST_SKIP() << "no CUDA device";
  std::uint64_t seed = 34'000'000;
  for (const std::int64_t k : {4096, 8192, 14336, 28672, 65536 + 32}) {
    for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
      for (const bool quantized : {true, false}) {
        for (const bool plain : {true, false}) {
          Random random(seed++);
          expect_equal(testing::random_gemm(random,
                                            {.quantized = quantized, .plain_weights = plain},
                                            {.format = format, .m = 5, .n = 40, .k = k}));
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
  Random random(seed);
  expect_equal(testing::random_gemm(random, {.plain_weights = false},
                                    {.m = 3, .n = 16 * 132 * 6, .k = 144}));
}

}  // namespace
}  // namespace halfbyte::ops
#endif
