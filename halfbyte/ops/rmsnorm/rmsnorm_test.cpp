// rmsnorm against a direct transcription of docs/numerics.md, and what may not change a bit: the
// batch, the threads, the caller's floating-point environment, fusion's optional outputs.
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/common/testing_random.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using testing::Random;
using testing::Runner;
using testing::TensorSet;
using testing::TestTensor;
using Floats = std::vector<float>;

struct Options {
  float eps = 1e-6f;
  Rounding rounding = Rounding::kFloat32;
  bool bias = false;
};

float fl(double x) { return static_cast<float>(x); }

// T(x)
float to_type(DType dtype, float x) {
  if (dtype == DType::kBF16) return numerics::to_float(numerics::bf16_from_float(x));
  if (dtype == DType::kF16) return numerics::to_float(numerics::fp16_from_float(x));
  return x;
}

// The canonical order: a leaf of 16 elements, and the tree over [begin, begin + leaves).
float leaf_sum(const Floats& h, std::size_t leaf) {
  const auto at = [&](std::size_t i) { return 16 * leaf + i < h.size() ? h[16 * leaf + i] : 0.0f; };
  float e = fl(double{at(0)} * at(0)), o = fl(double{at(1)} * at(1));
  for (std::size_t i = 2; i < 16; i += 2) {
    e = std::fma(at(i), at(i), e);
    o = std::fma(at(i + 1), at(i + 1), o);
  }
  return fl(double{e} + o);
}
float tree_sum(const Floats& h, std::size_t begin, std::size_t leaves) {
  if (leaves == 1) return leaf_sum(h, begin);
  return fl(double{tree_sum(h, begin, leaves / 2)} + tree_sum(h, begin + leaves / 2, leaves / 2));
}

// One row: y, and h in place of the residual if there is one. fl() of a double sum, product, root
// or quotient of floats is the operation rounded once (formats/oracle.h says why).
Floats transcription(DType dtype, const Floats& x, const Floats& weight, Floats* residual,
                     const Options& options) {
  Floats h = x;
  if (residual != nullptr) {
    for (std::size_t k = 0; k < h.size(); ++k) {
      h[k] = to_type(dtype, fl(double{x[k]} + (*residual)[k]));
    }
    *residual = h;
  }
  std::size_t leaves = 1;
  while (leaves * 16 < h.size()) leaves *= 2;
  const float ss = tree_sum(h, 0, leaves);
  const float mean = fl(double{ss} / static_cast<double>(h.size()));
  const float root = fl(std::sqrt(double{fl(double{mean} + options.eps)}));
  const float rstd = fl(1.0 / root);
  Floats y(h.size());
  for (std::size_t k = 0; k < h.size(); ++k) {
    const float w = options.bias ? fl(double{weight[k]} + 1.0) : weight[k];
    float scaled = fl(double{h[k]} * rstd);
    if (options.rounding == Rounding::kHuggingFace) scaled = to_type(dtype, scaled);
    y[k] = to_type(dtype, fl(double{scaled} * w));
  }
  return y;
}

std::vector<Runner> every_runner() {
  std::vector<Runner> runners = {testing::reference_runner()};
  for (Runner& runner : testing::cpu_runners()) runners.push_back(std::move(runner));
  for (Runner& runner : testing::cuda_runners()) runners.push_back(std::move(runner));
  return runners;
}

TensorSet norm_set(Random& random, DType dtype, std::int64_t rows, std::int64_t columns,
                   bool residual) {
  TensorSet set;
  const auto add = [&](const char* name, std::vector<std::int64_t> shape, bool filled) {
    set.add(name, TestTensor(dtype, std::move(shape)));
    const TensorView view = set.view(name);
    for (std::int64_t i = 0; filled && i < view.numel(); ++i)
      testing::set(view, i, random.normal());
  };
  add("x", {rows, columns}, true);
  add("weight", {columns}, true);
  if (residual) add("residual", {rows, columns}, true);
  add("y", {rows, columns}, false);
  return set;
}

testing::Operation rmsnorm_of(const Options& options) {
  return [options](const TensorSet& set, const Execution& execution) {
    return rmsnorm({.norm = {.x = set.view("x"),
                             .weight = set.view("weight"),
                             .residual = set.view("residual"),
                             .eps = options.eps,
                             .rounding = options.rounding,
                             .weight_bias = options.bias},
                    .y = set.view("y")},
                   execution);
  };
}

Floats row_of(const Floats& all, std::int64_t row, std::int64_t columns) {
  return Floats(all.begin() + row * columns, all.begin() + (row + 1) * columns);
}

// Expects every runner to give the transcription's bits on every row of the set.
void expect_transcription(const TensorSet& set, const Options& options, const std::string& what) {
  const TensorView x = set.view("x");
  const DType dtype = x.dtype;
  const std::int64_t rows = x.shape[0], columns = x.shape[1];
  TensorSet expected = set.clone();
  const Floats xs = testing::values(x), weight = testing::values(set.view("weight"));
  const bool has_residual = static_cast<bool>(set.view("residual"));
  const Floats residuals = has_residual ? testing::values(set.view("residual")) : Floats{};
  Floats y, h;
  for (std::int64_t row = 0; row < rows; ++row) {
    Floats residual = has_residual ? row_of(residuals, row, columns) : Floats{};
    const Floats of_row = transcription(dtype, row_of(xs, row, columns), weight,
                                        has_residual ? &residual : nullptr, options);
    y.insert(y.end(), of_row.begin(), of_row.end());
    h.insert(h.end(), residual.begin(), residual.end());
  }
  testing::fill(expected.view("y"), y);
  if (has_residual) testing::fill(expected.view("residual"), h);
  for (const Runner& runner : every_runner()) {
    TensorSet actual = set.clone();
    const base::Status status = runner.run(actual, rmsnorm_of(options));
    ASSERT_TRUE(status.ok()) << runner.name << ": " << status.message();
    EXPECT_EQ(testing::first_difference(expected, actual), "") << runner.name << ", " << what;
  }
}

TEST(Transcription, EveryOption) {
  Random random(11'000'000);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const bool residual : {false, true}) {
      for (const Rounding rounding : {Rounding::kFloat32, Rounding::kHuggingFace}) {
        for (const bool bias : {false, true}) {
          for (const float eps : {0.0f, 1e-6f, 0.5f}) {
            expect_transcription(norm_set(random, dtype, 3, 100, residual), {eps, rounding, bias},
                                 std::string(base::dtype_name(dtype)));
          }
        }
      }
    }
  }
}

// A wrong tree, a leaf left out or an element of a row unprocessed shows in the bits.
TEST(Transcription, EveryNumberOfBlocks) {
  Random random(12'000'000);
  for (std::int64_t blocks = 1; blocks <= 600; ++blocks) {
    expect_transcription(norm_set(random, DType::kBF16, 1, 16 * blocks, blocks % 2 == 0), {},
                         "H = " + std::to_string(16 * blocks));
  }
}
TEST(Transcription, ShortLastLeaf) {
  Random random(13'000'000);
  for (std::int64_t columns = 1; columns <= 300; ++columns) {
    expect_transcription(norm_set(random, DType::kF32, 2, columns, columns % 3 == 0), {},
                         "H = " + std::to_string(columns));
  }
}
// Launches that capped their width left part of such rows unprocessed in other libraries.
TEST(Transcription, WideRows) {
  Random random(14'000'000);
  for (const std::int64_t columns : {7168, 12800, 18432, 28672, 53248, 131072}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      expect_transcription(norm_set(random, dtype, 2, columns, true), {},
                           "H = " + std::to_string(columns));
    }
  }
}

TEST(Transcription, SpecialValues) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Random random(15'000'000);
  TensorSet set = norm_set(random, DType::kF32, 7, 48, false);
  const TensorView x = set.view("x");
  testing::set(x, 5, std::numeric_limits<float>::quiet_NaN());
  testing::set(x, 48 + 7, kInf);                                     // rstd 0: 0, and NaN there
  for (int k = 0; k < 48; ++k) testing::set(x, 2 * 48 + k, 0.0f);    // eps 0: 0 * Inf
  for (int k = 0; k < 48; ++k) testing::set(x, 3 * 48 + k, 1e30f);   // the sum overflows
  for (int k = 0; k < 48; ++k) testing::set(x, 4 * 48 + k, 1e-30f);  // the sum underflows
  for (int k = 0; k < 48; ++k) testing::set(x, 5 * 48 + k, 1e-21f);  // its leaves are subnormal
  for (int k = 0; k < 48; ++k) testing::set(x, 6 * 48 + k, -0.0f);
  for (const float eps : {0.0f, 1e-6f, 1e-45f}) expect_transcription(set, {eps}, "special values");
}

// The formula itself, in double. y differs by the rounding of ss (each term passes one leaf chain
// and the tree: at most 8 + 1 + log2(H/16) roundings of 2^-24), of mean, eps, root, rstd and the
// two products: under 32 * 2^-24 of y for H = 4096 in fp32.
TEST(Formula, InDouble) {
  Random random(16'000'000);
  const std::int64_t columns = 4096;
  TensorSet set = norm_set(random, DType::kF32, 4, columns, false);
  ASSERT_TRUE(testing::reference_runner().run(set, rmsnorm_of({})).ok());
  const Floats x = testing::values(set.view("x")), w = testing::values(set.view("weight")),
               y = testing::values(set.view("y"));
  for (std::size_t row = 0; row < 4; ++row) {
    double sum = 0.0;
    for (std::size_t k = 0; k < columns; ++k)
      sum += double{x[row * columns + k]} * x[row * columns + k];
    const double scale = 1.0 / std::sqrt(sum / columns + 1e-6);
    for (std::size_t k = 0; k < columns; ++k) {
      const double expected = x[row * columns + k] * scale * w[k];
      EXPECT_NEAR(y[row * columns + k], expected, std::fabs(expected) * 32 * 0x1p-24);
    }
  }
}

// A bias of 0 means no addition: fl(-0 + 0) would turn the sign of y.
TEST(Weight, NegativeZeroStays) {
  Random random(17'000'000);
  TensorSet set = norm_set(random, DType::kF32, 1, 16, false);
  testing::fill(set.view("x"), {1.0f});
  testing::fill(set.view("weight"), {-0.0f});
  expect_transcription(set, {}, "weight -0");
  ASSERT_TRUE(testing::reference_runner().run(set, rmsnorm_of({})).ok());
  EXPECT_TRUE(std::signbit(testing::get(set.view("y"), 0)));
}

// rmsnorm_quantize of bf16 x with a residual, everything asked for.
TensorSet fused_set(Random& random, std::int64_t rows, std::int64_t columns) {
  TensorSet set = norm_set(random, DType::kBF16, rows, columns, true);
  set.add("codes", TestTensor(DType::kU8, {rows, columns / 2}));
  set.add("scales", TestTensor(DType::kU8, {rows * columns / 16}));
  set.add("row_scale", TestTensor(DType::kF32, {rows}));
  return set;
}
base::Status fused(const TensorSet& set, const Execution& execution) {
  RmsNormQuantizeArgs args;
  args.norm = {.x = set.view("x"), .weight = set.view("weight"), .residual = set.view("residual")};
  args.normed = set.view("y");
  args.spec.scale = ScaleMode::kRow;
  args.out.codes = set.view("codes");
  args.out.scales = set.view("scales");
  args.out.row_scale = set.view("row_scale");
  return rmsnorm_quantize(args, execution);
}

// A row's bytes of every argument, where rows of `from` and `to` have one size.
void copy_row(const TensorSet& from, std::int64_t from_row, std::int64_t rows,
              const TensorSet& to) {
  for (const char* name : {"x", "residual", "y", "codes", "scales", "row_scale"}) {
    const TensorView a = from.view(name), b = to.view(name);
    const std::int64_t count = a.numel() / rows;
    for (std::int64_t k = 0; k < count; ++k) {
      testing::set_bits(b, k, testing::get_bits(a, from_row * count + k));
    }
  }
}

TEST(BatchInvariance, ARowAloneGivesTheSameBits) {
  for (const std::int64_t columns : {32, 1040, 7168}) {
    Random random(18'000'000);
    const TensorSet batch = fused_set(random, 33, columns);
    for (const Runner& runner : every_runner()) {
      TensorSet together = batch.clone();
      ASSERT_TRUE(runner.run(together, fused).ok());
      for (std::int64_t row = 0; row < 33; row += 4) {
        Random one(18'000'000);
        TensorSet alone = fused_set(one, 1, columns);
        testing::fill(alone.view("weight"), testing::values(batch.view("weight")));
        TensorSet expected = alone.clone();
        copy_row(batch, row, 33, alone);
        copy_row(together, row, 33, expected);
        ASSERT_TRUE(runner.run(alone, fused).ok());
        EXPECT_EQ(testing::first_difference(expected, alone), "") << runner.name << " row " << row;
      }
    }
  }
}

TEST(ThreadInvariance, EveryNumberOfThreads) {
  Random random(19'000'000);
  const TensorSet set = fused_set(random, 61, 4096);
  TensorSet expected = set.clone();
  ASSERT_TRUE(testing::reference_runner().run(expected, fused).ok());
  for (int threads = 0; threads <= 16; ++threads) {
    Execution execution;
    execution.num_threads = threads;
    TensorSet actual = set.clone();
    ASSERT_TRUE(fused(actual, execution).ok());
    EXPECT_EQ(testing::first_difference(expected, actual), "") << threads << " threads";
  }
}

#if defined(__x86_64__)
TEST(FloatEnvironment, TheCallersChangesNothing) {
  Random random(20'000'000);
  TensorSet set = fused_set(random, 600, 64);
  for (const char* name : {"x", "residual"}) {  // squares near the smallest normal number
    for (std::int64_t i = 0; i < 600 * 64; ++i) {
      testing::set(set.view(name), i, std::ldexp(random.uniform(), random.one_in(2) ? -64 : -127));
    }
  }
  for (const float eps : {0.0f, 1e-40f}) {
    const auto operation = [=](const TensorSet& tensors, const Execution& execution) {
      return rmsnorm_of({eps})(tensors, execution);
    };
    TensorSet expected = set.clone();
    ASSERT_TRUE(testing::reference_runner().run(expected, operation).ok());
    const unsigned saved = _mm_getcsr();
    for (const unsigned changed : {0x8040u, 0x2000u, 0x4000u, 0x6000u, 0xE040u}) {
      for (const Runner& runner : every_runner()) {
        TensorSet actual = set.clone();
        _mm_setcsr(saved | changed);
        const base::Status status = runner.run(actual, operation);
        const unsigned after = _mm_getcsr();
        _mm_setcsr(saved);
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_EQ(after & 0xFFC0u, (saved | changed) & 0xFFC0u);
        EXPECT_EQ(testing::first_difference(expected, actual), "") << runner.name << " " << changed;
      }
    }
  }
}
#endif

}  // namespace
}  // namespace halfbyte::ops
