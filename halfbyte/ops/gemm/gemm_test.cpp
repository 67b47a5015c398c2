// gemm: the reference against docs/numerics.md written a second time, exact and special values, and
// the independence of a row from its batch.
#include "halfbyte/ops/gemm/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "halfbyte/formats/oracle.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

namespace oracle = formats::oracle;
using base::DType;
using testing::GemmCase;
using testing::Random;
using testing::TensorSet;
using testing::TestTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

base::Execution on_reference() {
  base::Execution execution;
  execution.backend = base::Backend::kReference;
  return execution;
}

double code_value(const TensorView& codes, std::int64_t row, std::int64_t k) {
  const std::uint32_t byte = testing::get_bits(codes, row * codes.strides[0] + k / 2);
  return oracle::e2m1().decode(k % 2 == 0 ? byte & 15 : byte >> 4);
}

// Nodes [0, width) of a balanced tree, those past the end +0.
float tree_sum(const std::vector<float>& nodes, std::size_t begin, std::size_t width) {
  if (width == 1) return begin < nodes.size() ? nodes[begin] : 0.0f;
  return tree_sum(nodes, begin, width / 2) + tree_sum(nodes, begin + width / 2, width / 2);
}

// One element of C from the text of docs/numerics.md. Weights are plain; no groups.
class Oracle {
 public:
  Oracle(const GemmArgs& args, const testing::GemmShape& shape)
      : args_(args), shape_(shape), block_(shape.format == Format::kNvfp4 ? 16 : 32) {}

  float operator()(std::int64_t m, std::int64_t n) const {
    std::vector<float> slices;
    for (std::int64_t b = 0; b < shape_.k / block_; ++b) {
      if (b % slice_blocks(shape_.format) == 0) slices.push_back(0.0f);
      slices.back() = add_block(slices.back(), m, n, b);
    }
    std::size_t width = 1;
    while (width < slices.size()) width *= 2;
    float c = tree_sum(slices, 0, width);
    if (args_.a_packed.codes) c = c * decode(args_.a_packed.scale, args_.a_packed.scale_kind, m);
    c = c * decode(args_.b.scale, args_.b.scale_kind, 0);
    if (args_.bias) c = c + testing::get(args_.bias, n);
    return c;
  }

 private:
  static float decode(const TensorView& scale, ScaleKind kind, std::int64_t row) {
    if (kind == ScaleKind::kNone) return 1.0f;
    const float value = testing::get(scale, scale.numel() == 1 ? 0 : row);
    return kind == ScaleKind::kDecode ? value : 1.0f / value;
  }
  double scale(const TensorView& scales, ScaleLayout layout, std::int64_t row,
               std::int64_t b) const {
    const std::uint32_t byte =
        testing::get_bits(scales, formats::scale_offset(layout, row, b, shape_.k / block_));
    if (shape_.format == Format::kNvfp4) return oracle::e4m3().decode(byte);
    return byte == 255 ? kNan : std::ldexp(1.0, static_cast<int>(byte) - 127);
  }

  float add_block(float acc, std::int64_t m, std::int64_t n, std::int64_t b) const {
    const double scale_b = scale(args_.b.scales, args_.b.layout, n, b);
    if (!args_.a_packed.codes) {
      float chains[2] = {0.0f, 0.0f};
      for (std::int64_t i = 0; i < block_; ++i) {
        const float x = testing::get(args_.a, m * args_.a.strides[0] + b * block_ + i);
        const auto w = static_cast<float>(code_value(args_.b.codes, n, b * block_ + i));
        chains[i % 2] = i < 2 ? x * w : std::fmaf(x, w, chains[i % 2]);
      }
      return std::fmaf(chains[0] + chains[1], static_cast<float>(scale_b), acc);
    }
    double dot = 0;  // exact
    for (std::int64_t i = b * block_; i < (b + 1) * block_; ++i) {
      dot += code_value(args_.a_packed.codes, m, i) * code_value(args_.b.codes, n, i);
    }
    const double scale_a = scale(args_.a_packed.scales, args_.a_packed.layout, m, b);
    const double term = dot * (scale_a * scale_b);  // exact: a double holds all of it
    if (shape_.format == Format::kNvfp4) {
      return std::fmaf(static_cast<float>(dot), static_cast<float>(scale_a * scale_b), acc);
    }
    return acc + static_cast<float>(term);
  }

  const GemmArgs& args_;
  const testing::GemmShape& shape_;
  std::int64_t block_;
};

float rounded(DType dtype, float value) {
  if (dtype == DType::kF32 || std::isnan(value)) return value;
  const auto& table = dtype == DType::kF16 ? oracle::fp16() : oracle::bf16();
  return static_cast<float>(table.decode(table.encode(value)));
}

void expect_equals_oracle(bool quantized, std::uint64_t first_seed, int count) {
  if (const char* most = std::getenv("HALFBYTE_TEST_CASES")) {
    count = std::min(count, std::atoi(most));
  }
  for (int i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
    const std::uint64_t seed = first_seed + static_cast<std::uint64_t>(i);
    Random random(seed);
    const GemmCase test = testing::random_gemm(random, {.quantized = quantized});
    if (test.args.b.form == WeightForm::kPrepared) continue;  // there the oracle has no codes
    TensorSet set = test.set.clone();
    const GemmArgs args = testing::gemm_args(test, set);
    const base::Status status = gemm(args, on_reference());
    ASSERT_TRUE(status.ok()) << status.message();
    const Oracle expected(args, test.shape);
    for (std::int64_t m = 0; m < test.shape.m; ++m) {
      for (std::int64_t n = 0; n < test.shape.n; ++n) {
        const float actual = testing::get(args.c, m * args.c.strides[0] + n);
        const float want = rounded(args.c.dtype, expected(m, n));
        if (std::isnan(want) && std::isnan(actual)) continue;
        ASSERT_EQ(actual, want) << "seed " << seed << ", [" << m << ", " << n << "]\n" << test.text;
      }
    }
  }
}

TEST(Gemm, ReferenceIsTheContract) { expect_equals_oracle(true, 1'000'000, 1000); }
TEST(Gemm, ReferenceIsTheContractOf16Bits) { expect_equals_oracle(false, 1'100'000, 600); }

// A product whose every tensor is dense and of one value a tensor.
struct Uniform {
  Format format = Format::kNvfp4;
  std::int64_t m = 1, n = 1, k = 32;
  std::uint8_t a_codes = 0x22, a_scale = 0x38, b_codes = 0x22, b_scale = 0x38;  // 1 * 1
  float a_decode = 1.0f, b_decode = 1.0f;
  TensorSet set{};
  GemmArgs args{};

  void add(const char* name, std::int64_t rows, std::int64_t columns, std::uint8_t value) {
    set.add(name, TestTensor(DType::kU8, {rows, columns}));
    for (std::int64_t i = 0; i < rows * columns; ++i) testing::set_bits(set.view(name), i, value);
  }
  void make() {
    const std::int64_t blocks = k / formats::block_elements(format);
    add("a_codes", m, k / 2, a_codes);
    add("a_scales", m, blocks, a_scale);
    add("b_codes", n, k / 2, b_codes);
    add("b_scales", n, blocks, b_scale);
    set.add("c", TestTensor(DType::kF32, {m, n}));
    args.a_packed.format = format;
    args.a_packed.rows = m;
    args.a_packed.columns = k;
    args.a_packed.codes = set.view("a_codes");
    args.a_packed.scales = set.view("a_scales");
    args.b.format = format;
    args.b.rows = n;
    args.b.columns = k;
    args.b.codes = set.view("b_codes");
    args.b.scales = set.view("b_scales");
    args.c = set.view("c");
    if (format == Format::kMxfp4) return;
    for (const char* name : {"a_scale", "b_scale"}) set.add(name, TestTensor(DType::kF32, {1}));
    testing::fill(set.view("a_scale"), {a_decode});
    testing::fill(set.view("b_scale"), {b_decode});
    args.a_packed.scale = set.view("a_scale");
    args.b.scale = set.view("b_scale");
    args.a_packed.scale_kind = args.b.scale_kind = ScaleKind::kDecode;
  }
  // The one value that every element of C has, on every implementation.
  float result() {
    make();
    std::vector<testing::Runner> runners = testing::cpu_runners();
    runners.push_back(testing::reference_runner());
    float first = 0.0f;
    for (const testing::Runner& runner : runners) {
      const base::Status status = runner.run(
          set, [this](const TensorSet&, const auto& execution) { return gemm(args, execution); });
      EXPECT_TRUE(status.ok()) << status.message();
      const std::vector<float> c = testing::values(args.c);
      first = c.front();
      for (const float value : c) {
        EXPECT_TRUE(value == first || (std::isnan(value) && std::isnan(first))) << runner.name;
      }
    }
    return first;
  }
};

TEST(Gemm, ExactValues) {
  EXPECT_EQ(Uniform{}.result(), 32.0f);
  EXPECT_EQ((Uniform{.k = 16}).result(), 16.0f);
  EXPECT_EQ((Uniform{.a_codes = 0x77, .a_scale = 0x7E, .b_codes = 0xFF, .b_scale = 0x7E}).result(),
            -32 * 36.0f * 448 * 448);
  EXPECT_EQ((Uniform{.a_decode = 0.5f, .b_decode = 8.0f}).result(), 128.0f);
  EXPECT_EQ((Uniform{.a_scale = 0xB8}).result(), -32.0f) << "a scale byte has a sign";
  EXPECT_EQ((Uniform{.m = 5, .n = 37, .k = 4096}).result(), 4096.0f);
  EXPECT_EQ((Uniform{.format = Format::kMxfp4, .k = 64, .a_scale = 127, .b_scale = 128}).result(),
            128.0f);
  // Subnormal scales of E4M3.
  EXPECT_EQ((Uniform{.a_scale = 0x01, .b_scale = 0x01}).result(), 0x1p-13f);
}

TEST(Gemm, SpecialValues) {
  EXPECT_TRUE(std::isnan((Uniform{.a_scale = 0x7F}).result()));
  EXPECT_TRUE(std::isnan((Uniform{.b_scale = 0xFF}).result()));
  EXPECT_TRUE(std::isnan((Uniform{.a_codes = 0, .b_scale = 0x7F}).result())) << "0 * NaN";
  EXPECT_TRUE(std::isnan((Uniform{.a_decode = kNan}).result()));
  EXPECT_TRUE(std::isnan((Uniform{.a_codes = 0, .b_decode = kInf}).result())) << "0 * Inf";
  EXPECT_EQ((Uniform{.b_decode = kInf}).result(), kInf);
  EXPECT_EQ((Uniform{.a_codes = 0x88}).result(), 0.0f);
  EXPECT_FALSE(std::signbit((Uniform{.a_codes = 0x88}).result())) << "a sum is never -0";
  EXPECT_EQ((Uniform{.a_scale = 0}).result(), 0.0f);
  const Uniform mx{.format = Format::kMxfp4};
  const auto of_scales = [&](int a, int b) {
    Uniform product = mx;
    product.a_scale = static_cast<std::uint8_t>(a);
    product.b_scale = static_cast<std::uint8_t>(b);
    return product.result();
  };
  EXPECT_TRUE(std::isnan(of_scales(255, 127)));
  EXPECT_TRUE(std::isnan(of_scales(0, 255)));
  EXPECT_EQ(of_scales(254, 0), 32.0f) << "2^127 * 2^-127: no factor may overflow first";
  EXPECT_EQ(of_scales(0, 254), 32.0f);
  EXPECT_EQ(of_scales(254, 254), kInf);
  EXPECT_EQ(of_scales(0, 0), 0.0f);
  EXPECT_EQ(of_scales(100, 0), 32 * 0x1p-149f * 0x1p-5f) << "2^-154 * 32";
  EXPECT_EQ(of_scales(105, 0), 32 * 0x1p-149f);
  EXPECT_EQ(of_scales(99, 0), 0.0f) << "half of the smallest float goes to the even zero";
}

// dot quarters times 2^e, against double and its one conversion.
TEST(Gemm, ScaleByPower) {
  for (int e = -254; e <= 254; ++e) {
    for (const float x : {0.0f, 0.25f, -0.5f, 1.0f, 1151.75f, -1152.0f, 3.25f, 2304.0f, 77.75f}) {
      const auto expected = static_cast<float>(std::ldexp(static_cast<double>(x), e));
      EXPECT_EQ(numerics::scale_by_power(x, e), expected) << x << " * 2^" << e;
    }
  }
}

TEST(Gemm, BlockDotOfAllCodePairs) {
  for (int a = 0; a < 16; ++a) {
    for (int b = 0; b < 16; ++b) {
      const auto code_a = static_cast<std::uint8_t>(a), code_b = static_cast<std::uint8_t>(b);
      EXPECT_EQ(block_dot(&code_a, &code_b, 1),
                4 * oracle::e2m1().decode(code_a) * oracle::e2m1().decode(code_b));
    }
  }
}

// The order is the contract's: slices of kSliceColumns columns, then a balanced tree.
TEST(Gemm, OrderOfTheSum) {
  // Block 0 sums to 448 * 448 * 16, whose last place is 2^-2; each other block to 16 * 2^-7: half
  // of that, which is lost where it meets block 0 by itself (in its slice; ties to even), but not
  // where a slice of them does.
  Uniform product{.k = 2 * kSliceColumns};
  product.make();
  for (std::int64_t b = 0; b < 2 * kSliceColumns / 16; ++b) {
    testing::set_bits(product.set.view("a_scales"), b, b == 0 ? 0x7E : 0x20);  // 448, 2^-3
    testing::set_bits(product.set.view("b_scales"), b, b == 0 ? 0x7E : 0x18);  // 448, 2^-4
  }
  ASSERT_TRUE(gemm(product.args, on_reference()).ok());
  const float large = 448.0f * 448.0f * 16.0f;
  EXPECT_EQ(testing::get(product.args.c, 0), large + 0x1p-3f * kSliceColumns / 16);
}

// A row of C is the same alone and in any batch, and so is a column among any others.
TEST(Gemm, RowsDoNotDependOnTheBatch) {
  for (const bool quantized : {true, false}) {
    for (std::uint64_t seed = 1'200'000; seed < 1'200'060; ++seed) {
      Random random(seed);
      GemmCase test = testing::random_gemm(random, {.quantized = quantized});
      if (test.shape.m == 0 || test.shape.n == 0) continue;
      TensorSet set = test.set.clone();
      const GemmArgs all = testing::gemm_args(test, set);
      ASSERT_TRUE(gemm(all).ok());
      const std::int64_t row = random.in(0, test.shape.m - 1);
      TensorSet alone_set = test.set.clone();
      GemmArgs alone = testing::gemm_args(test, alone_set);
      const auto keep_row = [&](TensorView& view, std::int64_t element) {
        view.shape[0] = 1;
        view.data = view.as<std::byte>() + row * view.strides[0] * element;
      };
      std::vector<std::uint8_t> scales;
      if (quantized) {
        keep_row(alone.a_packed.codes, 1);
        alone.a_packed.rows = 1;
        const std::int64_t blocks = test.shape.k / formats::block_elements(test.shape.format);
        for (std::int64_t b = 0; b < blocks; ++b) {
          scales.push_back(alone.a_packed.scales.as<std::uint8_t>()[formats::scale_offset(
              alone.a_packed.layout, row, b, blocks)]);
        }
        alone.a_packed.layout = ScaleLayout::kLinear;
        alone.a_packed.scales = TensorView(scales.data(), DType::kU8, {blocks});
        TensorView& scale = alone.a_packed.scale;
        if (scale && scale.numel() > 1) {
          scale.data = scale.as<float>() + row;
          scale.shape[0] = 1;
        }
      } else {
        keep_row(alone.a, 2);
      }
      keep_row(alone.c, base::dtype_bytes(alone.c.dtype));
      ASSERT_TRUE(gemm(alone).ok());
      for (std::int64_t n = 0; n < test.shape.n; ++n) {
        const std::uint32_t in_batch = testing::get_bits(all.c, row * all.c.strides[0] + n);
        const float value = testing::get(alone.c, n);
        if (std::isnan(value)) continue;
        ASSERT_EQ(testing::get_bits(alone.c, n), in_batch) << "seed " << seed << "\n" << test.text;
      }
    }
  }
}

TEST(Gemm, NothingToDo) {
  for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{0, 4}, {4, 0}, {0, 0}}) {
    Uniform product{.m = m, .n = n};
    product.make();
    if (n == 0) product.args.c.shape[1] = 0;
    const base::Status status = gemm(product.args);
    EXPECT_TRUE(status.ok()) << status.message();
  }
}

}  // namespace
}  // namespace halfbyte::ops
