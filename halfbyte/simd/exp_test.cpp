// simd/exp.h of every CPU level gives the bits of numerics/exp.h on each of 2^32 inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/simd/testing_exp.h"

namespace halfbyte::simd {
namespace {

bool same(float a, float b) {
  return numerics::float_bits(a) == numerics::float_bits(b) ||
         (numerics::is_nan(a) && numerics::is_nan(b));
}

TEST(EveryFloat, SimdExpIsTheScalarOne) {
  const std::vector<ExpLevel> levels = available_exp_levels();
  if (levels.empty()) GTEST_SKIP() << "no CPU level but the reference";
  constexpr std::uint64_t kChunk = 1u << 16;
  std::atomic<std::uint64_t> next{0}, different{0}, example{0};
  const auto work = [&] {
    std::vector<float> x(kChunk), expected(kChunk), y(kChunk);
    for (std::uint64_t first; (first = next.fetch_add(kChunk)) < (std::uint64_t{1} << 32);) {
      for (std::uint64_t i = 0; i < kChunk; ++i) {
        x[i] = numerics::bits_float(static_cast<std::uint32_t>(first + i));
      }
      for (const ExpLevel& level : levels) {
        level.scalar(x.data(), kChunk, expected.data());
        level.simd(x.data(), kChunk, y.data());
        for (std::uint64_t i = 0; i < kChunk; ++i) {
          if (same(y[i], expected[i])) continue;
          ++different;
          example = first + i;
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back(work);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(different, 0u) << "one at float bits 0x" << std::hex << example;
}

}  // namespace
}  // namespace halfbyte::simd
