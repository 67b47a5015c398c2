// rope on random cases: every implementation leaves the bytes of the reference, and touches nothing
// else; and what a device does where the host would have refused.
#include <gtest/gtest.h>

#include <cmath>

#include "halfbyte/ops/rope/rope_testing.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using testing::Case;
using testing::Random;
using testing::RopeOptions;
using testing::Runner;
using testing::TensorSet;
using testing::TestTensor;

struct Extent {
  std::int64_t tokens, heads, dim;
};

// Mostly small; one in 50 is large enough to be shared among threads.
Extent random_extent(Random& random) {
  Extent extent{random.in(1, 20), random.in(1, 9), random.in(2, 150)};
  if (random.one_in(2)) extent.dim = random.pick<std::int64_t>({32, 64, 80, 96, 128, 192, 256});
  if (random.one_in(4)) extent.tokens = 1;
  if (random.one_in(4)) extent.heads = random.pick<std::int64_t>({1, 8, 32, 33});
  if (random.one_in(50)) extent.tokens = 90'000 / (extent.heads * extent.dim) + 1;
  if (random.one_in(30)) extent.tokens = 0;
  if (random.one_in(60)) extent.heads = 0;
  return extent;
}

void add_tables(Random& random, std::int64_t half, std::int64_t rows, TensorSet& set) {
  const bool any = random.one_in(3);
  const auto fill = [&](const char* name) {
    const TensorView view = set.view(name);
    if (any) return testing::fill_random(random, view);
    for (const std::int64_t row : testing::row_offsets(view)) {
      for (std::int64_t k = 0; k < view.shape[1]; ++k)
        testing::set(view, row + k, random.uniform());
    }
  };
  if (random.one_in(4)) {  // both in one buffer
    set.add("cache", testing::random_tensor(random, DType::kF32, {rows, 2 * half + 3}));
    fill("cache");
    set.add_columns("cos", "cache", 0, half);
    set.add_columns("sin", "cache", half + random.in(0, 3), half);
    return;
  }
  for (const char* name : {"cos", "sin"}) {
    set.add(name, testing::random_tensor(random, DType::kF32, {rows, half}));
    fill(name);
  }
}

Case rope_case(Random& random) {
  Case test;
  TensorSet& set = test.tensors;
  const DType dtype = testing::random_float_dtype(random);
  const Extent extent = random_extent(random);
  RopeOptions options;
  options.style = random.pick({RopeStyle::kNeox, RopeStyle::kGptj});
  options.inverse = random.one_in(3);
  options.in_place = random.one_in(2);
  std::int64_t dim = extent.dim / 2 * 2;
  if (random.one_in(2)) {
    dim = 2 * random.in(1, extent.dim / 2);
    options.rope_offset = random.in(0, extent.dim - dim);
  }
  if (dim != extent.dim || random.one_in(2)) options.rope_dim = dim;
  const std::vector<std::int64_t> shape = {extent.tokens, extent.heads, extent.dim};
  set.add("x", testing::random_tensor(random, dtype, shape));
  testing::fill_random(random, set.view("x"));
  set.add("y", testing::random_tensor(random, dtype, shape));
  const std::int64_t rows = random.in(1, 60);
  add_tables(random, dim / 2, rows, set);
  set.add("positions", TestTensor(random.pick({DType::kI32, DType::kI64}), {extent.tokens}, {},
                                  random.in(0, 3)));
  for (std::int64_t i = 0; i < extent.tokens; ++i) {
    testing::set_position(set.view("positions"), i, random.in(0, rows - 1));
  }
  test.operation = rope_of(options);
  test.text = "rope " + describe(options);
  return test;
}

TEST(RopeProperty, CpuEqualsReference) {
  testing::expect_equals_reference(rope_case, 41'000'000, 6000, testing::cpu_runners());
}

TEST(RopeProperty, CudaEqualsReference) {
  const std::vector<Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(rope_case, 41'000'000, 3000, runners);
}

// The host does not read device memory: a token whose position is out of range stays as it is, or
// is copied; its neighbours are rotated.
TEST(RopeProperty, CudaLeavesPositionsOutOfRange) {
  const std::vector<Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  for (const DType wide : {DType::kI32, DType::kI64}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const bool in_place : {false, true}) {
        TensorSet set;
        Random random(42'000'000);
        for (const char* name : {"x", "y"}) set.add(name, TestTensor(dtype, {7, 5, 96}));
        for (const char* name : {"cos", "sin"}) {
          set.add(name, TestTensor(DType::kF32, {11, 32}));
          testing::fill_random(random, set.view(name));
        }
        testing::fill_random(random, set.view("x"));
        set.add("positions", TestTensor(wide, {7}));
        testing::fill_positions(
            set.view("positions"),
            {3, -1, 10, 11, -(1LL << 31), wide == DType::kI64 ? (1LL << 32) + 1 : 12, 0});
        const RopeOptions options{.rope_dim = 64, .rope_offset = 16, .in_place = in_place};
        TensorSet expected = set.clone();
        testing::transcribe(expected, options);
        for (const Runner& runner : runners) {
          TensorSet actual = set.clone();
          const base::Status status = runner.run(actual, rope_of(options));
          ASSERT_TRUE(status.ok()) << status.message();
          EXPECT_EQ(testing::first_difference(expected, actual), "") << runner.name;
        }
      }
    }
  }
}

// The same over random shapes and strides, against the transcription: the reference refuses them.
TEST(RopeProperty, CudaOutOfRangeRandom) {
  const std::vector<Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  for (std::uint64_t seed = 43'000'000; seed < 43'000'500; ++seed) {
    Random random(seed);
    RopeOptions options{.style = random.pick({RopeStyle::kNeox, RopeStyle::kGptj}),
                        .in_place = random.one_in(2)};
    TensorSet set;
    const DType dtype = testing::random_float_dtype(random);
    const std::vector<std::int64_t> shape = {random.in(1, 9), random.in(1, 5),
                                             2 * random.in(1, 70)};
    for (const char* name : {"x", "y"}) {
      set.add(name, testing::random_tensor(random, dtype, shape));
      testing::fill_random(random, set.view(name));
    }
    add_tables(random, shape[2] / 2, 8, set);
    set.add("positions", TestTensor(DType::kI32, {shape[0]}));
    for (std::int64_t i = 0; i < shape[0]; ++i) {
      testing::set_position(set.view("positions"), i, random.in(-4, 12));
    }
    TensorSet expected = set.clone();
    testing::transcribe(expected, options);
    for (const Runner& runner : runners) {
      TensorSet actual = set.clone();
      ASSERT_TRUE(runner.run(actual, rope_of(options)).ok());
      ASSERT_EQ(testing::first_difference(expected, actual), "")
          << runner.name << ", seed " << seed << ", " << describe(options);
    }
  }
}

#if defined(__x86_64__)
TEST(RopeFloatEnvironment, TheCallersChangesNothing) {
  Random random(44'000'000);
  TensorSet set;
  for (const char* name : {"x", "y"}) set.add(name, TestTensor(DType::kF32, {30, 32, 64}));
  for (const char* name : {"cos", "sin"}) set.add(name, TestTensor(DType::kF32, {3, 32}));
  set.add("positions", TestTensor(DType::kI32, {30}));
  testing::fill_positions(set.view("positions"), {0, 2, 1});
  for (const char* name : {"x", "cos", "sin"}) {  // products and sums that are subnormal
    for (std::int64_t i = 0; i < set.view(name).numel(); ++i) {
      testing::set(set.view(name), i, std::ldexp(random.uniform(), random.one_in(2) ? -64 : -127));
    }
  }
  TensorSet expected = set.clone();
  ASSERT_TRUE(testing::reference_runner().run(expected, testing::rope_of({})).ok());
  const unsigned saved = _mm_getcsr();
  for (const unsigned changed : {0x8040u, 0x2000u, 0x4000u, 0x6000u, 0xE040u}) {
    for (const Runner& runner : testing::every_runner()) {
      TensorSet actual = set.clone();
      _mm_setcsr(saved | changed);
      const base::Status status = runner.run(actual, testing::rope_of({}));
      const unsigned after = _mm_getcsr();
      _mm_setcsr(saved);
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(after & 0xFFC0u, (saved | changed) & 0xFFC0u);
      EXPECT_EQ(testing::first_difference(expected, actual), "") << runner.name << " " << changed;
    }
  }
}
#endif

}  // namespace
}  // namespace halfbyte::ops
