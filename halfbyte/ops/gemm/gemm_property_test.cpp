// gemm on random cases: every implementation leaves the bytes of the reference, and touches nothing
// else. Prepared weights give the bits of plain ones.
#include <gtest/gtest.h>

#include <algorithm>

#include "halfbyte/base/cpu_level.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_input.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

using testing::Case;
using testing::GemmChoices;
using testing::Random;

std::function<Case(Random&)> cases(GemmChoices choices) {
  return [choices](Random& random) {
    return testing::gemm_case(testing::random_gemm(random, choices));
  };
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

// So many columns that the kernels take the rows of A in three parts.
TEST(GemmProperty, RowsInParts) {
  for (const bool quantized : {true, false}) {
    for (const bool grouped : {true, false}) {
      const auto make = [=](Random& random) {
        const Format format = random.pick({Format::kNvfp4, Format::kMxfp4});
        return testing::gemm_case(testing::random_gemm(
            random, {.quantized = quantized, .grouped = grouped},
            {.format = format, .m = 129, .n = 1, .k = 65536 + 32, .groups = grouped ? 3 : 0}));
      };
      testing::expect_equals_reference(make, 25'000'000, 1, testing::cpu_runners());
    }
  }
}

#ifdef HALFBYTE_HAS_CPU_V4
// The byte products of AVX-512 without VNNI, where the processor has it.
TEST(GemmProperty, WithoutVnniEqualsReference) {
  const std::vector<base::CpuLevel>& levels = base::available_cpu_levels();
  if (std::find(levels.begin(), levels.end(), base::CpuLevel::kV4) == levels.end()) {
    GTEST_SKIP() << "no AVX-512";
  }
  const auto make = [](Random& random) {
    const testing::GemmCase product = testing::random_gemm(random, {});
    Case test = testing::gemm_case(product);
    test.operation = [product, run = test.operation](const testing::TensorSet& set,
                                                     const base::Execution& how) -> base::Status {
      if (how.backend == base::Backend::kReference) return run(set, how);
      OverlapCheck overlap;
      const auto problem =
          resolve_gemm(testing::gemm_args(product, set), GemmCheck::kCall, overlap);
      if (!problem.ok()) return problem.status();
      if (problem.value().m * problem.value().n == 0) return {};
      GemmInputBuffer buffer(problem.value(), v4::kGemmRowsTogether);
      GemmInput input = buffer.unpack(0, how.num_threads);
      input.vnni = false;
      v4::gemm(problem.value(), input, how.num_threads);
      return {};
    };
    return test;
  };
  base::Execution execution;
  execution.num_threads = 2;
  testing::expect_equals_reference(make, 24'000'000, 500,
                                   {testing::cpu_runner("v4 without VNNI", execution)});
}
#endif

TEST(GemmProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(
      cases({.plain_weights = false, .method = GemmMethod::kExact, .any_layout = false}),
      20'000'000, 3000, runners);
}
TEST(GemmProperty, CudaEqualsReferenceOf16Bits) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(cases({.quantized = false,
                                          .plain_weights = false,
                                          .method = GemmMethod::kExact,
                                          .any_layout = false}),
                                   21'000'000, 2000, runners);
}
TEST(GemmProperty, CudaGroupsEqualReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(cases({.grouped = true,
                                          .plain_weights = false,
                                          .method = GemmMethod::kExact,
                                          .any_layout = false}),
                                   22'000'000, 1000, runners);
  testing::expect_equals_reference(cases({.quantized = false,
                                          .grouped = true,
                                          .plain_weights = false,
                                          .method = GemmMethod::kExact,
                                          .any_layout = false}),
                                   23'000'000, 500, runners);
}
// A token or a few: the short stream kernels for groups.
TEST(GemmProperty, CudaFewRowsInGroupsEqualReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  const auto make = [](Random& random) {
    testing::GemmShape shape;
    shape.format = random.one_in(4) ? Format::kMxfp4 : Format::kNvfp4;
    shape.groups = random.pick<std::int64_t>({1, 3, 8, 64, 127, 128, 200});
    shape.m = random.in(1, std::min<std::int64_t>(2 * shape.groups - 1, random.pick({8, 16, 60})));
    shape.n = random.in(1, random.one_in(8) ? 1000 : 200);
    const std::int64_t block = formats::block_elements(shape.format);
    shape.k = random.one_in(4) ? block * random.in(1, 40) : 128 * random.in(1, 8);
    return testing::gemm_case(testing::random_gemm(random,
                                                   {.quantized = true,
                                                    .grouped = true,
                                                    .plain_weights = false,
                                                    .method = GemmMethod::kExact,
                                                    .any_layout = random.one_in(2)},
                                                   shape));
  };
  testing::expect_equals_reference(make, 26'000'000, 200, runners);
}

}  // namespace
}  // namespace halfbyte::ops
