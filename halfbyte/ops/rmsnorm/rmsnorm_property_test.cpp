// rmsnorm and rmsnorm_quantize on random cases: every implementation leaves the bytes of the
// reference, and touches nothing else; the fused operator gives the bits of the two in sequence.
#include <gtest/gtest.h>

#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::Status;
using testing::Case;
using testing::Random;
using testing::Shape;
using testing::TensorSet;
using testing::TestTensor;

struct NormOptions {
  float eps;
  Rounding rounding;
  bool weight_bias;
  std::string text;
};

// x, weight and, of every two, a residual.
NormOptions add_norm_tensors(Random& random, const Shape& shape, TensorSet& set) {
  const DType dtype = testing::random_float_dtype(random);
  const auto add_rows = [&](const char* name) {
    set.add(name, testing::random_tensor(random, dtype, shape.with_columns(shape.columns)));
    testing::fill_random(random, set.view(name));
  };
  if (!random.aligned && random.one_in(8)) {  // x and residual are column slices of one buffer
    set.add("buffer", testing::random_tensor(random, dtype, {shape.rows(), 2 * shape.columns + 3}));
    testing::fill_random(random, set.view("buffer"));
    set.add_columns("x", "buffer", 0, shape.columns);
    set.add_columns("residual", "buffer", shape.columns + random.in(0, 3), shape.columns);
  } else {
    add_rows("x");
    if (random.one_in(2)) add_rows("residual");
  }
  set.add("weight", TestTensor(random.one_in(2) ? dtype : DType::kF32, {shape.columns}, {},
                               random.aligned || random.one_in(2) ? 0 : random.in(1, 5)));
  if (random.one_in(4)) {
    testing::fill_random(random, set.view("weight"));
  } else {
    for (std::int64_t k = 0; k < shape.columns; ++k) {
      testing::set(set.view("weight"), k, 1.0f + random.normal() / 4);
    }
  }
  const NormOptions options{random.pick({0.0f, 1e-6f, 1e-6f, 1e-5f, 1e-40f, 3.0f, 1e30f}),
                            random.pick({Rounding::kFloat32, Rounding::kHuggingFace}),
                            random.one_in(3),
                            {}};
  return {options.eps, options.rounding, options.weight_bias,
          "eps " + std::to_string(options.eps) +
              (options.rounding == Rounding::kHuggingFace ? ", huggingface" : "") +
              (options.weight_bias ? ", bias" : "")};
}

NormArgs norm_args(const TensorSet& set, const NormOptions& options) {
  return {.x = set.view("x"),
          .weight = set.view("weight"),
          .residual = set.view("residual"),
          .eps = options.eps,
          .rounding = options.rounding,
          .weight_bias = options.weight_bias};
}

// y has the shape of x, which may be a slice of a 2-D buffer.
void add_normed(Random& random, const char* name, TensorSet& set) {
  const TensorView x = set.view("x");
  set.add(name,
          testing::random_tensor(random, x.dtype, {x.shape.begin(), x.shape.begin() + x.ndim}));
}

Case rmsnorm_case(Random& random) {
  Case test;
  const NormOptions options =
      add_norm_tensors(random, testing::random_shape(random, 1), test.tensors);
  add_normed(random, "y", test.tensors);
  test.operation = [options](const TensorSet& set, const Execution& execution) {
    return rmsnorm({.norm = norm_args(set, options), .y = set.view("y")}, execution);
  };
  test.text = "rmsnorm " + options.text;
  return test;
}

struct FusedCase {
  Case test;
  NormOptions options;
  QuantizeSpec spec;
};

FusedCase fused_case(Random& random) {
  FusedCase fused;
  const Format format = random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4, Format::kFp8});
  fused.spec = testing::random_spec(random, format, false);
  const Shape shape = testing::random_shape(random, formats::block_elements(format));
  TensorSet& set = fused.test.tensors;
  fused.options = add_norm_tensors(random, shape, set);
  if (random.one_in(2)) add_normed(random, "normed", set);
  testing::add_quantize_tensors(random, fused.spec, shape, set);
  fused.test.operation = [options = fused.options, spec = fused.spec](const TensorSet& tensors,
                                                                      const Execution& execution) {
    return rmsnorm_quantize({.norm = norm_args(tensors, options),
                             .normed = tensors.view("normed"),
                             .given = testing::given_scale(tensors),
                             .spec = spec,
                             .out = testing::quantize_outputs(tensors)},
                            execution);
  };
  fused.test.text = "rmsnorm_quantize " + fused.options.text + "; " + testing::describe(fused.spec);
  return fused;
}

Case rmsnorm_quantize_case(Random& random) { return fused_case(random).test; }

testing::TwoWays fused_and_unfused(Random& random) {
  FusedCase fused = fused_case(random);
  TensorSet& tensors = fused.test.tensors;
  if (!tensors.view("normed")) add_normed(random, "normed", tensors);
  const testing::Operation unfused = [options = fused.options, spec = fused.spec](
                                         const TensorSet& set, const Execution& execution) {
    const Status normed =
        rmsnorm({.norm = norm_args(set, options), .y = set.view("normed")}, execution);
    if (!normed.ok()) return normed;
    return quantize({.x = set.view("normed"),
                     .given = testing::given_scale(set),
                     .spec = spec,
                     .out = testing::quantize_outputs(set)},
                    execution);
  };
  return {tensors, fused.test.operation, unfused, fused.test.text};
}

TEST(RmsnormProperty, CpuEqualsReference) {
  testing::expect_equals_reference(rmsnorm_case, 4'000'000, 3000, testing::cpu_runners());
}
TEST(RmsnormQuantizeProperty, CpuEqualsReference) {
  testing::expect_equals_reference(rmsnorm_quantize_case, 5'000'000, 3000, testing::cpu_runners());
}
TEST(RmsnormQuantizeProperty, FusedEqualsUnfused) {
  testing::expect_two_ways_agree(fused_and_unfused, 6'000'000, 1000,
                                 testing::reference_and_cpu_runners());
}

TEST(RmsnormProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(rmsnorm_case, 4'000'000, 1500, runners);
}
TEST(RmsnormQuantizeProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(rmsnorm_quantize_case, 5'000'000, 4000, runners);
}
TEST(RmsnormQuantizeProperty, CudaFusedEqualsUnfused) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_two_ways_agree(fused_and_unfused, 6'000'000, 500, runners);
}
TEST(RmsnormProperty, CudaEveryRowLength) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_every_row_length(rmsnorm_case, 44'000'000, runners);
}
TEST(RmsnormQuantizeProperty, CudaEveryRowLength) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_every_row_length(rmsnorm_quantize_case, 45'000'000, runners);
}

TEST(RmsnormProperty, CudaManyRows) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_many_rows(rmsnorm_case, 54'000'000, 100, runners);
}
TEST(RmsnormQuantizeProperty, CudaManyRows) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_many_rows(rmsnorm_quantize_case, 55'000'000, 150, runners);
}

}  // namespace
}  // namespace halfbyte::ops
