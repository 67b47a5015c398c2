// Random cases run by several implementations and compared.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "halfbyte/ops/common/testing_random.h"

namespace halfbyte::ops::testing {

namespace {

// Whether every runner leaves what `expected` does; a failure names the seed.
bool runners_agree(const Case& test, std::uint64_t seed, const Runner& expecting,
                   const std::vector<Runner>& runners) {
  const std::string about =
      "seed " + std::to_string(seed) + "\n" + test.text + "\n" + test.tensors.describe();
  TensorSet expected = test.tensors.clone();
  const base::Status status = expecting.run(expected, test.operation);
  if (!status.ok()) {
    ADD_FAILURE() << status.message() << ", " << about;
    return false;
  }
  for (const Runner& runner : runners) {
    TensorSet actual = test.tensors.clone();
    const base::Status ran = runner.run(actual, test.operation);
    const std::string difference = ran.ok() ? first_difference(expected, actual) : ran.message();
    if (difference.empty()) continue;
    ADD_FAILURE() << runner.name << ": " << difference << ", " << about;
    return false;
  }
  return true;
}

int at_most_asked(int count) {
  const char* most = std::getenv("HALFBYTE_TEST_CASES");
  return most == nullptr ? count : std::min(count, std::atoi(most));
}

}  // namespace

void expect_equals_reference(const std::function<Case(Random&)>& make_case,
                             std::uint64_t first_seed, int count,
                             const std::vector<Runner>& runners) {
  count = at_most_asked(count);
  int failures = 0;
  for (int i = 0; i < count && failures < 3; ++i) {
    const std::uint64_t seed = first_seed + static_cast<std::uint64_t>(i);
    Random random(seed);
    random.aligned = i % 2 == 0;
    failures += !runners_agree(make_case(random), seed, reference_runner(), runners);
  }
}

void expect_every_row_length(const std::function<Case(Random&)>& make_case,
                             std::uint64_t first_seed, const std::vector<Runner>& runners) {
  std::vector<std::int64_t> lengths = {36864, 53248, 65536, 65552, 98304, 131072, 131088};
  for (std::int64_t columns = 16; columns <= 32768; columns += 16) lengths.push_back(columns);
  const auto count = static_cast<std::size_t>(at_most_asked(static_cast<int>(lengths.size())));
  const Runner cpu = cpu_runner("cpu", base::Execution());
  int failures = 0;
  for (std::size_t i = 0; i < count && failures < 3; ++i) {
    const std::uint64_t seed = first_seed + i;
    Random random(seed);
    random.aligned = true;
    random.columns = lengths[i];
    failures += !runners_agree(make_case(random), seed, cpu, runners);
  }
}

void expect_many_rows(const std::function<Case(Random&)>& make_case, std::uint64_t first_seed,
                      int count, const std::vector<Runner>& runners) {
  constexpr std::int64_t kElements = 1 << 19;
  count = at_most_asked(count);
  const Runner cpu = cpu_runner("cpu", base::Execution());
  int failures = 0;
  for (int i = 0; i < count && failures < 3; ++i) {
    const std::uint64_t seed = first_seed + static_cast<std::uint64_t>(i);
    Random random(seed);
    random.aligned = true;
    random.rows = random.pick<std::int64_t>({133, 265, 529, 1000, 1500});
    // More than a warp takes: the kernels of long rows are another test's.
    random.columns = 16 * random.in(33, std::max<std::int64_t>(34, kElements / 16 / random.rows));
    failures += !runners_agree(make_case(random), seed, cpu, runners);
  }
}

void expect_two_ways_agree(const std::function<TwoWays(Random&)>& make, std::uint64_t first_seed,
                           int count, const std::vector<Runner>& runners) {
  count = at_most_asked(count);
  for (int i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
    const std::uint64_t seed = first_seed + static_cast<std::uint64_t>(i);
    Random random(seed);
    random.aligned = i % 2 == 0;
    const TwoWays ways = make(random);
    for (const Runner& runner : runners) {
      TensorSet one = ways.tensors.clone(), other = ways.tensors.clone();
      const base::Status first = runner.run(one, ways.one), second = runner.run(other, ways.other);
      ASSERT_TRUE(first.ok() && second.ok()) << first.message() << second.message();
      EXPECT_EQ(first_difference(other, one), "") << runner.name << ", seed " << seed << "\n"
                                                  << ways.text << "\n"
                                                  << ways.tensors.describe();
    }
  }
}

std::vector<Runner> reference_and_cpu_runners() {
  std::vector<Runner> runners = {reference_runner()};
  for (const Runner& runner : cpu_runners()) {
    if (runner.name.ends_with("x3")) runners.push_back(runner);
  }
  return runners;
}

}  // namespace halfbyte::ops::testing
