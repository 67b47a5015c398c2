// gemm_silu_mul_quantize on random cases: every implementation leaves the bytes of the reference,
// and touches nothing else; and they are those of gemm followed by silu_mul_quantize.
#include <gtest/gtest.h>

#include "halfbyte/ops/common/testing_groups.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_testing.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::ops {
namespace {

using base::Execution;
using base::Status;
using testing::Case;
using testing::GemmChoices;
using testing::Random;
using testing::TensorSet;

constexpr GemmChoices kCuda = {
    .plain_weights = false, .method = GemmMethod::kExact, .any_layout = false};

GemmChoices choices(GemmChoices from, bool quantized, bool grouped) {
  from.quantized = quantized;
  from.grouped = grouped;
  return from;
}

std::function<Case(Random&)> cases(const GemmChoices& of) {
  return [of](Random& random) { return testing::gate_up_case(random_gate_up(random, of)); };
}

// Both ways make c: the fused operator does not have it.
std::function<testing::TwoWays(Random&)> both_ways(const GemmChoices& of) {
  return [of](Random& random) -> testing::TwoWays {
    testing::GateUpCase test = random_gate_up(random, of);
    if (of.method != GemmMethod::kExact) {  // where c lies changes the bits of the bounded methods
      const base::DType dtype = test.dtype();
      test.product.set.add(
          "c", testing::TestTensor(dtype, {test.product.shape.m, test.product.shape.n}, {},
                                   (256 - testing::kGuardBytes) / base::dtype_bytes(dtype)));
    }
    const testing::Operation product = testing::gemm_case(test.product).operation;
    const auto fused = [product, test](const TensorSet& set, const Execution& execution) {
      const Status made = product(set, execution);
      return made.ok() ? run_gate_up(test, set, execution) : made;
    };
    const auto unfused = [product, test](const TensorSet& set, const Execution& execution) {
      const Status made = product(set, execution);
      if (!made.ok()) return made;
      SiluMulQuantizeArgs args;
      args.gate_up = set.view("c");
      args.activation = test.activation;
      args.given = testing::given_scale(set);
      args.spec = test.spec;
      args.out = testing::quantize_outputs(set);
      if (set.view("out_scale_row_offsets")) {
        args.groups = testing::row_groups(set);
        args.groups.scale_row_offsets = set.view("out_scale_row_offsets");
      }
      return silu_mul_quantize(args, execution);
    };
    return {test.set(), fused, unfused, test.text};
  };
}

TEST(GemmSiluMulProperty, CpuEqualsReference) {
  const auto runners = testing::cpu_runners();
  testing::expect_equals_reference(cases({}), 50'000'000, 2000, runners);
  testing::expect_equals_reference(cases({.quantized = false}), 51'000'000, 700, runners);
}
TEST(GemmSiluMulProperty, CpuGroupsEqualReference) {
  const auto runners = testing::cpu_runners();
  testing::expect_equals_reference(cases({.grouped = true}), 52'000'000, 600, runners);
  testing::expect_equals_reference(cases({.quantized = false, .grouped = true}), 53'000'000, 300,
                                   runners);
}

TEST(GemmSiluMulProperty, FusedEqualsUnfused) {
  const auto runners = testing::reference_and_cpu_runners();
  testing::expect_two_ways_agree(both_ways({}), 54'000'000, 400, runners);
  testing::expect_two_ways_agree(both_ways({.quantized = false}), 55'000'000, 200, runners);
}
TEST(GemmSiluMulProperty, FusedEqualsUnfusedInGroups) {
  const auto runners = testing::reference_and_cpu_runners();
  testing::expect_two_ways_agree(both_ways({.grouped = true}), 56'000'000, 300, runners);
  testing::expect_two_ways_agree(both_ways({.quantized = false, .grouped = true}), 57'000'000, 200,
                                 runners);
}

// So many columns of A, or of gate_up, that the rows are taken in three parts: once, or twice where
// the scale is computed from all of them.
void expect_parts_equal_reference(std::int64_t k, std::int64_t columns, bool computed) {
  const auto make = [=](Random& random) {
    const testing::GemmShape shape = {
        .format = Format::kNvfp4, .m = 129, .k = k, .groups = computed ? 0 : 3};
    testing::GateUpCase test;
    do {
      test = random_gate_up(random, {.grouped = !computed}, shape, columns);
    } while (computed && test.spec.scale != ScaleMode::kComputed);
    return testing::gate_up_case(test);
  };
  testing::expect_equals_reference(make, 58'000'000, 1, {testing::cpu_runners().back()});
}
TEST(GemmSiluMulProperty, RowsInParts) {
  if (testing::cpu_runners().empty()) GTEST_SKIP() << "no CPU level but the reference";
  expect_parts_equal_reference(65536 + 16, 1, true);
  expect_parts_equal_reference(16, 66'000, false);
}

TEST(GemmSiluMulProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  for (const bool grouped : {false, true}) {
    for (const bool quantized : {false, true}) {
      const GemmChoices of = choices(kCuda, quantized, grouped);
      testing::expect_equals_reference(cases(of), 50'000'000, 400, runners);
    }
  }
}
TEST(GemmSiluMulProperty, CudaFusedEqualsUnfused) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  for (const bool grouped : {false, true}) {
    for (const bool quantized : {false, true}) {
      GemmChoices of = choices(kCuda, quantized, grouped);
      testing::expect_two_ways_agree(both_ways(of), 54'000'000, 80, runners);
      of.method = GemmMethod::kAuto;
      testing::expect_two_ways_agree(both_ways(of), 55'000'000, 80, runners);
    }
  }
}

}  // namespace
}  // namespace halfbyte::ops
