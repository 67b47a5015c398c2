// silu_mul against a direct transcription of docs/numerics.md and exact values, and what may not
// change a bit: the batch, the threads, the caller's floating-point environment.
#include "halfbyte/ops/silu_mul/silu_mul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "halfbyte/numerics/exp.h"
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

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr int kInterleaves[] = {0, 1, 8};

float fl(double x) { return static_cast<float>(x); }

// T(x)
float to_type(DType dtype, float x) {
  if (dtype == DType::kBF16) return numerics::to_float(numerics::bf16_from_float(x));
  if (dtype == DType::kF16) return numerics::to_float(numerics::fp16_from_float(x));
  return x;
}

// One element of y. fl() of a double product, sum or quotient of floats is the operation rounded
// once (formats/oracle.h says why); exp has a test of its own.
float transcription(DType dtype, float gate, float up, const Activation& options) {
  if (options.clamp) {
    if (gate > *options.clamp) gate = *options.clamp;
    if (up > *options.clamp) up = *options.clamp;
    if (up < -*options.clamp) up = -*options.clamp;
  }
  const float e = numerics::exp(-fl(double{options.alpha} * gate));
  const float sig = fl(1.0 / fl(1.0 + double{e}));
  float s = fl(double{gate} * sig);
  if (options.rounding == Rounding::kHuggingFace) s = to_type(dtype, s);
  const float u = options.up_bias != 0.0f ? fl(double{up} + options.up_bias) : up;
  return to_type(dtype, fl(double{s} * u));
}

std::vector<Runner> every_runner() {
  std::vector<Runner> runners = {testing::reference_runner()};
  for (Runner& runner : testing::cpu_runners()) runners.push_back(std::move(runner));
  for (Runner& runner : testing::cuda_runners()) runners.push_back(std::move(runner));
  return runners;
}

// gate_up made of gate and up [rows, columns], and a y.
TensorSet set_of(DType dtype, std::int64_t columns, int interleave, const Floats& gate,
                 const Floats& up) {
  const auto rows = static_cast<std::int64_t>(gate.size()) / columns;
  TensorSet set;
  set.add("gate_up", TestTensor(dtype, {rows, 2 * columns}));
  set.add("y", TestTensor(dtype, {rows, columns}));
  Floats in(static_cast<std::size_t>(2 * rows * columns));
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const std::int64_t row = i / columns, k = i % columns;
    const std::int64_t group = interleave == 0 ? columns : interleave;
    const std::int64_t at = 2 * columns * row + k / group * 2 * group + k % group;
    in[static_cast<std::size_t>(at)] = gate[static_cast<std::size_t>(i)];
    in[static_cast<std::size_t>(at + group)] = up[static_cast<std::size_t>(i)];
  }
  testing::fill(set.view("gate_up"), in);
  return set;
}

testing::Operation silu_mul_of(const Activation& options) {
  return [options](const TensorSet& set, const Execution& execution) {
    return silu_mul({set.view("gate_up"), options, set.view("y")}, execution);
  };
}

// Expects every runner to give the transcription's bits.
void expect_transcription(DType dtype, std::int64_t columns, const Floats& gate, const Floats& up,
                          const Activation& options) {
  const TensorSet set = set_of(dtype, columns, options.interleave, gate, up);
  Floats y(gate.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    y[i] = transcription(dtype, to_type(dtype, gate[i]), to_type(dtype, up[i]), options);
  }
  TensorSet expected = set.clone();
  testing::fill(expected.view("y"), y);
  for (const Runner& runner : every_runner()) {
    TensorSet actual = set.clone();
    const base::Status status = runner.run(actual, silu_mul_of(options));
    ASSERT_TRUE(status.ok()) << runner.name << ": " << status.message();
    EXPECT_EQ(testing::first_difference(expected, actual), "")
        << runner.name << ", " << base::dtype_name(dtype) << ", I = " << columns << ", interleave "
        << options.interleave << ", alpha " << options.alpha << ", up_bias " << options.up_bias;
  }
}

Floats random_floats(Random& random, std::int64_t count, float scale) {
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = scale * random.normal();
  return values;
}

TEST(Transcription, EveryOption) {
  Random random(21'000'000);
  for (const DType dtype : kTypes) {
    for (const int interleave : kInterleaves) {
      for (const Rounding rounding : {Rounding::kFloat32, Rounding::kHuggingFace}) {
        for (const float alpha : {1.0f, 1.702f, -0.5f, 0.0f}) {
          for (const float up_bias : {0.0f, 1.0f}) {
            for (const bool clamped : {false, true}) {
              const Floats gate = random_floats(random, 3 * 72, 6),
                           up = random_floats(random, 3 * 72, 6);
              Activation options{.interleave = interleave,
                                 .alpha = alpha,
                                 .up_bias = up_bias,
                                 .rounding = rounding};
              if (clamped) options.clamp = 7.0f;
              expect_transcription(dtype, 72, gate, up, options);
            }
          }
        }
      }
    }
  }
}

// A ragged end, or a vector of the wrong half, shows in the bits.
TEST(Transcription, EveryNumberOfColumns) {
  Random random(22'000'000);
  for (std::int64_t columns = 1; columns <= 200; ++columns) {
    for (const int interleave : kInterleaves) {
      if (interleave == 8 && columns % 8 != 0) continue;
      for (const DType dtype : kTypes) {
        const Floats gate = random_floats(random, 2 * columns, 3),
                     up = random_floats(random, 2 * columns, 1);
        expect_transcription(dtype, columns, gate, up, {.interleave = interleave});
      }
    }
  }
}

TEST(Transcription, WideRows) {
  Random random(23'000'000);
  for (const std::int64_t columns : {2048, 14336, 28672, 53248}) {
    for (const int interleave : kInterleaves) {
      const Floats gate = random_floats(random, columns, 4), up = random_floats(random, columns, 1);
      expect_transcription(DType::kBF16, columns, gate, up,
                           {.interleave = interleave, .clamp = 7.0f});
    }
  }
}

// Every pair of special values, under every option that treats them differently.
TEST(Transcription, SpecialValues) {
  const Floats special = {0.0f,     -0.0f, 1.0f,   -1.0f,     7.0f,       -7.0f,     7.5f,
                          -7.5f,    88.0f, -88.0f, 89.0f,     -89.0f,     -90.5f,    104.0f,
                          -104.0f,  3e38f, -3e38f, 0x1p-149f, -0x1p-149f, 0x1p-126f, -0x1p-133f,
                          0x1p-24f, kInf,  -kInf,  kNan,      -60.0f,     60.0f,     -0x1p-14f};
  Floats gate, up;
  for (const float g : special) {
    for (const float u : special) {
      gate.push_back(g);
      up.push_back(u);
    }
  }
  const auto columns = static_cast<std::int64_t>(2 * special.size());  // a multiple of 8
  ASSERT_EQ(columns % 8, 0);
  for (const DType dtype : kTypes) {
    for (const int interleave : kInterleaves) {
      for (const Rounding rounding : {Rounding::kFloat32, Rounding::kHuggingFace}) {
        for (const float alpha : {1.0f, 0.0f, -0.0f, 1.702f, -1.0f, 1e38f}) {
          for (const float up_bias : {0.0f, -0.0f, 1.0f, 3e38f}) {
            for (const float clamp : {0.0f, 7.0f, 0x1p-140f, 3e38f}) {
              Activation options{.interleave = interleave,
                                 .alpha = alpha,
                                 .up_bias = up_bias,
                                 .rounding = rounding};
              if (clamp != 0.0f) options.clamp = clamp;
              expect_transcription(dtype, columns, gate, up, options);
            }
          }
        }
      }
    }
  }
}

// Bits written down, not computed: y of one element, fp32.
float y_of(float gate, float up, const Activation& options = {}) {
  TensorSet set = set_of(DType::kF32, 1, 0, {gate}, {up});
  EXPECT_TRUE(testing::reference_runner().run(set, silu_mul_of(options)).ok());
  return testing::get(set.view("y"), 0);
}

TEST(ExactValues, Plain) {
  EXPECT_EQ(y_of(0.0f, 5.0f), 0.0f);
  EXPECT_EQ(y_of(104.0f, 2.0f), 208.0f) << "sig is 1";
  EXPECT_EQ(y_of(3.0f, 4.0f, {.alpha = 0.0f}), 6.0f) << "sig is 1/2";
  EXPECT_EQ(y_of(3.0f, 4.0f, {.alpha = 0.0f, .up_bias = 1.0f}), 7.5f);
  EXPECT_EQ(y_of(30.0f, 1.0f), 30.0f) << "1 + exp(-30) is 1";
  EXPECT_EQ(y_of(kInf, 2.0f), kInf);
  EXPECT_TRUE(std::isnan(y_of(-kInf, 2.0f))) << "-Inf * 0, as PyTorch's silu gives";
  EXPECT_TRUE(std::isnan(y_of(kInf, 2.0f, {.alpha = 0.0f}))) << "exp(0 * Inf)";
  EXPECT_TRUE(std::isnan(y_of(kNan, 0.0f)));
  EXPECT_TRUE(std::isnan(y_of(1.0f, kNan)));
  EXPECT_TRUE(std::isnan(y_of(0.0f, kInf)));
}

TEST(ExactValues, SignsOfZero) {
  EXPECT_TRUE(std::signbit(y_of(-100.0f, 2.0f))) << "exp overflows: -100 * 0";
  EXPECT_EQ(y_of(-100.0f, 2.0f), 0.0f);
  EXPECT_TRUE(std::signbit(y_of(-0.0f, 2.0f)));
  EXPECT_TRUE(std::signbit(y_of(2.0f, -0.0f))) << "no bias is no addition";
  EXPECT_TRUE(std::signbit(y_of(2.0f, -0.0f, {.up_bias = -0.0f})));
  EXPECT_FALSE(std::signbit(y_of(2.0f, -1.0f, {.up_bias = 1.0f})));
}

TEST(ExactValues, Clamp) {
  const Activation options{.clamp = 3.0f, .alpha = 0.0f};
  EXPECT_EQ(y_of(5.0f, 2.0f, options), 3.0f);
  EXPECT_EQ(y_of(kInf, 2.0f, options), 3.0f);
  EXPECT_EQ(y_of(-5.0f, 2.0f, options), -5.0f) << "the gate is clamped from above only";
  EXPECT_EQ(y_of(2.0f, 5.0f, options), 3.0f);
  EXPECT_EQ(y_of(2.0f, -kInf, options), -3.0f);
  EXPECT_EQ(y_of(2.0f, 5.0f, {.clamp = 3.0f, .alpha = 0.0f, .up_bias = 1.0f}), 4.0f)
      << "the bias comes after the clamp";
  EXPECT_TRUE(std::isnan(y_of(kNan, 2.0f, options)));
  EXPECT_TRUE(std::isnan(y_of(2.0f, kNan, options)));
}

// bf16, alpha 0, so s = gate / 2, and u = 1 + 2^-9 is more than a bf16. float32 takes s * u as it
// is; with a gate clamped to a value that is no bf16, huggingface rounds s before the product too.
TEST(ExactValues, TwoRoundings) {
  const auto y = [](Activation options, Rounding rounding) {
    options.rounding = rounding;
    TensorSet set = set_of(DType::kBF16, 1, 0, {2.0f}, {1.0f});
    EXPECT_TRUE(testing::reference_runner().run(set, silu_mul_of(options)).ok());
    return testing::get(set.view("y"), 0);
  };
  // s = (1 + 2^-8 + 2^-20) / 2 goes up to a bf16, and with u = 1 + 2^-8 from there up once more.
  const Activation options{.clamp = 1.0f + 0x1p-8f + 0x1p-20f, .alpha = 0.0f, .up_bias = 0x1p-8f};
  EXPECT_EQ(y(options, Rounding::kFloat32), 0x1.02p-1f);
  EXPECT_EQ(y(options, Rounding::kHuggingFace), 0x1.04p-1f);
}

// The formula itself, in double. y differs by the rounding of z (a relative error 2^-24 of z, which
// exp turns into |z| * 2^-24), exp (0.892 ulp), 1 + e, sig, s and y: for |gate| < 24 under
// (24 + 2 + 4) * 2^-24 of y.
TEST(Formula, InDouble) {
  Random random(26'000'000);
  const std::int64_t columns = 4096;
  const Floats gate = random_floats(random, columns, 4), up = random_floats(random, columns, 1);
  TensorSet set = set_of(DType::kF32, columns, 0, gate, up);
  ASSERT_TRUE(testing::reference_runner().run(set, silu_mul_of({.alpha = 1.0f})).ok());
  const Floats y = testing::values(set.view("y"));
  for (std::size_t k = 0; k < y.size(); ++k) {
    ASSERT_LT(std::fabs(gate[k]), 24.0f);
    const double expected = gate[k] / (1.0 + std::exp(-double{gate[k]})) * up[k];
    EXPECT_NEAR(y[k], expected, std::fabs(expected) * 30 * 0x1p-24);
  }
}

TEST(EveryHalf, AsGate) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    Floats gate(65536);
    for (std::uint32_t i = 0; i < 65536; ++i) {
      gate[i] = dtype == DType::kBF16
                    ? numerics::to_float(numerics::Bf16{static_cast<std::uint16_t>(i)})
                    : numerics::to_float(numerics::Fp16{static_cast<std::uint16_t>(i)});
    }
    for (const float up : {1.0f, -0.7265625f, 3e4f}) {
      for (const float alpha : {1.0f, 1.702f}) {
        for (const Rounding rounding : {Rounding::kFloat32, Rounding::kHuggingFace}) {
          expect_transcription(dtype, 1024, gate, Floats(gate.size(), up),
                               {.alpha = alpha, .rounding = rounding});
        }
      }
    }
  }
}

// silu_mul_quantize of bf16 with row scales.
TensorSet fused_set(Random& random, std::int64_t rows, std::int64_t columns) {
  TensorSet set = set_of(DType::kBF16, columns, 0, random_floats(random, rows * columns, 3),
                         random_floats(random, rows * columns, 1));
  set.add("codes", TestTensor(DType::kU8, {rows, columns / 2}));
  set.add("scales", TestTensor(DType::kU8, {rows * columns / 16}));
  set.add("row_scale", TestTensor(DType::kF32, {rows}));
  return set;
}
base::Status fused(const TensorSet& set, const Execution& execution) {
  SiluMulQuantizeArgs args;
  args.gate_up = set.view("gate_up");
  args.spec.scale = ScaleMode::kRow;
  args.out.codes = set.view("codes");
  args.out.scales = set.view("scales");
  args.out.row_scale = set.view("row_scale");
  return silu_mul_quantize(args, execution);
}

// A row's bytes of every argument, where rows of `from` and `to` have one size.
void copy_row(const TensorSet& from, std::int64_t from_row, std::int64_t rows,
              const TensorSet& to) {
  for (const char* name : {"gate_up", "codes", "scales", "row_scale"}) {
    const TensorView a = from.view(name), b = to.view(name);
    const std::int64_t count = a.numel() / rows;
    for (std::int64_t k = 0; k < count; ++k) {
      testing::set_bits(b, k, testing::get_bits(a, from_row * count + k));
    }
  }
}

TEST(BatchInvariance, ARowAloneGivesTheSameBits) {
  for (const std::int64_t columns : {32, 1040, 7168}) {
    Random random(28'000'000);
    const TensorSet batch = fused_set(random, 33, columns);
    for (const Runner& runner : every_runner()) {
      TensorSet together = batch.clone();
      ASSERT_TRUE(runner.run(together, fused).ok());
      for (std::int64_t row = 0; row < 33; row += 4) {
        TensorSet alone = fused_set(random, 1, columns);
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
  Random random(29'000'000);
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
  // exp, its reciprocal and the products go through subnormals.
  Random random(30'000'000);
  Floats gate, up;
  for (int i = 0; i < 600 * 64; ++i) {
    gate.push_back(-83.0f - 10.0f * std::fabs(random.uniform()));
    up.push_back(random.one_in(2) ? random.uniform() : std::ldexp(random.uniform(), -126));
  }
  const TensorSet set = set_of(DType::kF32, 64, 0, gate, up);
  for (const float alpha : {1.0f, -1.0f}) {
    const testing::Operation operation = silu_mul_of({.alpha = alpha});
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
