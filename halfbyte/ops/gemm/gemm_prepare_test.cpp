// The prepared form: the format of docs/formats.md byte by byte, there and back.
#include <gtest/gtest.h>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::Random;
using testing::TensorSet;
using testing::TestTensor;

static_assert(prepared_weight_bytes(Format::kNvfp4, 16, 128) == 1152);
static_assert(prepared_weight_bytes(Format::kMxfp4, 16, 128) == 1088);
static_assert(prepared_weight_bytes(Format::kNvfp4, 17, 144) == 4 * 1152);
static_assert(prepared_weight_bytes(Format::kNvfp4, 0, 128) == 0);

TEST(PreparedWeights, EveryWordThereAndBack) {
  Random random(1);
  for (int i = 0; i < 100'000; ++i) {
    const SpreadCodes codes = {static_cast<std::uint32_t>(random.bits()) & kSpreadMask,
                               static_cast<std::uint32_t>(random.bits()) & kSpreadMask};
    const SpreadCodes back = spread_of_word(word_of_spread(codes));
    ASSERT_EQ(back.low, codes.low);
    ASSERT_EQ(back.high, codes.high);
  }
}

TEST(PreparedWeights, EveryScale) {
  for (int code = 0; code < 256; ++code) {
    const auto e4m3 = static_cast<std::uint8_t>(code);
    const std::uint8_t prepared = prepared_scale(e4m3);
    EXPECT_EQ(e4m3_of_prepared_scale(prepared), code & 0x7F);
    // Bits 14 to 7 of fp16(S * 128).
    const float value = formats::e4m3_to_float(code & 0x7F);
    const numerics::Fp16 half{static_cast<std::uint16_t>(prepared << 7)};
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(numerics::is_nan(numerics::to_float(half)));
    } else {
      EXPECT_EQ(numerics::to_float(half), value * 128) << code;
    }
  }
}

struct Weights {
  TensorSet set;
  PrepareWeightsArgs args;

  Weights(Format format, std::int64_t n, std::int64_t k, ScaleLayout layout) {
    const std::int64_t blocks = k / formats::block_elements(format);
    set.add("codes", TestTensor(DType::kU8, {n, k / 2}));
    set.add("scales", TestTensor(DType::kU8, {formats::scale_bytes(layout, n, blocks)}));
    set.add("prepared", TestTensor(DType::kU8, {prepared_weight_bytes(format, n, k)}));
    args.plain.format = format;
    args.plain.layout = layout;
    args.plain.rows = n;
    args.plain.columns = k;
    view();
  }
  void view() {
    args.plain.codes = set.view("codes");
    args.plain.scales = set.view("scales");
    args.prepared = set.view("prepared");
  }
};

// One code at a time, the others 0: the byte and the bits where docs/formats.md puts it.
TEST(PreparedWeights, EveryPlaceOfAUnit) {
  Weights weights(Format::kNvfp4, 16, 128, ScaleLayout::kLinear);
  auto* codes = weights.args.plain.codes.as<std::uint8_t>();
  const auto* prepared = weights.args.prepared.as<const std::uint8_t>();
  std::fill_n(codes, 16 * 64, std::uint8_t{0});
  std::fill_n(weights.args.plain.scales.as<std::uint8_t>(), 128, std::uint8_t{0x38});
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 128; ++c) {
      for (const int code : {1, 8, 15}) {
        codes[r * 64 + c / 2] = static_cast<std::uint8_t>(c % 2 == 0 ? code : code << 4);
        ASSERT_TRUE(prepare_weights(weights.args).ok());
        const int g = r % 8, b = c / 16, k = c % 16, t = k % 8 / 2, lane = g * 4 + t;
        const std::uint8_t* at = prepared + b / 4 * 512 + lane * 16 + b % 4 * 4;
        const std::uint32_t word = load_word(at);
        const std::uint32_t low = word & 0x8E8E8E8Eu;
        const std::uint32_t high = (word >> 3 ^ word << 7) & 0x8E8E8E8Eu;
        const int byte = k % 2 * 2 + (r < 8 ? 1 : 0);
        const std::uint32_t spread = static_cast<std::uint32_t>((code & 8) << 4 | (code & 7) << 1);
        ASSERT_EQ(k < 8 ? low : high, spread << 8 * byte) << r << " " << c << " " << code;
        ASSERT_EQ(k < 8 ? high : low, 0u) << r << " " << c << " " << code;
        for (int i = 0; i < 1024; ++i) {
          const bool elsewhere = prepared + i < at || prepared + i >= at + 4;
          ASSERT_TRUE(!elsewhere || prepared[i] == 0);
        }
        codes[r * 64 + c / 2] = 0;
      }
    }
  }
  // Scale (r, 2j + odd) is byte odd + 2 * (r / 8) of the word that was rotated left by 7.
  for (int r = 0; r < 16; ++r) {
    for (int block = 0; block < 8; ++block) {
      auto* scales = weights.args.plain.scales.as<std::uint8_t>();
      scales[r * 8 + block] = 0x7E;
      ASSERT_TRUE(prepare_weights(weights.args).ok());
      const std::uint32_t word = load_word(prepared + 1024 + r % 8 * 16 + block / 2 * 4);
      const std::uint32_t plain = word >> 7 | word << 25;
      EXPECT_EQ(plain >> 8 * (block % 2 + r / 8 * 2) & 0xFF, 0x7Eu + 120) << r << " " << block;
      scales[r * 8 + block] = 0x38;
    }
  }
}

TEST(PreparedWeights, ThereAndBack) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    const Format format = random.pick({Format::kNvfp4, Format::kMxfp4});
    const auto layout = static_cast<ScaleLayout>(random.in(0, 2));
    const std::int64_t n = random.in(0, 50);
    const std::int64_t k = formats::block_elements(format) * random.in(1, 30);
    Weights weights(format, n, k, layout);
    testing::fill_bytes(random, weights.args.plain.codes);
    testing::fill_scales(random, format, weights.args.plain.scales);
    // Padding of scales is zero and comes back as zero; a negative scale does not come back.
    TensorView scales = weights.args.plain.scales;
    const std::int64_t blocks = k / formats::block_elements(format);
    for (std::int64_t i = 0; i < scales.numel(); ++i) {
      const formats::ScalePosition place = formats::scale_position(layout, i, blocks);
      std::uint32_t byte = testing::get_bits(scales, i);
      if (format == Format::kNvfp4) byte &= 0x7F;
      testing::set_bits(scales, i, place.row < n && place.column < blocks ? byte : 0);
    }
    const TensorSet before = weights.set.clone();
    for (const int threads : {1, 3}) {
      base::Execution execution;
      execution.num_threads = threads;
      ASSERT_TRUE(prepare_weights(weights.args, execution).ok());
      const std::vector<std::uint8_t> prepared = testing::bytes(weights.args.prepared);
      Weights back(format, n, k, layout);
      back.set.tensors().at("prepared").storage() = weights.set.tensors().at("prepared").storage();
      back.view();
      ASSERT_TRUE(unprepare_weights(back.args, execution).ok());
      EXPECT_EQ(testing::bytes(back.args.plain.codes), testing::bytes(weights.args.plain.codes));
      EXPECT_EQ(testing::bytes(back.args.plain.scales), testing::bytes(weights.args.plain.scales));
      EXPECT_EQ(testing::first_difference(weights.set, back.set), "") << "guards";
    }
  }
}

TEST(PreparedWeights, PaddingIsZeroCodesAndNeutralScales) {
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    const int block = formats::block_elements(format);
    Weights weights(format, 17, 128 + block, ScaleLayout::kLinear);
    Random random(5);
    testing::fill_bytes(random, weights.args.plain.codes);
    testing::fill_scales(random, format, weights.args.plain.scales);
    ASSERT_TRUE(prepare_weights(weights.args).ok());
    const auto* prepared = weights.args.prepared.as<const std::uint8_t>();
    for (std::int64_t n = 0; n < 32; ++n) {
      const PreparedRow row(prepared, format, 128 + block, n);
      for (std::int64_t k = 0; k < 256; ++k) {
        EXPECT_TRUE((n < 17 && k < 128 + block) || row.code(k) == 0);
      }
      for (std::int64_t k = 0; k < 256 / block; ++k) {
        if (n < 17 && k < 128 / block + 1) continue;
        EXPECT_EQ(row.scale(k), format == Format::kNvfp4 ? 0 : 127);
      }
    }
  }
}

// A product of prepared weights has the bits of one of plain weights.
TEST(PreparedWeights, SameProduct) {
  for (std::uint64_t seed = 2'000'000; seed < 2'000'400; ++seed) {
    Random random(seed);
    const bool quantized = seed % 3 != 0;
    testing::GemmCase test =
        testing::random_gemm(random, {.quantized = quantized, .grouped = seed % 5 == 0});
    if (test.args.b.form == WeightForm::kPrepared) continue;
    TensorSet plain = test.set.clone(), prepared = test.set.clone();
    const base::Status one = gemm(testing::gemm_args(test, plain));
    GemmArgs args = testing::gemm_args(test, prepared);
    testing::add_prepared(args.b, test.shape, prepared);
    args.b.codes = args.b.scales = {};
    args.b.prepared = prepared.view("b_prepared");
    args.b.form = WeightForm::kPrepared;
    const base::Status two = gemm(args);
    ASSERT_TRUE(one.ok() && two.ok()) << one.message() << two.message();
    EXPECT_EQ(testing::first_difference(plain, prepared), "") << seed << "\n" << test.text;
  }
}

}  // namespace
}  // namespace halfbyte::ops
