// numerics/exp.h: exact values, and every one of 2^32 inputs against exp in fp64.
#include "halfbyte/numerics/exp.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace halfbyte::numerics {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Exp, ExactValues) {
  EXPECT_EQ(float_bits(exp(0.0f)), float_bits(1.0f));
  EXPECT_EQ(float_bits(exp(-0.0f)), float_bits(1.0f));
  EXPECT_EQ(exp(kInf), kInf);
  EXPECT_EQ(float_bits(exp(-kInf)), 0u);
  EXPECT_EQ(exp(FLT_MAX), kInf);
  EXPECT_EQ(float_bits(exp(-FLT_MAX)), 0u);
  EXPECT_EQ(exp(0x1p-149f), 1.0f);
  EXPECT_EQ(exp(0x1p-24f), 1.0f) << "1 + 2^-24 is a tie, e^x above it by 2^-49";
  for (const std::uint32_t nan :
       {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u, 0xFFC00000u}) {
    EXPECT_TRUE(std::isnan(exp(bits_float(nan))));
  }
}

// The ends of the range: the largest finite result, the smallest normal one, the last above 0.
TEST(Exp, EndsOfTheRange) {
  EXPECT_EQ(float_bits(exp(0x1.62e42ep6f)), 0x7F7FFF84u) << "88.72283, the last below ln 2^128";
  EXPECT_EQ(exp(0x1.62e43p6f), kInf);
  EXPECT_GE(exp(-0x1.5d589ep6f), FLT_MIN) << "-87.33654";
  EXPECT_LT(exp(-0x1.5d58ap6f), FLT_MIN) << "-87.33655";
  EXPECT_EQ(float_bits(exp(-0x1.9fe368p6f)), 1u) << "-103.97208, the last above ln 2^-150";
  EXPECT_EQ(float_bits(exp(-0x1.9fe36ap6f)), 0u);
}

// |y - e^x| in units of the last place that fp32 has at e^x; Inf counts as 2^128. fp64's own exp
// errs by less than 2^-28 of such a unit.
double error_ulp(float x, float y) {
  const double expected = std::exp(double{x});
  const double actual = std::isinf(y) ? 0x1p128 : double{y};
  if (expected >= 0x1p128) return actual == 0x1p128 ? 0.0 : kInf;
  // The exponents of fp64 at e^x, which is a normal number there, and of 1 / unit.
  const auto exponent = static_cast<int>(std::bit_cast<std::uint64_t>(expected) >> 52) - 1023;
  const int inverse = std::min(23 - exponent, 149);
  return std::fabs(actual - expected) *
         std::bit_cast<double>(static_cast<std::uint64_t>(inverse + 1023) << 52);
}

struct Worst {
  double error = 0.0, subnormal_error = 0.0;
  float x = 0.0f;

  void see(double seen, float at, bool subnormal) {
    if (!(seen <= error)) {
      error = seen;
      x = at;
    }
    if (subnormal) subnormal_error = std::max(subnormal_error, seen);
  }
};

Worst worst_of(std::uint64_t first, std::uint64_t last) {
  Worst worst;
  for (std::uint64_t bits = first; bits < last; ++bits) {
    const float x = bits_float(static_cast<std::uint32_t>(bits));
    const float y = exp(x);
    if (is_nan(x)) {
      worst.see(is_nan(y) ? 0.0 : kInf, x, false);
    } else if (std::fabs(x) > 105.0f) {
      worst.see(y == (x < 0.0f ? 0.0f : kInf) ? 0.0 : kInf, x, false);
    } else {
      worst.see(error_ulp(x, y), x, y < FLT_MIN);
    }
  }
  return worst;
}

// The bound is what was measured, rounded up; docs/numerics.md names it.
TEST(EveryFloat, ExpWithinItsBound) {
  constexpr std::uint64_t kChunk = 1u << 22;
  std::atomic<std::uint64_t> next{0};
  std::mutex mutex;
  Worst worst;
  const auto work = [&] {
    for (std::uint64_t first; (first = next.fetch_add(kChunk)) < (std::uint64_t{1} << 32);) {
      const Worst of_chunk = worst_of(first, first + kChunk);
      const std::lock_guard lock(mutex);
      worst.see(of_chunk.error, of_chunk.x, false);
      worst.subnormal_error = std::max(worst.subnormal_error, of_chunk.subnormal_error);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back(work);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(worst.error, 0.892) << "at x = " << worst.x;
  EXPECT_GT(worst.error, 0.891) << "the documents name a larger bound than there is";
  EXPECT_LT(worst.subnormal_error, 0.858);
}

}  // namespace
}  // namespace halfbyte::numerics
