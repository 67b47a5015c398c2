// rope against values worked out by hand and a direct transcription of docs/numerics.md, and what
// may not change a bit: strides, threads, stores past the caches.
#include "halfbyte/ops/rope/rope.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "halfbyte/ops/rope/rope_testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using testing::Random;
using testing::RopeOptions;
using testing::Runner;
using testing::TensorSet;
using testing::TestTensor;
using Floats = std::vector<float>;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr RopeStyle kStyles[] = {RopeStyle::kNeox, RopeStyle::kGptj};

// Random x and tables of 50 positions, dense; positions in no order, one of them twice.
TensorSet rope_set(Random& random, DType dtype, std::int64_t tokens, std::int64_t heads,
                   std::int64_t dim, std::int64_t rope_dim) {
  TensorSet set;
  set.add("x", TestTensor(dtype, {tokens, heads, dim}));
  set.add("y", TestTensor(dtype, {tokens, heads, dim}));
  set.add("cos", TestTensor(DType::kF32, {50, rope_dim / 2}));
  set.add("sin", TestTensor(DType::kF32, {50, rope_dim / 2}));
  set.add("positions", TestTensor(random.one_in(2) ? DType::kI32 : DType::kI64, {tokens}));
  for (const char* name : {"x", "cos", "sin"}) {
    const TensorView view = set.view(name);
    for (std::int64_t i = 0; i < view.numel(); ++i) testing::set(view, i, random.normal());
  }
  testing::fill_positions(set.view("positions"), {7, 0, 49, 7, 30, 1, 2});
  return set;
}

// One token, one head; every runner must give `expected` (NaN: any NaN), in place and not.
void expect_head(DType dtype, RopeStyle style, bool inverse, const Floats& x, const Floats& cos,
                 const Floats& sin, const Floats& expected) {
  const auto dim = static_cast<std::int64_t>(x.size());
  for (const bool in_place : {false, true}) {
    TensorSet set;
    set.add("x", TestTensor(dtype, {1, 1, dim}));
    set.add("y", TestTensor(dtype, {1, 1, dim}));
    set.add("cos", TestTensor(DType::kF32, {1, dim / 2}));
    set.add("sin", TestTensor(DType::kF32, {1, dim / 2}));
    set.add("positions", TestTensor(DType::kI32, {1}));
    testing::fill(set.view("x"), x);
    testing::fill(set.view("cos"), cos);
    testing::fill(set.view("sin"), sin);
    testing::set_position(set.view("positions"), 0, 0);
    TensorSet right = set.clone();
    testing::fill(right.view(in_place ? "x" : "y"), expected);
    const RopeOptions options{.style = style, .inverse = inverse, .in_place = in_place};
    for (const Runner& runner : testing::every_runner()) {
      TensorSet actual = set.clone();
      const base::Status status = runner.run(actual, rope_of(options));
      ASSERT_TRUE(status.ok()) << runner.name << ": " << status.message();
      EXPECT_EQ(testing::first_difference(right, actual), "")
          << runner.name << ", " << base::dtype_name(dtype) << ", " << describe(options);
    }
  }
}

void expect_transcription(const TensorSet& set, const RopeOptions& options) {
  TensorSet expected = set.clone();
  testing::transcribe(expected, options);
  for (const Runner& runner : testing::every_runner()) {
    TensorSet actual = set.clone();
    const base::Status status = runner.run(actual, rope_of(options));
    ASSERT_TRUE(status.ok()) << runner.name << ": " << status.message();
    EXPECT_EQ(testing::first_difference(expected, actual), "")
        << runner.name << ", " << describe(options) << "\n"
        << set.describe();
  }
}

TEST(ByHand, Pairs) {
  const Floats x = {1, 2, 3, 4}, cos = {0.5f, 2}, sin = {0.25f, -1};
  for (const DType dtype : kTypes) {
    expect_head(dtype, RopeStyle::kNeox, false, x, cos, sin, {-0.25f, 8, 1.75f, 6});
    expect_head(dtype, RopeStyle::kNeox, true, x, cos, sin, {1.25f, 0, 1.25f, 10});
    expect_head(dtype, RopeStyle::kGptj, false, x, cos, sin, {0, 1.25f, 10, 5});
    expect_head(dtype, RopeStyle::kGptj, true, x, cos, sin, {1, 0.75f, 2, 11});
  }
}

// A quarter turn takes (a, b) to (-b, a), half a turn negates: all exact, and undone exactly.
TEST(ByHand, Turns) {
  for (const DType dtype : kTypes) {
    expect_head(dtype, RopeStyle::kNeox, false, {3, 5, -7, 9}, {0, 0}, {1, 1}, {7, -9, 3, 5});
    expect_head(dtype, RopeStyle::kNeox, true, {7, -9, 3, 5}, {0, 0}, {1, 1}, {3, 5, -7, 9});
    expect_head(dtype, RopeStyle::kGptj, false, {3, 5, -7, 9}, {0, 0}, {1, 1}, {-5, 3, -9, -7});
    expect_head(dtype, RopeStyle::kGptj, true, {-5, 3, -9, -7}, {0, 0}, {1, 1}, {3, 5, -7, 9});
    expect_head(dtype, RopeStyle::kNeox, false, {3, 5, -7, 9}, {-1, -1}, {0, 0}, {-3, -5, 7, -9});
    expect_head(dtype, RopeStyle::kGptj, true, {3, 5, -7, 9}, {-1, 1}, {0, 0}, {-3, -5, -7, 9});
  }
}

// (1 + 2^-12)^2 rounds to 1 + 2^-11, which the other product is: a fused multiply-add would leave
// 2^-24.
TEST(ByHand, EachProductIsRounded) {
  const float u = 1 + 0x1p-12f, v = 1 + 0x1p-11f;
  for (const RopeStyle style : kStyles) {
    expect_head(DType::kF32, style, false, {u, 1}, {u}, {v}, {0, 2 + 0x1p-10f});
    expect_head(DType::kF32, style, false, {1, u}, {v}, {u}, {0, 2 + 0x1p-10f});
  }
}

TEST(ByHand, RoundedToTheType) {
  // bf16 has 8 bits of significand: 257 is a tie (256), 259 one too (260), 257.5 is above it.
  expect_head(DType::kBF16, RopeStyle::kGptj, false, {1, 1}, {256}, {1}, {255, 256});
  expect_head(DType::kBF16, RopeStyle::kNeox, false, {1, 1}, {258}, {1}, {256, 260});
  expect_head(DType::kBF16, RopeStyle::kNeox, true, {1, 1}, {256}, {1.5f}, {258, 254});
  // fp16: 2049 is a tie, 65520 and above become Inf; bf16 overflows where fp32 nearly does.
  expect_head(DType::kF16, RopeStyle::kGptj, false, {1, 1}, {2048}, {1}, {2047, 2048});
  expect_head(DType::kF16, RopeStyle::kNeox, false, {1, 1}, {65504}, {16}, {65472, kInf});
  expect_head(DType::kBF16, RopeStyle::kNeox, false, {1, 0}, {numerics::kFloatMax},
              {-numerics::kFloatMax}, {kInf, -kInf});
  // Subnormals stay: half of fp16's smallest, 2^-24, is a tie (0), three halves are one (two).
  expect_head(DType::kF16, RopeStyle::kNeox, false, {0x1p-24f, 0}, {0.5f}, {1.5f}, {0, 0x1p-23f});
  expect_head(DType::kF32, RopeStyle::kGptj, false, {0x1p-126f, 0}, {0.5f}, {0x1p-20f},
              {0x1p-127f, 0x1p-146f});
}

TEST(ByHand, SpecialValues) {
  for (const DType dtype : kTypes) {
    for (const RopeStyle style : kStyles) {
      expect_head(dtype, style, false, {-0.0f, 0}, {1}, {0}, {-0.0f, 0});      // -0 - 0, -0 + 0
      expect_head(dtype, style, false, {-0.0f, -0.0f}, {1}, {0}, {0, -0.0f});  // -0 - -0, -0 + -0
      expect_head(dtype, style, true, {0, -0.0f}, {1}, {0}, {0, -0.0f});
      expect_head(dtype, style, false, {kInf, 1}, {1}, {0}, {kInf, kNan});
      expect_head(dtype, style, false, {1, -kInf}, {1}, {1}, {kInf, -kInf});
      expect_head(dtype, style, false, {kInf, kInf}, {1}, {1}, {kNan, kInf});
      expect_head(dtype, style, false, {kNan, 1}, {1}, {1}, {kNan, kNan});
      expect_head(dtype, style, false, {1, 2}, {kInf}, {1}, {kInf, kInf});
      expect_head(dtype, style, false, {1, 2}, {1}, {kNan}, {kNan, kNan});
    }
  }
}

// A NaN stays one whatever its payload: rounding that adds to the bits could carry into Inf or 0.
TEST(ByHand, NanPayloads) {
  for (const std::uint32_t bits : {0x7F800001u, 0x7FFFFFFFu, 0xFF800001u, 0xFFFFFFFFu, 0x7FFF8000u,
                                   0x7FC00000u, 0x7F808000u, 0xFFFF7FFFu}) {
    for (const DType dtype : kTypes) {
      for (const RopeStyle style : kStyles) {
        const float nan = numerics::bits_float(bits);
        Random random(bits);
        TensorSet set = rope_set(random, dtype, 1, 1, 128, 128);
        for (int k = 0; k < 64; k += 3) testing::set_bits(set.view("cos"), 7 * 64 + k, bits);
        for (int k = 1; k < 64; k += 5) testing::set_bits(set.view("sin"), 7 * 64 + k, bits);
        for (int k = 2; k < 128; k += 7) testing::set_bits(set.view("x"), k, bits >> 16);
        expect_transcription(set, {.style = style});
        expect_head(dtype, style, false, {1, 2}, {nan}, {0}, {kNan, kNan});
      }
    }
  }
}

TEST(Transcription, EveryOption) {
  Random random(31'000'000);
  for (const DType dtype : kTypes) {
    for (const RopeStyle style : kStyles) {
      for (const bool inverse : {false, true}) {
        for (const bool in_place : {false, true}) {
          for (const auto& [dim, rope_dim, offset] : std::vector<std::array<std::int64_t, 3>>{
                   {128, 128, 0}, {192, 64, 128}, {80, 32, 0}, {65, 64, 1}, {96, 30, 33}}) {
            expect_transcription(rope_set(random, dtype, 5, 3, dim, rope_dim),
                                 {style, rope_dim, offset, inverse, in_place});
          }
        }
      }
    }
  }
}

// The last pairs of a row are fewer than a vector, at every size.
TEST(Transcription, EveryRopeDim) {
  Random random(32'000'000);
  for (std::int64_t rope_dim = 2; rope_dim <= 272; rope_dim += 2) {
    const std::int64_t offset = random.in(0, 3);
    for (const RopeStyle style : kStyles) {
      const DType dtype = kTypes[random.in(0, 2)];
      expect_transcription(
          rope_set(random, dtype, 2, 2, rope_dim + offset + random.in(0, 3), rope_dim),
          {style, rope_dim, offset, false, random.one_in(2)});
    }
  }
}

// Not in place, what lies beside the rotated elements is copied bit by bit, signaling NaNs too.
TEST(Transcription, OtherElementsAreCopied) {
  for (const DType dtype : kTypes) {
    Random random(33'000'000);
    TensorSet set = rope_set(random, dtype, 2, 3, 100, 32);
    const TensorView x = set.view("x");
    for (std::int64_t i = 0; i < x.numel(); i += 3) {
      testing::set_bits(x, i, dtype == DType::kF32 ? 0xFF812345u : 0xFF81u);
    }
    const RopeOptions options{.rope_dim = 32, .rope_offset = 40};
    for (const Runner& runner : testing::every_runner()) {
      TensorSet actual = set.clone();
      ASSERT_TRUE(runner.run(actual, rope_of(options)).ok());
      for (std::int64_t i = 0; i < x.numel(); ++i) {
        if (i % 100 >= 40 && i % 100 < 72) continue;
        ASSERT_EQ(testing::get_bits(actual.view("y"), i), testing::get_bits(x, i)) << runner.name;
      }
    }
  }
}

TEST(Strides, HeadsAndTokensInAnyOrder) {
  Random random(34'000'000);
  const std::int64_t tokens = 6, heads = 4, dim = 96;
  struct Layout {
    std::vector<std::int64_t> strides;
    std::int64_t offset;
  };
  const Layout layouts[] = {
      {{heads * dim, dim}, 0},                // dense
      {{dim, tokens * dim}, 0},               // [heads, M, D] transposed
      {{3 * heads * dim, dim}, heads * dim},  // a slice of q, k, v in one buffer
      {{heads * (dim + 5), dim + 5}, 3},      // gaps after each head, off alignment
      {{heads * 2 * dim, 2 * dim}, 7},        // every other head
      {{-heads * dim, dim}, 0},               // tokens from the last to the first
  };
  for (const DType dtype : kTypes) {
    for (const Layout& from : layouts) {
      for (const Layout& to : layouts) {
        for (const bool in_place : {false, true}) {
          TensorSet set = rope_set(random, dtype, tokens, heads, dim, 64);
          const Floats x = testing::values(set.view("x"));
          const auto strided = [&](const Layout& layout) {
            std::vector<std::int64_t> strides = layout.strides;
            strides.push_back(1);
            return TestTensor(dtype, {tokens, heads, dim}, strides, layout.offset);
          };
          set.add("x", strided(from));
          set.add("y", strided(to));
          testing::fill(set.view("x"), x);
          expect_transcription(set, {.style = kStyles[random.in(0, 1)],
                                     .rope_dim = 64,
                                     .rope_offset = 16,
                                     .in_place = in_place});
        }
      }
    }
  }
}

// A read-only x may repeat: one head for all, one token for all.
TEST(Strides, ExpandedInput) {
  Random random(35'000'000);
  for (const auto& strides : {std::vector<std::int64_t>{64, 0, 1}, {0, 64, 1}, {0, 0, 1}}) {
    TensorSet set = rope_set(random, DType::kBF16, 5, 4, 64, 64);
    const Floats x = testing::values(set.view("x"));
    set.add("x", TestTensor(DType::kBF16, {5, 4, 64}, strides));
    testing::fill(set.view("x"), x);
    expect_transcription(set, {});
  }
}

// One cache [P, rope_dim] whose halves are cos and sin, as vLLM keeps it, read twice by one token.
TEST(Strides, TablesInOneBuffer) {
  Random random(36'000'000);
  TensorSet set = rope_set(random, DType::kBF16, 9, 2, 128, 128);
  TensorSet joint;
  for (const char* name : {"x", "y", "positions"}) joint.add(name, set.tensors().at(name));
  joint.add("cache", TestTensor(DType::kF32, {50, 128}));
  testing::fill(joint.view("cache"), testing::values(set.view("cos")));
  joint.add_columns("cos", "cache", 0, 64);
  joint.add_columns("sin", "cache", 64, 64);
  for (const RopeStyle style : kStyles) expect_transcription(joint, {.style = style});
}

TEST(Shapes, NothingToDo) {
  Random random(37'000'000);
  for (const DType dtype : kTypes) {
    expect_transcription(rope_set(random, dtype, 0, 4, 64, 64), {});
    expect_transcription(rope_set(random, dtype, 3, 0, 64, 64), {.in_place = true});
  }
}
TEST(Shapes, OneTokenManyHeads) {
  Random random(38'000'000);
  for (const RopeStyle style : kStyles) {
    expect_transcription(rope_set(random, DType::kBF16, 1, 300, 128, 128), {.style = style});
    expect_transcription(rope_set(random, DType::kF16, 300, 1, 128, 64),
                         {.style = style, .rope_dim = 64});
  }
}

// A y beyond the caches is stored past them where it is aligned: the bits of the call in place,
// which is not.
TEST(Streaming, LargeOutputs) {
  for (const DType dtype : kTypes) {
    const std::int64_t tokens = (std::int64_t{17} << 20) / base::dtype_bytes(dtype) / 4096 + 1;
    for (const RopeStyle style : kStyles) {
      for (const auto& [rope_dim, rope_offset, at] : std::vector<std::array<std::int64_t, 3>>{
               {128, 0, 0}, {64, 64, 0}, {32, 64, 0}, {128, 0, 5}}) {
        Random random(39'000'000);
        TensorSet set = rope_set(random, dtype, tokens, 32, 128, rope_dim);
        set.add("y", TestTensor(dtype, {tokens, 32, 128}, {}, at));
        const Floats small = testing::values(rope_set(random, dtype, 7, 3, 59, 2).view("x"));
        testing::fill(set.view("x"), small);
        RopeOptions options{style, rope_dim, rope_offset, false, true};
        TensorSet in_place = set.clone();
        ASSERT_TRUE(rope_of(options)(in_place, {}).ok());
        options.in_place = false;
        for (const Runner& runner : testing::cpu_runners()) {
          if (!runner.name.ends_with("x2")) continue;
          TensorSet actual = set.clone();
          ASSERT_TRUE(runner.run(actual, rope_of(options)).ok());
          const TensorView got = actual.view("y"), want = in_place.view("x");
          const auto bytes = static_cast<std::size_t>(got.numel() * base::dtype_bytes(dtype));
          EXPECT_EQ(std::memcmp(got.data, want.data, bytes), 0) << runner.name << describe(options);
        }
      }
    }
  }
}

TEST(ThreadInvariance, EveryNumberOfThreads) {
  Random random(40'000'000);
  const TensorSet set = rope_set(random, DType::kBF16, 61, 33, 128, 128);
  TensorSet expected = set.clone();
  testing::transcribe(expected, {});
  for (int threads = 0; threads <= 16; ++threads) {
    Execution execution;
    execution.num_threads = threads;
    TensorSet actual = set.clone();
    ASSERT_TRUE(testing::rope_of({})(actual, execution).ok());
    EXPECT_EQ(testing::first_difference(expected, actual), "") << threads << " threads";
  }
}
}  // namespace
}  // namespace halfbyte::ops
