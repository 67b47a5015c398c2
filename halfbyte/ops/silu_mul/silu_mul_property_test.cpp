// silu_mul and silu_mul_quantize on random cases: every implementation leaves the bytes of the
// reference, and touches nothing else; the fused operator gives the bits of the two in sequence.
#include <gtest/gtest.h>

#include "halfbyte/ops/common/testing_activation.h"
#include "halfbyte/ops/common/testing_groups.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::Status;
using testing::Case;
using testing::Random;
using testing::Shape;
using testing::TensorSet;

// Columns of y; the shape of gate_up has twice as many.
Shape random_y_shape(Random& random, const Activation& activation, std::int64_t multiple) {
  if (activation.interleave == 8 && multiple < 8) multiple = 8;
  return testing::random_shape(random, multiple);
}

void add_gate_up(Random& random, const Shape& y, TensorSet& set) {
  set.add("gate_up", testing::random_tensor(random, testing::random_float_dtype(random),
                                            y.with_columns(2 * y.columns)));
  testing::fill_random(random, set.view("gate_up"));
}

void add_y(Random& random, const Shape& shape, TensorSet& set) {
  const DType dtype = set.view("gate_up").dtype;
  set.add("y", testing::random_tensor(random, dtype, shape.with_columns(shape.columns)));
}

Case silu_mul_case(Random& random) {
  Case test;
  const Activation activation = testing::random_activation(random);
  const Shape shape = random_y_shape(random, activation, 1);
  if (random.one_in(8)) {  // gate_up and y are column slices of one buffer
    const DType dtype = testing::random_float_dtype(random);
    test.tensors.add("buffer",
                     testing::random_tensor(random, dtype, {shape.rows(), 3 * shape.columns + 3}));
    testing::fill_random(random, test.tensors.view("buffer"));
    test.tensors.add_columns("gate_up", "buffer", 0, 2 * shape.columns);
    test.tensors.add_columns("y", "buffer", 2 * shape.columns + random.in(0, 3), shape.columns);
  } else {
    add_gate_up(random, shape, test.tensors);
    add_y(random, shape, test.tensors);
  }
  test.operation = [activation](const TensorSet& set, const Execution& execution) {
    return silu_mul({set.view("gate_up"), activation, set.view("y")}, execution);
  };
  test.text = "silu_mul " + testing::describe(activation);
  return test;
}

struct FusedCase {
  Case test;
  Shape shape;
  Activation activation;
  QuantizeSpec spec;
};

FusedCase fused_case(Random& random) {
  FusedCase fused;
  const Format format = random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4, Format::kFp8});
  fused.spec = testing::random_spec(random, format, false);
  fused.activation = testing::random_activation(random);
  fused.shape = random_y_shape(random, fused.activation, formats::block_elements(format));
  TensorSet& set = fused.test.tensors;
  add_gate_up(random, fused.shape, set);
  testing::add_quantize_tensors(random, fused.spec, fused.shape, set);
  if (random.one_in(4)) testing::add_row_groups(random, fused.spec, fused.shape, set);
  fused.test.operation = [activation = fused.activation, spec = fused.spec](
                             const TensorSet& tensors, const Execution& execution) {
    return silu_mul_quantize({.gate_up = tensors.view("gate_up"),
                              .activation = activation,
                              .given = testing::given_scale(tensors),
                              .spec = spec,
                              .out = testing::quantize_outputs(tensors),
                              .groups = testing::row_groups(tensors)},
                             execution);
  };
  fused.test.text = "silu_mul_quantize " + testing::describe(fused.activation) + "; " +
                    testing::describe(fused.spec);
  return fused;
}

Case silu_mul_quantize_case(Random& random) { return fused_case(random).test; }

// y stays in a tensor of its own, which the fused operator does not have: both ways make it.
testing::TwoWays fused_and_unfused(Random& random) {
  FusedCase fused = fused_case(random);
  add_y(random, fused.shape, fused.test.tensors);
  const testing::Operation plain = [activation = fused.activation](const TensorSet& set,
                                                                   const Execution& execution) {
    return silu_mul({set.view("gate_up"), activation, set.view("y")}, execution);
  };
  const testing::Operation unfused = [plain, spec = fused.spec](const TensorSet& set,
                                                                const Execution& execution) {
    const Status activated = plain(set, execution);
    if (!activated.ok()) return activated;
    return quantize({.x = set.view("y"),
                     .given = testing::given_scale(set),
                     .spec = spec,
                     .out = testing::quantize_outputs(set),
                     .groups = testing::row_groups(set)},
                    execution);
  };
  const testing::Operation together = [plain, operation = fused.test.operation](
                                          const TensorSet& set, const Execution& execution) {
    const Status activated = plain(set, execution);
    return activated.ok() ? operation(set, execution) : activated;
  };
  return {fused.test.tensors, together, unfused, fused.test.text};
}

TEST(SiluMulProperty, CpuEqualsReference) {
  testing::expect_equals_reference(silu_mul_case, 7'000'000, 2500, testing::cpu_runners());
}
TEST(SiluMulQuantizeProperty, CpuEqualsReference) {
  testing::expect_equals_reference(silu_mul_quantize_case, 8'000'000, 4000, testing::cpu_runners());
}
TEST(SiluMulQuantizeProperty, FusedEqualsUnfused) {
  testing::expect_two_ways_agree(fused_and_unfused, 9'000'000, 1000,
                                 testing::reference_and_cpu_runners());
}

TEST(SiluMulProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(silu_mul_case, 7'000'000, 1500, runners);
}
TEST(SiluMulQuantizeProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(silu_mul_quantize_case, 8'000'000, 4000, runners);
}
TEST(SiluMulQuantizeProperty, CudaFusedEqualsUnfused) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_two_ways_agree(fused_and_unfused, 9'000'000, 500, runners);
}
TEST(SiluMulQuantizeProperty, CudaEveryRowLength) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_every_row_length(silu_mul_quantize_case, 46'000'000, runners);
}
TEST(SiluMulQuantizeProperty, CudaManyRows) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_many_rows(silu_mul_quantize_case, 56'000'000, 100, runners);
}

}  // namespace
}  // namespace halfbyte::ops
