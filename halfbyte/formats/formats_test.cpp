// The element codecs over every float, and the block functions against oracle.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <limits>

#include "halfbyte/formats/e2m1.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/e8m0.h"
#include "halfbyte/formats/fp8.h"
#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/formats/oracle.h"
#include "halfbyte/numerics/half_types.h"

namespace halfbyte::formats {
namespace {

using numerics::abs_bits;
using numerics::bits_float;
using numerics::float_bits;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Runs every float through `codec`; `is_nan_code` says which codes a NaN may give.
template <class Oracle, class Encode, class IsNanCode>
void expect_equal_everywhere(Oracle oracle, std::uint32_t sign_bit, Encode codec,
                             IsNanCode is_nan_code) {
  const auto result = oracle::compare_everywhere(oracle, sign_bit, codec, is_nan_code);
  EXPECT_EQ(result.mismatches, 0u) << "one is float bits 0x" << std::hex << result.example;
  EXPECT_EQ(result.compared, std::uint64_t{1} << 32);
}

template <class Oracle, class Encode>
void expect_equal_everywhere(Oracle oracle, std::uint32_t sign_bit, Encode codec,
                             std::uint32_t nan_code) {
  expect_equal_everywhere(oracle, sign_bit, codec,
                          [=](std::uint32_t code) { return code == nan_code; });
}

auto encoder(const oracle::Table& table) {
  return [&table](double x) { return table.encode(x); };
}

// A codec as a type of its own, which the loop over 2^32 floats can inline.
template <auto kFunction>
struct Codec {
  auto operator()(float x) const { return kFunction(x); }
};

TEST(EveryFloat, E2m1) {
  expect_equal_everywhere(encoder(oracle::e2m1()), 8, Codec<e2m1_from_float>{}, 7u);
}
TEST(EveryFloat, E4m3) {
  expect_equal_everywhere(encoder(oracle::e4m3()), 0x80, Codec<e4m3_from_float>{}, 0x7Fu);
}
TEST(EveryFloat, E8m0RoundUp) {
  expect_equal_everywhere(oracle::e8m0_round_up, 0, Codec<e8m0_round_up>{}, 0xFFu);
}
TEST(EveryFloat, E8m0RoundDown) {
  expect_equal_everywhere(oracle::e8m0_round_down, 0, Codec<e8m0_round_down>{}, 0xFFu);
}
TEST(EveryFloat, E8m0OcpFloor) {
  expect_equal_everywhere(oracle::e8m0_ocp_floor, 0, Codec<e8m0_ocp_floor>{}, 0xFFu);
}
TEST(EveryFloat, Bf16) {
  expect_equal_everywhere(
      encoder(oracle::bf16()), 0x8000, [](float x) { return numerics::bf16_from_float(x).bits; },
      [](std::uint32_t code) { return (code & 0x7FFFu) > 0x7F80u; });
}
TEST(EveryFloat, Fp16) {
  expect_equal_everywhere(
      encoder(oracle::fp16()), 0x8000, [](float x) { return numerics::fp16_from_float(x).bits; },
      [](std::uint32_t code) { return (code & 0x7FFFu) > 0x7C00u; });
}

#if defined(__x86_64__)
TEST(EveryFloat, Fp16AsTheProcessor) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "no AVX2, which implies F16C";
  std::atomic<std::uint64_t> unlike{0};
  oracle::in_parallel(256, [&](std::uint32_t chunk) {
    unlike +=
        oracle::count_unlike_f16c(chunk, [](float x) { return numerics::fp16_from_float(x).bits; });
  });
  EXPECT_EQ(unlike, 0u);
}
#endif

// Decoding against the table of values, then back to the same code.
template <class Decode, class Encode>
void expect_round_trip(const oracle::Table& table, std::uint32_t codes, Decode decode,
                       Encode encode) {
  for (std::uint32_t code = 0; code < codes; ++code) {
    const float value = decode(code);
    if (std::isnan(table.decode(code))) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(float_bits(value), float_bits(oracle::fl(table.decode(code)))) << code;
      EXPECT_EQ(encode(value), code);
    }
  }
}

TEST(EveryCode, E2m1) {
  expect_round_trip(
      oracle::e2m1(), 16, [](std::uint32_t c) { return e2m1_to_float(static_cast<uint8_t>(c)); },
      Codec<e2m1_from_float>{});
  EXPECT_EQ(e2m1_from_float(-0.25f), 8);
  EXPECT_EQ(e2m1_from_float(bits_float(0xFFC00000u)), 7);
  EXPECT_EQ(e2m1_pack(0x3, 0xA), 0xA3);
  EXPECT_TRUE(e2m1_unpack(0xA3, 0) == 0x3 && e2m1_unpack(0xA3, 1) == 0xA);
}

TEST(EveryCode, E4m3) {
  expect_round_trip(
      oracle::e4m3(), 256, [](std::uint32_t c) { return e4m3_to_float(static_cast<uint8_t>(c)); },
      Codec<e4m3_from_float>{});
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7F)));
  EXPECT_TRUE(std::isnan(e4m3_to_float(0xFF)));
  EXPECT_EQ(e4m3_from_float(bits_float(0xFFC00000u)), 0x7F);
}

TEST(EveryCode, E8m0) {
  for (int i = 0; i < 256; ++i) {
    const auto code = static_cast<std::uint8_t>(i);
    const float value = e8m0_to_float(code);
    if (code == 0xFF) {
      EXPECT_TRUE(std::isnan(value) && std::isnan(e8m0_reciprocal(code)));
      EXPECT_EQ(e8m0_round_up(value), 0xFF);
      EXPECT_EQ(e8m0_round_down(value), 0xFF);
      EXPECT_EQ(e8m0_ocp_floor(value), 0xFF);
      continue;
    }
    EXPECT_EQ(value, oracle::e8m0_value(code));
    EXPECT_EQ(double{value} * e8m0_reciprocal(code), 1.0) << i;
    EXPECT_EQ(e8m0_round_up(value), code);
    EXPECT_EQ(e8m0_round_down(value), code);
    EXPECT_EQ(e8m0_ocp_floor(value), std::max(i - 2, 0));
  }
}

template <class Half>
void expect_half_round_trip(const oracle::Table& table) {
  expect_round_trip(
      table, 1 << 16,
      [](std::uint32_t code) { return numerics::to_float(Half{static_cast<std::uint16_t>(code)}); },
      [](float x) { return numerics::round_to<Half>(x).bits; });
}
TEST(EveryCode, Fp16AndBf16) {
  expect_half_round_trip<numerics::Fp16>(oracle::fp16());
  expect_half_round_trip<numerics::Bf16>(oracle::bf16());
}

// A block as the library makes one: amax over magnitude bits, then the functions of the header.
float amax_by_bits(const float* x, int count) {
  std::uint32_t most = 0;
  for (int i = 0; i < count; ++i) most = std::max(most, abs_bits(x[i]));
  return bits_float(most);
}

oracle::Block<16> nvfp4_block(const float* x, Nvfp4Scale scale, ScaleRule rule) {
  oracle::Block<16> block;
  const std::uint8_t s = nvfp4_block_scale(amax_by_bits(x, 16), scale, rule);
  block.scale = s;
  block.reciprocal = nvfp4_reciprocal(s, scale);
  for (int i = 0; i < 16; ++i) block.code[i] = nvfp4_encode(x[i], block.reciprocal);
  return block;
}

oracle::Block<32> mxfp4_block(const float* x, MxRule rule) {
  oracle::Block<32> block;
  const std::uint8_t s = mxfp4_block_scale(amax_by_bits(x, 32), rule);
  block.scale = s;
  block.reciprocal = mxfp4_reciprocal(s);
  for (int i = 0; i < 32; ++i) block.code[i] = mxfp4_encode(x[i], block.reciprocal);
  return block;
}

// Equal bits, or NaN twice: payload and sign of a NaN are unspecified.
::testing::AssertionResult same(float a, float b) {
  const bool equal = float_bits(a) == float_bits(b) || (std::isnan(a) && std::isnan(b));
  if (equal) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << std::hexfloat << a << " and " << b;
}

template <int kSize>
::testing::AssertionResult same(const oracle::Block<kSize>& a, const oracle::Block<kSize>& b) {
  if (a.scale == b.scale && a.code == b.code) return same(a.reciprocal, b.reciprocal);
  return ::testing::AssertionFailure()
         << "scale " << a.scale << " codes " << ::testing::PrintToString(a.code) << "\nand   "
         << b.scale << " codes " << ::testing::PrintToString(b.code);
}

using Codes = std::array<std::uint32_t, 16>;
constexpr Codes kAllSeven = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};

// Every E2M1 value once. fl(6 * fl(1/6)) is 1: with g = 1 the scale is 1 and the codes these.
constexpr float kEveryValue[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
constexpr Codes kEveryCode = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr Codes kSignsOnly = {0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8};
constexpr Codes kSaturated = {0, 7, 7, 7, 7, 7, 7, 7, 8, 15, 15, 15, 15, 15, 15, 15};

TEST(Nvfp4, SpecialBlocks) {
  EXPECT_EQ(float_bits(kOneSixth), 0x3E2AAAABu);
  std::array<float, 16> x;
  const auto encode = [&](float g) {
    return nvfp4_block(x.data(), nvfp4_scale_given(g), ScaleRule::kKernel);
  };
  std::copy_n(kEveryValue, 16, x.begin());
  EXPECT_EQ(encode(1.0f).scale, 0x38u);
  EXPECT_EQ(encode(1.0f).code, kEveryCode);
  EXPECT_EQ(encode(0x1p-11f).scale, 0u) << "S rounds to zero";
  EXPECT_EQ(encode(0x1p-11f).code, kSignsOnly);
  x[5] = bits_float(0xFFC00001u);
  EXPECT_EQ(encode(1.0f).scale, 0x7Fu);
  EXPECT_EQ(encode(1.0f).code, kAllSeven);
  x = {kInf, -kInf, 6.0f, -2688.0f, 111.0f, 0.0f, -0.0f, 1344.0f};
  EXPECT_EQ(encode(1.0f).scale, 0x7Eu);  // 448, r = fl(1/448)
  EXPECT_EQ(encode(1.0f).code, (Codes{7, 15, 0, 15, 0, 0, 8, 5}));
  x = {0.0f, -0.0f};
  EXPECT_TRUE(encode(1.0f).scale == 0u && encode(1.0f).code == (Codes{0, 8}));
}

// A wrong g in device memory: no error is possible there, so the formulas decide.
TEST(Nvfp4, WrongGivenScaleGivesWhatTheFormulasGive) {
  struct Case {
    float g;
    std::uint32_t scale;
    Codes code;
  };
  for (const ScaleRule rule : {ScaleRule::kKernel, ScaleRule::kTe}) {
    const Case cases[] = {
        {0.0f, 0x00, kSignsOnly},   // S = 0
        {-0.0f, 0x80, kSignsOnly},  // S = -0 is 0
        {-1.0f, 0xB8, kEveryCode},  // S * d = -1 * -1
        {kNan, 0x7F, kAllSeven},    //
        {kInf, 0x7E, kSaturated},   // d = 0, r = FLT_MAX
        {-kInf, 0xFE, kSaturated},  // S * d = -448 * -0
    };
    for (const Case& c : cases) {
      const auto block = nvfp4_block(kEveryValue, nvfp4_scale_given(c.g), rule);
      EXPECT_EQ(block.scale, c.scale) << "g = " << c.g;
      EXPECT_EQ(block.code, c.code) << "g = " << c.g;
      const float zeros[16] = {-0.0f};
      EXPECT_EQ(nvfp4_block(zeros, nvfp4_scale_given(c.g), rule).scale, 0u) << "g = " << c.g;
      EXPECT_EQ(nvfp4_block(zeros, nvfp4_scale_given(c.g), rule).code, Codes{8}) << "g = " << c.g;
    }
    const float inf[16] = {kInf, -kInf, 1.0f};
    // g * Inf is NaN at g = 0. Below 448 / FLT_MAX the factor S * d overflows, r = 0, and Inf * 0
    // is NaN, whose code has no sign.
    EXPECT_EQ(nvfp4_block(inf, nvfp4_scale_given(0.0f), rule).scale, 0x7Fu);
    EXPECT_EQ(nvfp4_block(inf, nvfp4_scale_given(0.0f), rule).code, kAllSeven);
    EXPECT_EQ(nvfp4_block(inf, nvfp4_scale_given(1e-37f), rule).scale, 0x7Eu);
    EXPECT_EQ(nvfp4_block(inf, nvfp4_scale_given(1e-37f), rule).code, (Codes{7, 7}));
  }
}

TEST(Nvfp4, ScaleFromAmax) {
  const auto scale = [](float a, ScaleRule rule) { return nvfp4_scale_from_amax(a, rule); };
  EXPECT_EQ(scale(0.0f, ScaleRule::kKernel).encode, 1.0f);
  EXPECT_EQ(scale(0.0f, ScaleRule::kKernel).decode, 1.0f);
  EXPECT_EQ(scale(0.0f, ScaleRule::kTe).decode, 0.0f);
  EXPECT_EQ(scale(0x1p-149f, ScaleRule::kKernel).encode, FLT_MAX);
  EXPECT_EQ(scale(0x1p-149f, ScaleRule::kKernel).decode, 0.0f);
  EXPECT_EQ(scale(kInf, ScaleRule::kKernel).decode, scale(FLT_MAX, ScaleRule::kKernel).decode);
  for (const ScaleRule rule : {ScaleRule::kKernel, ScaleRule::kTe}) {
    const Nvfp4Scale poisoned = scale(kNan, rule);
    EXPECT_TRUE(std::isnan(poisoned.decode));
    for (const float x : {0.0f, 1.0f, -kInf, kNan}) {  // all-zero blocks of the row too
      float block[16] = {x};
      EXPECT_EQ(nvfp4_block(block, poisoned, rule).scale, 0x7Fu) << x;
      EXPECT_EQ(nvfp4_block(block, poisoned, rule).code, kAllSeven) << x;
    }
  }
}

TEST(Nvfp4, BlocksAreTheContractsFormulas) {
  oracle::RandomBlocks random;
  for (int i = 0; i < 400'000; ++i) {
    float x[16];
    random.fill(x, i % 4 != 0);
    for (const ScaleRule rule : {ScaleRule::kKernel, ScaleRule::kTe}) {
      const bool te = rule == ScaleRule::kTe;
      // A given scale of any bits, one that suits the block, and the block as its row.
      const float amax = amax_by_bits(x, 16);
      const float given = i % 3 == 0 ? random.any() : random.near(0, 3) * 2688.0f / amax;
      const Nvfp4Scale g =
          i % 3 == 1 ? nvfp4_scale_from_amax(amax, rule) : nvfp4_scale_given(given);
      const oracle::Scale want = i % 3 == 1 ? oracle::nvfp4_from_amax(oracle::amax_of(x, 16), te)
                                            : oracle::nvfp4_given(given);
      ASSERT_TRUE(same(g.encode, want.g) && same(g.decode, want.d)) << amax << ' ' << given;
      ASSERT_TRUE(same(nvfp4_block(x, g, rule), oracle::nvfp4_block(x, want, te))) << g.encode;
    }
  }
}

// Where the order of the roundings decides: amax a few floats around each midpoint of E4M3.
TEST(Nvfp4, BlockScaleAroundEveryMidpoint) {
  EXPECT_EQ(nvfp4_block_scale(0x1.c7fffep-1f, nvfp4_scale_given(1.0f), ScaleRule::kKernel), 0x22)
      << "fl(amax / 6) instead of fl(amax * fl(1/6)) gives 0x21";
  oracle::RandomBlocks random;
  for (int i = 0; i < 200'000; ++i) {
    const float g = std::fabs(random.near(0, 20));
    const double midpoint = oracle::e4m3().midpoint[i % 126];
    const std::uint32_t bits = float_bits(oracle::fl(6 * midpoint / g));
    const float amax = bits_float(bits - 4 + static_cast<std::uint32_t>(i / 126 % 9));
    for (const ScaleRule rule : {ScaleRule::kKernel, ScaleRule::kTe}) {
      ASSERT_EQ(nvfp4_block_scale(amax, nvfp4_scale_given(g), rule),
                oracle::nvfp4_block_scale(amax, oracle::nvfp4_given(g), rule == ScaleRule::kTe))
          << std::hexfloat << amax << ' ' << g;
    }
  }
}

TEST(Nvfp4, DecodingRoundsOnce) {
  oracle::RandomBlocks random;
  for (int i = 0; i < 200; ++i) {
    const float d = i == 0 ? kInf : i < 100 ? random.any() : random.near(-8, 8);
    for (std::uint32_t pair = 0; pair < 4096; ++pair) {
      const std::uint8_t code = pair & 15u, s = static_cast<std::uint8_t>(pair >> 4);
      ASSERT_TRUE(same(nvfp4_decode(code, s, d), oracle::nvfp4_decode(code, s, d))) << pair;
    }
  }
}

TEST(Mxfp4, BlocksAreTheContractsFormulas) {
  oracle::RandomBlocks random;
  for (int i = 0; i < 400'000; ++i) {
    float x[32];
    random.fill(x, i % 4 != 0);
    ASSERT_TRUE(same(mxfp4_block(x, MxRule::kRoundUp), oracle::mxfp4_block(x, false)));
    ASSERT_TRUE(same(mxfp4_block(x, MxRule::kOcpFloor), oracle::mxfp4_block(x, true)));
  }
}

TEST(Mxfp4, SpecialBlocks) {
  struct Case {
    float amax;
    std::uint32_t round_up, ocp_floor, code;  // of -amax, by round_up
  };
  const Case cases[] = {
      {0.0f, 0, 0, 8},  // +-0
      {kNan, 0xFF, 0xFF, 7},
      {kInf, 254, 254, 15},
      {FLT_MAX, 253, 252, 14},         // fl(FLT_MAX / 6) < 2^126
      {6.0f, 127, 127, 15},            // fl(6 * fl(1/6)) is 1
      {0x1.800002p+2f, 128, 127, 13},  // just above 6: the next power, 3
      {0x1p-126f, 0, 0, 12},           // 2^-126 / 2^-127 is 2
      {0x1p-149f, 0, 0, 8},            // 2^-149 / 2^-127 rounds to 0
  };
  for (const Case& c : cases) {
    float x[32] = {-0.0f, -c.amax};
    const auto up = mxfp4_block(x, MxRule::kRoundUp);
    EXPECT_EQ(up.scale, c.round_up) << c.amax;
    EXPECT_EQ(mxfp4_block(x, MxRule::kOcpFloor).scale, c.ocp_floor) << c.amax;
    EXPECT_EQ(up.code[1], c.code) << c.amax;
    EXPECT_EQ(up.code[0], std::isnan(c.amax) ? 7u : 8u) << c.amax;
  }
}

TEST(Mxfp4, DecodingIsExact) {
  for (std::uint32_t pair = 0; pair < 4096; ++pair) {
    const std::uint8_t code = pair & 15u, scale = static_cast<std::uint8_t>(pair >> 4);
    const double exact = oracle::e2m1().decode(code) * oracle::e8m0_value(scale);
    const float value = mxfp4_decode(code, scale);
    ASSERT_TRUE(same(value, oracle::fl(exact))) << pair;  // 2^128 and above are Inf
    ASSERT_TRUE(double{value} == exact || !(std::fabs(exact) <= double{FLT_MAX})) << pair;
  }
}

TEST(Fp8, StaticAndRowScales) {
  oracle::RandomBlocks random;
  const float special[] = {0.0f, -0.0f, 1.0f, -2.0f, kInf, -kInf, kNan, 0x1p-149f, FLT_MAX, 448.0f};
  for (int i = 0; i < 1'000'000; ++i) {
    const float given = i < 100 ? special[i / 10] : i % 4 == 0 ? random.any() : random.near(0, 20);
    const int exponent = std::isnormal(given) ? std::ilogb(given) : 0;
    const float y = i < 100 ? special[i % 10] : random.near(exponent, 12);
    for (const bool row : {false, true}) {
      const float a = std::fabs(given);
      const Fp8Scale scale = row ? fp8_scale_from_amax(a) : fp8_scale_given(given);
      const oracle::Scale want = row ? oracle::fp8_from_amax(a) : oracle::fp8_given(given);
      ASSERT_TRUE(same(scale.encode, want.g) && same(scale.decode, want.d)) << given;
      const std::uint8_t code = fp8_encode(y, scale);
      ASSERT_EQ(code, oracle::e4m3().encode(oracle::fl(double{y} * want.g))) << y << ' ' << given;
      ASSERT_TRUE(same(fp8_decode(code, want.d), oracle::fl(oracle::e4m3().decode(code) * want.d)));
    }
  }
  EXPECT_EQ(fp8_encode(0.0f, fp8_scale_from_amax(kNan)), 0x7F) << "a NaN poisons its row";
  EXPECT_EQ(fp8_encode(-kInf, fp8_scale_from_amax(kInf)), 0xFE);
}

}  // namespace
}  // namespace halfbyte::formats
