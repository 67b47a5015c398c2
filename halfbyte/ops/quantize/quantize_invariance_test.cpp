// quantize: where scales and padding go, what may not change a bit (batch, the caller's floating-
// point environment), and a second derivation of every row (formats/oracle.h).
#include <gtest/gtest.h>

#include <cmath>

#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/oracle.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/quantize/quantize_kernels.h"
#include "halfbyte/ops/quantize/quantize_testing.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using testing::Bytes;
using testing::Floats;
using testing::fp8;
using testing::kInf;
using testing::kNan;
using testing::mxfp4;
using testing::Quantized;
using testing::Random;
using testing::run;
using testing::Runner;
using testing::TensorSet;
using testing::TestTensor;
using testing::with_scale;

// A block's scale lies where scale_offset says, in both layouts, and every other byte is zero.
TEST(Layouts, PlacesAndPadding) {
  for (const std::int64_t rows : {1, 7, 8, 9, 127, 128, 129, 200}) {
    for (const std::int64_t blocks : {1, 3, 4, 5}) {
      Floats x(static_cast<std::size_t>(rows * blocks * 16));
      for (std::size_t i = 0; i < x.size(); ++i) {  // S of block b: E4M3 code 1 + b % 125
        const auto code = static_cast<std::uint8_t>(1 + i / 16 % 125);
        x[i] = 6.0f * formats::e4m3_to_float(code);
      }
      for (const ScaleLayout layout : {ScaleLayout::k128x4, ScaleLayout::k8x4}) {
        QuantizeSpec spec;
        spec.layout = layout;
        spec.second_layout = ScaleLayout::kLinear;
        const Quantized q = run(x, rows, spec);
        Bytes expected(static_cast<std::size_t>(formats::scale_bytes(layout, rows, blocks)), 0);
        for (std::int64_t b = 0; b < rows * blocks; ++b) {
          const auto code = static_cast<std::uint8_t>(1 + b % 125);
          EXPECT_EQ(q.second[static_cast<std::size_t>(b)], code);
          expected[static_cast<std::size_t>(
              formats::scale_offset(layout, b / blocks, b % blocks, blocks))] = code;
        }
        EXPECT_EQ(q.scales, expected) << rows << " rows of " << blocks;
      }
    }
  }
}

TEST(EmptyTensors, EveryFormat) {
  for (const ScaleLayout layout : {ScaleLayout::kLinear, ScaleLayout::k128x4, ScaleLayout::k8x4}) {
    for (const ScaleMode mode : {ScaleMode::kTensor, ScaleMode::kRow, ScaleMode::kComputed}) {
      QuantizeSpec spec = with_scale(mode);
      spec.layout = layout;
      spec.second_layout = layout;
      const Quantized q = run({}, 0, spec);
      if (mode != ScaleMode::kComputed) continue;
      EXPECT_EQ(q.global_scale, Floats{1.0f});
      EXPECT_EQ(q.decode_scale, Floats{1.0f});
    }
    QuantizeSpec mx = mxfp4();
    mx.layout = layout;
    run({}, 0, mx);
  }
  run({}, 0, fp8(ScaleMode::kRow));
  run({}, 0, fp8(ScaleMode::kTensor), {1.0f});
}

// A bad scale in device memory is not looked at: the formulas speak. These are the reference's
// answers, and those of a CUDA kernel where there is one.
TEST(BadScaleInDeviceMemory, FormulasSpeak) {
  struct Expected {
    float scale;
    std::uint8_t nvfp4_scale, nvfp4_code, fp8_code;  // of a block of sixes
  };
  for (const Expected& expected : {Expected{0.0f, 0, 0, 0x7E}, Expected{-1.0f, 0xB8, 7, 0xCC},
                                   Expected{kNan, 0x7F, 7, 0x7F}, Expected{kInf, 0x7E, 7, 0}}) {
    for (const Format format : {Format::kNvfp4, Format::kFp8}) {
      const bool nvfp4 = format == Format::kNvfp4;
      TensorSet set;
      set.add("x", TestTensor(DType::kF32, {2, 16}));
      testing::fill(set.view("x"), {6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6,
                                    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
      set.add("codes", TestTensor(DType::kU8, {2, nvfp4 ? 8 : 16}));
      if (nvfp4) set.add("scales", TestTensor(DType::kU8, {2}));
      set.add("given", TestTensor(DType::kF32, {1}));
      testing::fill(set.view("given"), {expected.scale});

      TensorSet reference = set.clone();
      formats::RowTarget target;
      target.format = format;
      target.rows = 2, target.columns = 16, target.scale_rows = 2;
      target.codes = reference.view("codes").as<std::uint8_t>();
      target.code_rows = base::row_map("codes", reference.view("codes")).value();
      if (nvfp4) target.scales[0].data = reference.view("scales").as<std::uint8_t>();
      target.given = reference.view("given").as<float>();
      reference::kQuantizeKernels.quantize(resolve_rows("x", reference.view("x")).value(), target,
                                           1);
      const Bytes codes = testing::bytes(reference.view("codes"));
      if (nvfp4) {
        EXPECT_EQ(testing::bytes(reference.view("scales")), (Bytes{expected.nvfp4_scale, 0}));
        EXPECT_EQ(codes[0], expected.nvfp4_code * 0x11);
        EXPECT_EQ(codes[8], 0);
      } else {
        EXPECT_EQ(codes[0], expected.fp8_code);
      }

      for (const Runner& runner : testing::cuda_runners()) {
        TensorSet actual = set.clone();
        const base::Status status =
            runner.run(actual, [&](const TensorSet& tensors, const Execution& execution) {
              QuantizeArgs args;
              args.x = tensors.view("x");
              args.spec.format = format;
              args.out.codes = tensors.view("codes");
              args.out.scales = tensors.view("scales");
              (nvfp4 ? args.given.global_scale : args.given.decode_scale) = tensors.view("given");
              return quantize(args, execution);
            });
        EXPECT_TRUE(status.ok()) << status.message();
        EXPECT_EQ(testing::first_difference(reference, actual), "") << runner.name;
      }
    }
  }
}

Floats random_rows(Random& random, std::int64_t rows, std::int64_t columns) {
  TestTensor x(DType::kF32, {rows, columns});
  testing::fill_random(random, x.view());
  return testing::values(x.view());
}

// oracle.h derives blocks in double from the text of the contract.
TEST(Oracle, Nvfp4Rows) {
  Random random(7'000'000);
  for (int i = 0; i < 1500; ++i) {
    const Floats x = random_rows(random, 1, 64);
    const bool te = random.one_in(2), row = random.one_in(2);
    const float amax = formats::oracle::amax_of(x.data(), 64), g = testing::random_scale(random);
    const formats::oracle::Scale scale =
        row ? formats::oracle::nvfp4_from_amax(amax, te) : formats::oracle::nvfp4_given(g);
    const Quantized q = run(x, 1,
                            with_scale(row ? ScaleMode::kRow : ScaleMode::kTensor,
                                       te ? ScaleRule::kTe : ScaleRule::kKernel),
                            row ? Floats{} : Floats{g});
    for (std::size_t b = 0; b < 4; ++b) {
      const auto block = formats::oracle::nvfp4_block(x.data() + 16 * b, scale, te);
      EXPECT_EQ(q.scales[b], block.scale);
      for (std::size_t k = 0; k < 16; ++k) {
        EXPECT_EQ(q.codes[8 * b + k / 2] >> (k % 2 * 4) & 15u, block.code[k]) << i << " " << k;
      }
    }
    if (!row) continue;
    EXPECT_TRUE(scale.amax_is_nan ? std::isnan(q.row_scale[0]) : q.row_scale[0] == scale.d);
  }
}

TEST(Oracle, Mxfp4AndFp8Rows) {
  Random random(8'000'000);
  for (int i = 0; i < 1500; ++i) {
    const Floats x = random_rows(random, 1, 32);
    const MxRule rule = random.pick({MxRule::kRoundUp, MxRule::kOcpFloor});
    const Quantized mx = run(x, 1, mxfp4(rule));
    const auto block = formats::oracle::mxfp4_block(x.data(), rule == MxRule::kOcpFloor);
    EXPECT_EQ(mx.scales[0], block.scale);
    const bool row = random.one_in(2);
    const float d = testing::random_scale(random);
    const formats::oracle::Scale scale =
        row ? formats::oracle::fp8_from_amax(formats::oracle::amax_of(x.data(), 32))
            : formats::oracle::fp8_given(d);
    const Quantized q =
        run(x, 1, fp8(row ? ScaleMode::kRow : ScaleMode::kTensor), row ? Floats{} : Floats{d});
    for (std::size_t k = 0; k < 32; ++k) {
      EXPECT_EQ(mx.codes[k / 2] >> (k % 2 * 4) & 15u, block.code[k]) << i << " " << k;
      const double product = formats::oracle::fl(double{x[k]} * scale.g);
      EXPECT_EQ(q.codes[k], formats::oracle::e4m3().encode(product)) << i << " " << k;
    }
  }
}

TEST(BatchInvariance, ARowAloneGivesTheSameBits) {
  Random random(9'000'000);
  for (const QuantizeSpec& spec : {with_scale(ScaleMode::kTensor), with_scale(ScaleMode::kRow),
                                   mxfp4(), fp8(ScaleMode::kRow)}) {
    const Floats x = random_rows(random, 37, 320);
    const Quantized all = run(x, 37, spec);
    const std::size_t codes = all.codes.size() / 37, scales = all.scales.size() / 37;
    for (std::size_t row = 0; row < 37; ++row) {
      const Quantized alone =
          run(Floats(x.begin() + row * 320, x.begin() + (row + 1) * 320), 1, spec);
      EXPECT_EQ(alone.codes,
                Bytes(all.codes.begin() + row * codes, all.codes.begin() + (row + 1) * codes));
      EXPECT_EQ(alone.scales,
                Bytes(all.scales.begin() + row * scales, all.scales.begin() + (row + 1) * scales));
      if (spec.scale != ScaleMode::kRow) continue;
      EXPECT_TRUE(alone.row_scale[0] == all.row_scale[row] || std::isnan(all.row_scale[row]));
    }
  }
}

#if defined(__x86_64__)
// Flush-to-zero, denormals-are-zero and each rounding mode, as a caller may have set them: inputs,
// scales and sums of this test are subnormal, so that a kernel which let them through would differ.
TEST(FloatEnvironment, TheCallersChangesNothing) {
  Floats x(64 * 600);
  Random random(10'000'000);
  for (float& value : x)
    value = std::ldexp(random.uniform(), -125 - static_cast<int>(random.in(0, 9)));
  const auto all = [&] {
    return std::vector<Quantized>{run(x, 600, {}, {0x1p-130f}),
                                  run(x, 600, {}, {3e38f}),
                                  run(x, 600, with_scale(ScaleMode::kRow)),
                                  run(x, 600, with_scale(ScaleMode::kComputed)),
                                  run(x, 600, mxfp4()),
                                  run(x, 600, fp8(ScaleMode::kRow)),
                                  run(x, 600, fp8(ScaleMode::kTensor), {1e-40f})};
  };
  const std::vector<Quantized> expected = all();
  const unsigned saved = _mm_getcsr();
  for (const unsigned changed : {0x8040u, 0x2000u, 0x4000u, 0x6000u, 0xE040u}) {
    _mm_setcsr(saved | changed);
    const std::vector<Quantized> actual = all();
    const unsigned after = _mm_getcsr();
    _mm_setcsr(saved);
    EXPECT_EQ(after & 0xFFC0u, (saved | changed) & 0xFFC0u) << "the caller's setting is restored";
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(actual[i].codes, expected[i].codes) << std::hex << changed << " " << i;
      EXPECT_EQ(actual[i].scales, expected[i].scales) << std::hex << changed << " " << i;
      EXPECT_EQ(actual[i].row_scale, expected[i].row_scale) << std::hex << changed << " " << i;
      EXPECT_EQ(actual[i].decode_scale, expected[i].decode_scale) << std::hex << changed;
    }
  }
}
#endif

}  // namespace
}  // namespace halfbyte::ops
