// Bits of floats, roundings, and the canonical row sum.
#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/numerics/rounding.h"
#include "halfbyte/numerics/row_sum.h"
#include "halfbyte/numerics/version.h"

namespace halfbyte::numerics {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

static_assert(kNumericsVersion >= 1);
static_assert(float_bits(1.0f) == 0x3F800000u && bits_float(0xC0000000u) == -2.0f);
static_assert(abs_bits(-2.0f) == 0x40000000u && abs_bits(-0.0f) == 0);
static_assert(kFloatMax == FLT_MAX && float_bits(kInf) == kInfBits);
static_assert(clamp_to_max(kInf) == FLT_MAX && clamp_to_max(FLT_MAX) == FLT_MAX);
static_assert(clamp_to_max(-kInf) == -kInf && clamp_to_max(1.0f) == 1.0f);
static_assert(is_nan(kNan) && !is_nan(kInf) && !is_nan(-kInf) && !is_nan(0.0f));
static_assert(std::is_trivially_copyable_v<Fp16> && sizeof(Fp16) == 2);
static_assert(std::is_trivially_copyable_v<Bf16> && sizeof(Bf16) == 2);

TEST(FloatBits, NanPropagates) {
  for (const std::uint32_t bits :
       {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u, 0xFFC00000u}) {
    const float nan = bits_float(bits);
    EXPECT_TRUE(is_nan(nan));
    EXPECT_TRUE(std::isnan(clamp_to_max(nan)));
    EXPECT_GT(abs_bits(nan), kInfBits) << "an unsigned maximum over abs_bits must end at the NaN";
  }
}

TEST(FloatBits, AbsBitsOrderAsMagnitudes) {
  const float ascending[] = {0.0f, 0x1p-149f, 0x1.fffffcp-127f, FLT_MIN, 1.0f, 6.0f, FLT_MAX, kInf};
  for (std::size_t i = 1; i < std::size(ascending); ++i) {
    EXPECT_LT(abs_bits(-ascending[i - 1]), abs_bits(ascending[i]));
    EXPECT_LT(abs_bits(ascending[i - 1]), abs_bits(-ascending[i]));
  }
}

TEST(HalfTypes, RoundToNearestEven) {
  EXPECT_EQ(fp16_from_float(65504.0f).bits, 0x7BFF);
  EXPECT_EQ(fp16_from_float(65519.996f).bits, 0x7BFF);
  EXPECT_EQ(fp16_from_float(65520.0f).bits, 0x7C00) << "the tie above the largest value overflows";
  EXPECT_EQ(fp16_from_float(0x1p-24f).bits, 0x0001);
  EXPECT_EQ(fp16_from_float(0x1p-25f).bits, 0x0000) << "a tie goes to the even zero";
  EXPECT_EQ(fp16_from_float(-0x1.000002p-25f).bits, 0x8001);
  EXPECT_EQ(fp16_from_float(0x1.ffep-15f).bits, 0x0400) << "a carry from subnormal to normal";
  EXPECT_EQ(bf16_from_float(0x1.01p0f).bits, 0x3F80);
  EXPECT_EQ(bf16_from_float(0x1.03p0f).bits, 0x3F82);
  EXPECT_EQ(bf16_from_float(FLT_MAX).bits, 0x7F80);
  EXPECT_EQ(bf16_from_float(-0.0f).bits, 0x8000);
  EXPECT_EQ(to_float(Fp16{0x0001}), 0x1p-24f);
  EXPECT_EQ(to_float(Bf16{0x0001}), 0x1p-133f);
  EXPECT_EQ(round_to<float>(0x1p-149f), 0x1p-149f);
  EXPECT_EQ(to_float(1.5f), 1.5f);
}

// Operands come through volatile, so that the compiler computes at run time.
TEST(Rounding, OneRoundingAnOperation) {
  const volatile float one = 1.0f, ulp = 0x1p-23f, half_ulp = 0x1p-24f, three = 3.0f;
  EXPECT_EQ(add_rn(one, half_ulp), 1.0f) << "ties to even";
  EXPECT_EQ(add_rn(add_rn(one, ulp), half_ulp), 0x1.000004p0f) << "ties to even, upwards";
  EXPECT_EQ(div_rn(one, three), 0x1.555556p-2f);
  EXPECT_EQ(sqrt_rn(three), 0x1.bb67aep0f);
  // (1 + 2^-23)^2 = 1 + 2^-22 + 2^-46: fma keeps the last term, a rounded product loses it.
  const volatile float x = 1.0f + 0x1p-23f;
  EXPECT_EQ(mul_rn(x, x), 0x1.000004p0f);
  EXPECT_EQ(fma_rn(x, x, -0x1.000004p0f), 0x1p-46f);
}

TEST(Rounding, SubnormalsAreKept) {
  const volatile float smallest = 0x1p-149f, min = FLT_MIN, half = 0.5f;
  EXPECT_EQ(float_bits(mul_rn(min, half)), 0x00400000u);
  EXPECT_EQ(float_bits(add_rn(smallest, smallest)), 2u);
  EXPECT_EQ(float_bits(div_rn(smallest, 0x1p-149f)), float_bits(1.0f));
  EXPECT_EQ(float_bits(fma_rn(smallest, 1.0f, 0.0f)), 1u);
  EXPECT_EQ(float_bits(mul_rn(smallest, half)), 0u) << "a tie goes to the even zero";
}

class Random {
 public:
  // Magnitudes over 2^-20 .. 2^20, so that the order of adding shows in the bits.
  float next() {
    const float value = std::ldexp(1.0f + static_cast<float>(engine_() >> 41) * 0x1p-23f,
                                   static_cast<int>(engine_() % 41) - 20);
    return engine_() % 2 != 0 ? -value : value;
  }

 private:
  std::mt19937_64 engine_{7};
};

// The contract's text: even elements by fma in ascending order, the odd ones likewise, one
// addition.
float leaf_by_the_text(const std::vector<float>& h) {
  float e = h[0] * h[0];
  for (int i = 2; i <= 14; i += 2) e = std::fma(h[i], h[i], e);
  float o = h[1] * h[1];
  for (int i = 3; i <= 15; i += 2) o = std::fma(h[i], h[i], o);
  return e + o;
}

TEST(RowSum, LeafIsTheContracts) {
  Random random;
  for (int i = 0; i < 20'000; ++i) {
    std::vector<float> h(16);
    for (float& value : h) value = random.next();
    ASSERT_EQ(float_bits(leaf_sum_of_squares(h.data())), float_bits(leaf_by_the_text(h)));
  }
}

// With u = 2^-23, (1.25 + u)² = 1.5625 + 2.5 u + u². Floats near the sum 3.8125 are 2 u apart, so
// it goes to 3.8125 + 2 u. A product rounded by itself is 1.5625 + 3 u, a tie that goes to .. + 4
// u.
TEST(RowSum, LeafIsFused) {
  const float even[16] = {1.5f, 0.0f, 1.25f + 0x1p-23f};
  const float odd[16] = {0.0f, 1.5f, 0.0f, 1.25f + 0x1p-23f};
  EXPECT_EQ(leaf_sum_of_squares(even), 3.8125f + 0x1p-22f);
  EXPECT_EQ(leaf_sum_of_squares(odd), 3.8125f + 0x1p-22f);
}

TEST(RowSum, ShortLeafIsPaddedWithZero) {
  Random random;
  for (int count = 0; count < 16; ++count) {
    float h[16] = {};
    for (int i = 0; i < count; ++i) h[i] = random.next();
    float even = 0, odd = 0;  // only the elements there are
    for (int i = 0; i < count; i += 2) even = i == 0 ? h[0] * h[0] : std::fma(h[i], h[i], even);
    for (int i = 1; i < count; i += 2) odd = i == 1 ? h[1] * h[1] : std::fma(h[i], h[i], odd);
    EXPECT_EQ(float_bits(leaf_sum_of_squares(h)), float_bits(even + odd)) << count;
  }
}

TEST(RowSum, LeafPropagatesNanAndInf) {
  for (int i = 0; i < 16; ++i) {
    float h[16] = {};
    h[i] = -kInf;
    EXPECT_EQ(leaf_sum_of_squares(h), kInf) << i;
    h[(i + 7) % 16] = kNan;
    EXPECT_TRUE(std::isnan(leaf_sum_of_squares(h))) << i;
  }
}

// The balanced tree as a recursion over halves of a power of two.
float tree_by_recursion(std::span<const float> nodes) {
  if (nodes.size() == 1) return nodes[0];
  const std::size_t half = nodes.size() / 2;
  return tree_by_recursion(nodes.first(half)) + tree_by_recursion(nodes.last(half));
}

float tree_by_the_text(std::vector<float> nodes) {
  nodes.resize(std::bit_ceil(nodes.size()), 0.0f);  // bit_ceil(0) is 1: an empty sum is +0
  return tree_by_recursion(nodes);
}

float tree_sum(const std::vector<float>& nodes) {
  TreeSum sum;
  for (const float node : nodes) sum.add(node);
  return sum.total();
}

TEST(RowSum, TreeIsTheBalancedOneForEveryCount) {
  Random random;
  std::vector<float> nodes;
  for (int count = 0; count <= 2000; ++count) {
    ASSERT_EQ(float_bits(tree_sum(nodes)), float_bits(tree_by_the_text(nodes))) << count;
    nodes.push_back(std::fabs(random.next()));
  }
}

TEST(RowSum, TreeOfManyRandomRows) {
  Random random;
  for (const int count : {3, 5, 7, 12, 100, 127, 129, 320, 511, 1000, 1025}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::vector<float> nodes;
      for (int i = 0; i < count; ++i) nodes.push_back(std::fabs(random.next()));
      ASSERT_EQ(float_bits(tree_sum(nodes)), float_bits(tree_by_the_text(nodes))) << count;
    }
  }
}

TEST(RowSum, TreeIsNotASequentialSum) {
  // 1 + 2^-24 is 1 whenever they meet alone; the tree lets the two small ones meet first.
  EXPECT_EQ(tree_sum({1.0f, 0.0f, 0x1p-24f, 0x1p-24f}), 0x1.000002p0f);
  EXPECT_EQ(tree_sum({1.0f, 0x1p-24f, 0x1p-24f, 0.0f}), 1.0f);
}

TEST(RowSum, TreePropagatesNanAndInf) {
  for (int count = 1; count <= 33; ++count) {
    std::vector<float> nodes(count, 1.0f);
    nodes[count / 2] = kInf;
    EXPECT_EQ(tree_sum(nodes), kInf) << count;
    nodes[count - 1] = kNan;
    EXPECT_TRUE(std::isnan(tree_sum(nodes))) << count;
  }
}

// total() may be asked for between additions: it changes nothing.
TEST(RowSum, TotalOnTheWay) {
  Random random;
  TreeSum asked;
  std::vector<float> nodes;
  for (int i = 0; i < 100; ++i) {
    nodes.push_back(std::fabs(random.next()));
    asked.add(nodes.back());
    ASSERT_EQ(float_bits(asked.total()), float_bits(tree_by_the_text(nodes))) << i;
  }
}

}  // namespace
}  // namespace halfbyte::numerics
