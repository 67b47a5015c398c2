// method = fp8 on CUDA, random products: every element within the tensor cores' error of the
// product of the E4M3 operands, hence within the declared bound of the exact one; the same bits
// every time; nothing written beside C.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "halfbyte/formats/fp8.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_fp8_math.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::Random;

// One row of an operand: its values, the values of its E4M3 form, how far those may be off.
struct Row {
  std::vector<double> exact, fp8, off;
  float factor = 1.0f;  // of fp8
  float decode = 1.0f;  // of exact
};

template <class Code, class Scale>
Row fp4_row(const GemmProblem& problem, const Code& code, const Scale& scale, float decode) {
  int rank = 0;
  for (std::int64_t i = 0; i < problem.blocks(); ++i)
    rank = std::max(rank, fp8_scale_rank(problem.format, scale(i)));
  const int shift = fp8_shift(problem.format, rank);
  const bool nvfp4 = problem.format == Format::kNvfp4;
  Row row;
  row.factor = numerics::mul_rn(decode, fp8_factor(shift));
  row.decode = decode;
  const double least =  // the error of what is small beside the row's largest
      nvfp4 ? std::ldexp(
                  static_cast<double>(formats::e4m3_to_float(static_cast<std::uint8_t>(rank))), -15)
            : std::ldexp(1.0, rank - 127 - 16);
  for (std::int64_t k = 0; k < problem.k; ++k) {
    const std::uint8_t c = code(k), s = scale(k / problem.block());
    const float value = nvfp4 ? formats::e4m3_to_float(s) : formats::e8m0_to_float(s);
    row.exact.push_back(static_cast<double>(formats::e2m1_to_float(c)) *
                        static_cast<double>(value));
    row.fp8.push_back(
        static_cast<double>(formats::e4m3_to_float(fp8_of_fp4(problem.format, c, s, shift))));
    const bool exact = !nvfp4 && rank - s <= 14;
    row.off.push_back(
        exact ? 0 : std::max(nvfp4 ? std::ldexp(std::fabs(row.exact.back()), -4) : 0, least));
  }
  return row;
}

Row weight_row(const GemmProblem& problem, std::int64_t n) {
  const float decode = problem.b_scale.decode(0);
  if (problem.form == WeightForm::kPrepared) {
    const PreparedRow row(problem.b_prepared, problem.format, problem.k, n);
    return fp4_row(
        problem, [&](std::int64_t k) { return row.code(k); },
        [&](std::int64_t i) { return row.scale(i); }, decode);
  }
  const std::uint8_t* codes = problem.b_codes + problem.b_rows.offset(n);
  return fp4_row(
      problem,
      [&](std::int64_t k) { return formats::e2m1_unpack(codes[k / 2], static_cast<int>(k % 2)); },
      [&](std::int64_t i) {
        return problem.b_scales[formats::scale_offset(problem.b_layout, n, i, problem.blocks())];
      },
      decode);
}

Row activation_row(const GemmProblem& problem, std::int64_t m) {
  if (problem.quantized) {
    const std::uint8_t* codes = problem.a_codes + problem.a_rows.offset(m);
    return fp4_row(
        problem,
        [&](std::int64_t k) { return formats::e2m1_unpack(codes[k / 2], static_cast<int>(k % 2)); },
        [&](std::int64_t i) {
          return problem.a_scales[formats::scale_offset(problem.a_layout, m, i, problem.blocks())];
        },
        problem.a_scale.decode(m));
  }
  const std::int64_t offset = problem.x_rows.offset(m);
  std::vector<float> x;
  std::uint32_t most = 0;
  for (std::int64_t k = 0; k < problem.k; ++k) {
    const std::uint16_t bits = static_cast<const std::uint16_t*>(problem.x)[offset + k];
    x.push_back(problem.x_dtype == DType::kBF16 ? numerics::to_float(numerics::Bf16{bits})
                                                : numerics::to_float(numerics::Fp16{bits}));
    most = std::max(most, numerics::abs_bits(x.back()));
  }
  const formats::Fp8Scale scale = formats::fp8_scale_from_amax(numerics::bits_float(most));
  Row row;
  row.factor = scale.decode;
  for (const float v : x) {
    row.exact.push_back(static_cast<double>(v));
    row.fp8.push_back(static_cast<double>(formats::e4m3_to_float(formats::fp8_encode(v, scale))));
    // The scale and its inverse are rounded: 2^-22 of a value more.
    row.off.push_back(std::ldexp(std::fabs(static_cast<double>(v)), -4) * (1 + 0x1p-16) +
                      std::ldexp(static_cast<double>(scale.decode), -10));
  }
  return row;
}

struct Element {
  double fp8 = 0, magnitude = 0;  // of the sum of the E4M3 products
  double exact = 0, off = 0;
};
Element element_of(const Row& a, const Row& b) {
  Element e;
  for (std::size_t k = 0; k < a.fp8.size(); ++k) {
    e.fp8 += a.fp8[k] * b.fp8[k];
    e.magnitude += std::fabs(a.fp8[k] * b.fp8[k]);
    e.exact += a.exact[k] * b.exact[k];
    e.off +=
        std::fabs(a.exact[k]) * b.off[k] + std::fabs(b.exact[k]) * a.off[k] + a.off[k] * b.off[k];
  }
  return e;
}

// What the tensor cores may add, of the sum of magnitudes (docs/numerics.md).
constexpr double kSumError = 0x1p-5;

double rounding(DType dtype, double v) {
  if (dtype == DType::kF32) return std::ldexp(std::fabs(v), -23) + 0x1p-120;
  return dtype == DType::kBF16 ? std::ldexp(std::fabs(v), -8) + 0x1p-120
                               : std::ldexp(std::fabs(v), -11) + 0x1p-25;
}
double largest(DType dtype) {
  return dtype == DType::kF16 ? 65504.0
                              : static_cast<double>(std::numeric_limits<float>::max()) / 2;
}

struct Counts {
  std::int64_t all = 0, compared = 0;
};

void compare(const GemmProblem& problem, const TensorView& c, Counts& counts) {
  std::vector<Row> weights;
  for (std::int64_t n = 0; n < problem.n; ++n) weights.push_back(weight_row(problem, n));
  for (std::int64_t m = 0; m < problem.m; ++m) {
    const Row a = activation_row(problem, m);
    for (std::int64_t n = 0; n < problem.n; ++n) {
      const Row& b = weights[static_cast<std::size_t>(n)];
      const Element e = element_of(a, b);
      const auto got = static_cast<double>(testing::get(c, problem.c_rows.offset(m) + n));
      double bias = 0;
      if (problem.bias != nullptr) {
        const TensorView view(const_cast<void*>(problem.bias), problem.bias_dtype, {problem.n});
        bias = static_cast<double>(testing::get(view, n));
      }
      const double factor = static_cast<double>(a.factor) * static_cast<double>(b.factor);
      const double expected = e.fp8 * factor + bias;
      const auto where = [&] { return ::testing::Message() << "[" << m << ", " << n << "]"; };
      ++counts.all;
      if (std::isnan(e.fp8) || std::isnan(factor) || std::isnan(bias)) {
        ASSERT_TRUE(std::isnan(got)) << where() << " is " << got;
        ++counts.compared;
        continue;
      }
      // At the ends of the range the order of the factors counts.
      const double size = e.magnitude * std::fabs(factor);
      const auto ordinary = [](float f) {
        return std::fabs(f) > 0x1p-80f && std::fabs(f) < 0x1p80f;
      };
      if (!ordinary(a.factor) || !ordinary(b.factor) || !(size < 0x1p120)) continue;
      if (std::isinf(bias)) {
        ASSERT_EQ(got, bias) << where();
        continue;
      }
      const double room = kSumError * size + std::ldexp(std::fabs(bias) + size, -21);
      if (std::fabs(expected) + room >= largest(problem.c_dtype)) continue;
      const double tolerance = room + rounding(problem.c_dtype, std::fabs(expected) + room);
      ASSERT_LE(std::fabs(got - expected), tolerance)
          << where() << ": " << got << " for " << expected;
      ++counts.compared;
      // Inf in A counts as FLT_MAX; d of a row below 2^-117 is subnormal, with few bits.
      if (!std::isfinite(e.exact) || (!problem.quantized && a.factor < 0x1p-126f)) continue;
      const double scales = static_cast<double>(a.decode) * static_cast<double>(b.decode);
      ASSERT_LE(std::fabs(got - (e.exact * scales + bias)),
                tolerance + e.off * std::fabs(scales) * (1 + 0x1p-20))
          << where() << ": beyond the declared bound";
    }
  }
}

void expect_within_bound(const testing::GemmCase& product, Counts& counts) {
  SCOPED_TRACE(product.text);
  const testing::Case test = testing::gemm_case(product);
  std::vector<testing::TensorSet> results;
  for (const testing::Runner& runner : testing::cuda_runners()) {
    results.push_back(test.tensors.clone());
    const base::Status status = runner.run(results.back(), test.operation);
    ASSERT_TRUE(status.ok()) << runner.name << ": " << status.message();
    ASSERT_EQ(testing::first_difference(results.front(), results.back()), "") << runner.name;
  }
  const testing::TensorSet& result = results.front();
  // All but the elements of C is as it was.
  testing::TensorSet expected = test.tensors.clone();
  const TensorView from = result.view("c"), to = expected.view("c");
  for (const std::int64_t row : testing::row_offsets(from)) {
    for (std::int64_t n = 0; n < from.shape[from.ndim - 1]; ++n)
      testing::set_bits(to, row + n, testing::get_bits(from, row + n));
  }
  ASSERT_EQ(testing::first_difference(expected, result), "");
  OverlapCheck overlap;
  const base::Result<GemmProblem> problem =
      resolve_gemm(testing::gemm_args(product, result), GemmCheck::kCall, overlap);
  ASSERT_TRUE(problem.ok());
  compare(problem.value(), from, counts);
}

void expect_within_bound(testing::GemmChoices choices, std::uint64_t seed, int cases) {
  if (testing::cuda_runners().empty()) GTEST_SKIP() << "no CUDA device";
  choices.method = GemmMethod::kFp8;
  if (const char* most = std::getenv("HALFBYTE_TEST_CASES")) {
    cases = std::min(cases, std::atoi(most));
  }
  Counts counts;
  for (int i = 0; i < cases; ++i) {
    Random random(seed + static_cast<std::uint64_t>(i));
    testing::GemmCase product = testing::random_gemm(random, choices);
    expect_within_bound(product, counts);
    if (::testing::Test::HasFatalFailure()) return;
  }
  EXPECT_GT(counts.compared, counts.all / 4);
}

TEST(GemmCudaFp8, QuantizedActivations) { expect_within_bound({}, 30'000'000, 400); }
TEST(GemmCudaFp8, ActivationsOf16Bits) {
  expect_within_bound({.quantized = false}, 31'000'000, 400);
}

TEST(GemmCudaFp8, LargerShapes) {
  if (testing::cuda_runners().empty()) GTEST_SKIP() << "no CUDA device";
  Counts counts;
  std::uint64_t seed = 32'000'000;
  for (const testing::GemmShape& shape :
       {testing::GemmShape{.m = 300, .n = 264, .k = 4096},
        testing::GemmShape{.format = Format::kMxfp4, .m = 130, .n = 256, .k = 2048 + 32},
        testing::GemmShape{.m = 33, .n = 96, .k = 28672},  // beyond what a thread holds
        testing::GemmShape{.m = 3, .n = 16, .k = 65536 + 16},
        testing::GemmShape{.m = 300, .n = 49152, .k = 16}}) {  // sums in parts
    for (const bool quantized : {true, false}) {
      for (const bool plain : {true, false}) {
        Random random(seed++);
        expect_within_bound(
            testing::random_gemm(
                random,
                {.quantized = quantized, .plain_weights = plain, .method = GemmMethod::kFp8},
                shape),
            counts);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace halfbyte::ops
