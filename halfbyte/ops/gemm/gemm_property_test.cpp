// gemm on random cases: every implementation leaves the bytes of the reference, and touches nothing
// else. Prepared weights give the bits of plain ones.
#include <gtest/gtest.h>

#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

using testing::Case;
using testing::GemmChoices;
using testing::Random;

std::function<Case(Random&)> cases(GemmChoices choices) {
  return [choices](Random& random) { return testing::gemm_case(random, choices); };
}

TEST(GemmProperty, CpuEqualsReference) {
  testing::expect_equals_reference(cases({}), 20'000'000, 3000, testing::cpu_runners());
}
TEST(GemmProperty, CpuEqualsReferenceOf16Bits) {
  testing::expect_equals_reference(cases({.quantized = false}), 21'000'000, 2000,
                                   testing::cpu_runners());
}
TEST(GemmProperty, CpuGroupsEqualReference) {
  testing::expect_equals_reference(cases({.grouped = true}), 22'000'000, 1000,
                                   testing::cpu_runners());
  testing::expect_equals_reference(cases({.quantized = false, .grouped = true}), 23'000'000, 500,
                                   testing::cpu_runners());
}

TEST(GemmProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(cases({.plain_weights = false, .method = GemmMethod::kExact}),
                                   20'000'000, 3000, runners);
}
TEST(GemmProperty, CudaEqualsReferenceOf16Bits) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(
      cases({.quantized = false, .plain_weights = false, .method = GemmMethod::kExact}), 21'000'000,
      2000, runners);
}
TEST(GemmProperty, CudaGroupsEqualReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(
      cases({.grouped = true, .plain_weights = false, .method = GemmMethod::kExact}), 22'000'000,
      1000, runners);
  testing::expect_equals_reference(cases({.quantized = false,
                                          .grouped = true,
                                          .plain_weights = false,
                                          .method = GemmMethod::kExact}),
                                   23'000'000, 500, runners);
}

}  // namespace
}  // namespace halfbyte::ops
