// quantize and dequantize against bytes derived by hand from docs/numerics.md, on every
// implementation of this machine.
#include "halfbyte/ops/quantize/quantize.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>

#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/ops/quantize/quantize_testing.h"

namespace halfbyte::ops {
namespace {

using testing::Bytes;
using testing::Floats;
using testing::fp8;
using testing::kInf;
using testing::kNan;
using testing::mxfp4;
using testing::Quantized;
using testing::run;
using testing::with_scale;

const Floats kEveryCode = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
// amax 6: S = 1 and r = 1, so these are midpoints as they stand.
const Floats kMidpoints = {0.25f,  0.75f,  1.25f,  1.75f,  2.5f,  3.5f,  5,  6,
                           -0.25f, -0.75f, -1.25f, -1.75f, -2.5f, -3.5f, -5, -6};

TEST(Nvfp4, EveryCodeAndTiesToEven) {
  const Quantized codes = run(kEveryCode, 1);
  EXPECT_EQ(codes.scales, Bytes{0x38});
  EXPECT_EQ(codes.codes, (Bytes{0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE}));
  const Quantized ties = run(kMidpoints, 1);
  EXPECT_EQ(ties.scales, Bytes{0x38});
  EXPECT_EQ(ties.codes, (Bytes{0x20, 0x42, 0x64, 0x76, 0xA8, 0xCA, 0xEC, 0xFE}));
}

// g = 100, amax 6: S = E4M3(100) = 96 (a tie between 96 and 104), r = 1 / (96 * 0.01) = 1.0417.
TEST(Nvfp4, ReciprocalIsThatOfTheRoundedScale) {
  Floats x(16, 0.0f);
  x[0] = 6, x[1] = 5, x[2] = 2.41f, x[3] = 2.39f;  // 6.25, 5.21, 2.510, 2.490
  const Quantized q = run(x, 1, {}, {100.0f});
  EXPECT_EQ(q.scales, Bytes{0x6C});
  EXPECT_EQ(q.codes, (Bytes{0x77, 0x45, 0, 0, 0, 0, 0, 0}));
}

TEST(Nvfp4, SpecialBlocks) {
  Floats nan(16, 1.0f), inf(16, 1.0f), tiny(16, 1e-10f), zero(16, 0.0f);
  nan[5] = -kNan;
  EXPECT_EQ(run(nan, 1).scales, Bytes{0x7F});
  EXPECT_EQ(run(nan, 1).codes, Bytes(8, 0x77));
  inf[0] = kInf, inf[1] = -kInf, inf[2] = -1.0f;  // S = 448: the others are 1/448 of a code
  EXPECT_EQ(run(inf, 1).scales, Bytes{0x7E});
  EXPECT_EQ(run(inf, 1).codes, (Bytes{0xF7, 0x08, 0, 0, 0, 0, 0, 0}));
  tiny[3] = -1e-10f;  // amax / 6 is below 2^-10
  EXPECT_EQ(run(tiny, 1).scales, Bytes{0});
  EXPECT_EQ(run(tiny, 1).codes, (Bytes{0, 0x80, 0, 0, 0, 0, 0, 0}));
  zero[2] = -0.0f;
  EXPECT_EQ(run(zero, 1).scales, Bytes{0});
  EXPECT_EQ(run(zero, 1).codes, (Bytes{0, 0x08, 0, 0, 0, 0, 0, 0}));
}

// S = 2^-9 and d = 1/3e38: 1 / (S * d) overflows. r = FLT_MAX keeps 0 * r at 0 instead of NaN.
TEST(Nvfp4, ReciprocalIsClamped) {
  Floats x(16, 0.0f);
  x[0] = 3.9e-41f, x[1] = -0.0f;
  const Quantized q = run(x, 1, {}, {3e38f});
  EXPECT_EQ(q.scales, Bytes{1});
  EXPECT_EQ(q.codes, (Bytes{0x80, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(Nvfp4, GivenScalePerRow) {
  Floats x = kEveryCode;
  x.insert(x.end(), kEveryCode.begin(), kEveryCode.end());
  const Quantized q = run(x, 2, {}, {2.0f, 64.0f});  // S = g where amax is 6, and S * d = 1
  EXPECT_EQ(q.scales, (Bytes{0x40, 0x68}));
  EXPECT_EQ(Bytes(q.codes.begin(), q.codes.begin() + 8), Bytes(q.codes.begin() + 8, q.codes.end()));
}

TEST(Nvfp4, RowScales) {
  Floats x(6 * 32, 0.0f);
  x[0] = 5376;             // row 0: d = 2, its second block zero
  x[2 * 32] = -21;         // row 2: g = 128, d = 1/128; row 1 is zero
  x[2 * 32 + 16] = 10.5f;  // the second block: S = 128 * 10.5 / 6 = 224
  x[3 * 32 + 17] = kNan;   // row 3: its first block is all zero, and poisoned too
  x[4 * 32] = kInf, x[4 * 32 + 1] = -FLT_MAX, x[4 * 32 + 2] = 1;
  x[5 * 32] = 1e-40f;  // row 5: 2688 / a overflows
  const Quantized q = run(x, 6, with_scale(ScaleMode::kRow));
  EXPECT_EQ(q.scales, (Bytes{0x7E, 0, 0, 0, 0x7E, 0x76, 0x7F, 0x7F, 0x7E, 0, q.scales[10], 0}));
  EXPECT_EQ(q.codes[0], 0x07);
  EXPECT_EQ(q.codes[2 * 16], 0x0F);
  EXPECT_EQ(q.codes[2 * 16 + 8], 0x07);
  EXPECT_EQ(Bytes(q.codes.begin() + 48, q.codes.begin() + 64), Bytes(16, 0x77));
  EXPECT_EQ(q.codes[4 * 16], 0xF7);
  EXPECT_EQ(q.codes[4 * 16 + 1], 0);
  EXPECT_EQ(q.row_scale[0], 2.0f);
  EXPECT_EQ(q.row_scale[1], 1.0f);
  EXPECT_EQ(q.row_scale[2], 1.0f / 128);
  EXPECT_TRUE(std::isnan(q.row_scale[3]));
  EXPECT_EQ(q.row_scale[4], FLT_MAX / 2688.0f);
  EXPECT_EQ(q.row_scale[5], 1e-40f / 2688.0f);
  // g = FLT_MAX, fl(1e-40 / 6) * FLT_MAX = 0.00567: the third of the steps of 2^-9.
  EXPECT_EQ(q.scales[10], 3);
}

TEST(Nvfp4, ComputedScales) {
  Floats x(3 * 16, 0.0f);
  x[17] = -1344;
  const Quantized q = run(x, 3, with_scale(ScaleMode::kComputed));
  EXPECT_EQ(q.global_scale, Floats{2.0f});
  EXPECT_EQ(q.decode_scale, Floats{0.5f});
  EXPECT_EQ(q.scales, (Bytes{0, 0x7E, 0}));
  EXPECT_EQ(q.codes[8], 0xF0);
  x[47] = kNan;  // poisons every block of the tensor, the zero ones too
  const Quantized nan = run(x, 3, with_scale(ScaleMode::kComputed));
  EXPECT_TRUE(std::isnan(nan.global_scale[0]) && std::isnan(nan.decode_scale[0]));
  EXPECT_EQ(nan.scales, Bytes(3, 0x7F));
  EXPECT_EQ(nan.codes, Bytes(24, 0x77));
  const Quantized zero = run(Floats(16, 0.0f), 1, with_scale(ScaleMode::kComputed));
  EXPECT_EQ(zero.global_scale, Floats{1.0f});
  EXPECT_EQ(zero.decode_scale, Floats{1.0f});
  EXPECT_EQ(zero.scales, Bytes{0});
}

TEST(Nvfp4, TransformerEngineRule) {
  // A row: g = fl(2688 / a), d = fl(1 / g), which is not fl(a / 2688) for this a.
  const float a = 1.0000001f * 3, g = 2688.0f / a;
  Floats x(32, 0.0f);
  x[0] = a;
  const Quantized q = run(x, 2, with_scale(ScaleMode::kRow, ScaleRule::kTe));
  EXPECT_EQ(q.row_scale[0], 1.0f / g);
  EXPECT_EQ(q.row_scale[1], 0.0f);  // a zero row
  EXPECT_EQ(q.scales, (Bytes{0x7E, 0}));
  // The tensor: S = E4M3( amax * fl(g/6) ), found to differ from E4M3( g * fl(amax/6) ) somewhere.
  int differ = 0;
  for (int i = 0; i < 2000; ++i) {
    const float amax = 1.0f + static_cast<float>(i) * 0x1p-23f, scale = 1.0625f * 6 / amax;
    const Floats block(16, amax);
    QuantizeSpec te = with_scale(ScaleMode::kTensor, ScaleRule::kTe);
    const float te_wanted = amax * (scale * formats::kOneSixth);
    const float wanted = scale * (amax * formats::kOneSixth);
    if (formats::e4m3_from_float(te_wanted) == formats::e4m3_from_float(wanted)) continue;
    ++differ;
    EXPECT_EQ(run(block, 1, te, {scale}).scales, Bytes{formats::e4m3_from_float(te_wanted)});
    EXPECT_EQ(run(block, 1, {}, {scale}).scales, Bytes{formats::e4m3_from_float(wanted)});
    if (differ == 3) break;
  }
  EXPECT_GT(differ, 0);
}

TEST(Mxfp4, Blocks) {
  Floats x = kEveryCode;
  x.insert(x.end(), kMidpoints.begin(), kMidpoints.end());
  const Bytes codes = {0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE,
                       0x20, 0x42, 0x64, 0x76, 0xA8, 0xCA, 0xEC, 0xFE};
  EXPECT_EQ(run(x, 1, mxfp4()).scales, Bytes{127});  // 6 / 6 = 2^0
  EXPECT_EQ(run(x, 1, mxfp4()).codes, codes);
  EXPECT_EQ(run(x, 1, mxfp4(MxRule::kOcpFloor)).scales, Bytes{127});
  EXPECT_EQ(run(x, 1, mxfp4(MxRule::kOcpFloor)).codes, codes);
  // 7: round_up gives 2^1, ocp_floor 2^0 and saturates.
  Floats seven(32, 7.0f);
  EXPECT_EQ(run(seven, 1, mxfp4()).scales, Bytes{128});
  EXPECT_EQ(run(seven, 1, mxfp4()).codes, Bytes(16, 0x66));  // 3.5 is a tie, to 4
  EXPECT_EQ(run(seven, 1, mxfp4(MxRule::kOcpFloor)).scales, Bytes{127});
  EXPECT_EQ(run(seven, 1, mxfp4(MxRule::kOcpFloor)).codes, Bytes(16, 0x77));
}

TEST(Mxfp4, SpecialBlocks) {
  for (const MxRule rule : {MxRule::kRoundUp, MxRule::kOcpFloor}) {
    Floats zero(32, 0.0f), nan(32, 0.0f), inf(32, 1.0f), subnormal(32, 0.0f);
    zero[1] = -0.0f;
    EXPECT_EQ(run(zero, 1, mxfp4(rule)).scales, Bytes{0});
    EXPECT_EQ(run(zero, 1, mxfp4(rule)).codes[0], 0x80);
    nan[31] = kNan;
    EXPECT_EQ(run(nan, 1, mxfp4(rule)).scales, Bytes{0xFF});
    EXPECT_EQ(run(nan, 1, mxfp4(rule)).codes, Bytes(16, 0x77));
    inf[0] = -kInf;
    EXPECT_EQ(run(inf, 1, mxfp4(rule)).scales, Bytes{254});
    EXPECT_EQ(run(inf, 1, mxfp4(rule)).codes[0], 0x0F);
    subnormal[0] = 0x1p-127f, subnormal[1] = -0x1p-128f;  // the smallest scale is 2^-127
    EXPECT_EQ(run(subnormal, 1, mxfp4(rule)).scales, Bytes{0});
    EXPECT_EQ(run(subnormal, 1, mxfp4(rule)).codes[0], 0x92);
  }
}

TEST(Fp8, StaticAndPerRow) {
  // d = 1/2: codes of 2y. 448 = 0x7E; 1.5 is 0x3C; ties of E4M3: 17 -> 16, 19 -> 20.
  EXPECT_EQ(run({224, -0.75f, 1000, 8.5f, 9.5f, -0.0f, kInf, -kInf, kNan}, 1,
                fp8(ScaleMode::kTensor), {0.5f})
                .codes,
            (Bytes{0x7E, 0xBC, 0x7E, 0x58, 0x5A, 0x80, 0x7E, 0xFE, 0x7F}));
  const Quantized rows =
      run({896, -2, 0, 0, -0.0f, 0, 1, kNan, 0, kInf, 1, -FLT_MAX}, 4, fp8(ScaleMode::kRow));
  EXPECT_EQ(rows.codes, (Bytes{0x7E, 0xB8, 0, 0, 0x80, 0, 0x7F, 0x7F, 0x7F, 0x7E, 0, 0xFE}));
  EXPECT_EQ(rows.row_scale[0], 2.0f);
  EXPECT_EQ(rows.row_scale[1], 1.0f);
  EXPECT_TRUE(std::isnan(rows.row_scale[2]));
  EXPECT_EQ(rows.row_scale[3], FLT_MAX / 448.0f);
}

// (e2m1 * S) * d, rounded to T; which of the two scales it is, is the caller's to say.
TEST(Dequantize, EveryFormat) {
  struct Example {
    formats::Format format;
    formats::ScaleKind kind;
    float scale;
    std::uint8_t block_scale, code;
    float expected;
  };
  using formats::ScaleKind;
  for (const Example& e :
       {Example{Format::kNvfp4, ScaleKind::kNone, 0, 0x7E, 0xF7, 2688},
        Example{Format::kNvfp4, ScaleKind::kDecode, 0.1f, 0x3C, 0x55, 4.5f * 0.1f},
        Example{Format::kNvfp4, ScaleKind::kEncode, 10.0f, 0x3C, 0x55, 4.5f * (1.0f / 10.0f)},
        Example{Format::kNvfp4, ScaleKind::kDecode, 2.0f, 0x7F, 0x00, kNan},
        Example{Format::kNvfp4, ScaleKind::kEncode, 0.0f, 0x38, 0x11, kInf},
        Example{Format::kMxfp4, ScaleKind::kNone, 0, 0, 0x11, 0x1p-128f},
        Example{Format::kMxfp4, ScaleKind::kNone, 0, 254, 0x77, kInf},
        Example{Format::kMxfp4, ScaleKind::kNone, 0, 255, 0x00, kNan},
        Example{Format::kFp8, ScaleKind::kDecode, 0.3f, 0, 0x7E, 448 * 0.3f},
        Example{Format::kFp8, ScaleKind::kEncode, 3.0f, 0, 0xFE, -448 * (1.0f / 3.0f)},
        Example{Format::kFp8, ScaleKind::kNone, 0, 0, 0xFF, kNan}}) {
    for (const testing::DType dtype : {testing::DType::kF32, testing::DType::kBF16}) {
      testing::TensorSet set;
      const bool blocks = formats::has_block_scales(e.format);
      set.add("x", testing::TestTensor(dtype, {1, 32}));
      set.add("codes", testing::TestTensor(testing::DType::kU8, {1, blocks ? 16 : 32}));
      set.add("scales", testing::TestTensor(testing::DType::kU8, {2}));
      set.add("scale", testing::TestTensor(testing::DType::kF32, {1}));
      for (int i = 0; i < 32; ++i) {
        if (i < (blocks ? 16 : 32)) testing::set_bits(set.view("codes"), i, e.code);
        if (i < 2) testing::set_bits(set.view("scales"), i, e.block_scale);
      }
      testing::fill(set.view("scale"), {e.scale});
      for (const testing::Runner& runner : testing::every_runner()) {
        testing::TensorSet actual = set.clone();
        const base::Status status = runner.run(
            actual, [&](const testing::TensorSet& tensors, const base::Execution& execution) {
              formats::PackedTensor packed{
                  e.format, ScaleLayout::kLinear, 1, 32, tensors.view("codes"), {}, {}, e.kind};
              if (blocks) packed.scales = tensors.view("scales");
              if (e.format == Format::kNvfp4) packed.scales.shape[0] = 2;
              if (e.format == Format::kMxfp4) packed.scales.shape[0] = 1;
              if (e.kind != ScaleKind::kNone) packed.scale = tensors.view("scale");
              return dequantize({.packed = packed, .x = tensors.view("x")}, execution);
            });
        EXPECT_TRUE(status.ok()) << status.message();
        testing::TensorSet expected = set.clone();
        testing::fill(expected.view("x"),
                      {e.expected, blocks && e.code == 0xF7 ? -e.expected : e.expected});
        EXPECT_EQ(testing::first_difference(expected, actual), "") << runner.name;
      }
    }
  }
}

TEST(Amax, SpecialValues) {
  for (const bool per_row : {false, true}) {
    testing::TensorSet set;
    set.add("x", testing::TestTensor(testing::DType::kBF16, {4, 3}));
    testing::fill(set.view("x"), {1, -2, 0.5f, -0.0f, 0, -0.0f, -kInf, 1, 2, 3, kNan, kInf});
    set.add("amax", testing::TestTensor(testing::DType::kF32, {per_row ? 4 : 1}));
    testing::TensorSet expected = set.clone();
    testing::fill(expected.view("amax"), per_row ? Floats{2, 0, kInf, kNan} : Floats{kNan});
    for (const testing::Runner& runner : testing::every_runner()) {
      testing::TensorSet actual = set.clone();
      const base::Status status = runner.run(
          actual, [&](const testing::TensorSet& tensors, const base::Execution& execution) {
            return amax({tensors.view("x"), tensors.view("amax"), per_row}, execution);
          });
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(testing::first_difference(expected, actual), "") << runner.name;
    }
  }
}

}  // namespace
}  // namespace halfbyte::ops
