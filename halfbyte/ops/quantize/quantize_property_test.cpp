// quantize, dequantize and amax on random cases: every implementation leaves the bytes of the
// reference, and touches nothing else.
#include <gtest/gtest.h>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using formats::ScaleKind;
using testing::Case;
using testing::Random;
using testing::Shape;
using testing::TensorSet;
using testing::TestTensor;

Format random_format(Random& random) {
  return random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4, Format::kFp8});
}

Case quantize_case(Random& random) {
  const Format format = random_format(random);
  const QuantizeSpec spec = testing::random_spec(random, format, true);
  const Shape shape = testing::random_shape(random, formats::block_elements(format));
  Case test;
  test.tensors.add("x", testing::random_tensor(random, testing::random_float_dtype(random),
                                               shape.with_columns(shape.columns)));
  testing::fill_random(random, test.tensors.view("x"));
  testing::add_quantize_tensors(random, spec, shape, test.tensors);
  test.operation = [spec](const TensorSet& set, const base::Execution& execution) {
    return quantize({.x = set.view("x"),
                     .given = testing::given_scale(set),
                     .spec = spec,
                     .out = testing::quantize_outputs(set)},
                    execution);
  };
  test.text = "quantize " + testing::describe(spec);
  return test;
}

// Any code and scale bytes, NaN among them: a packed tensor may come from anywhere.
void fill_bytes(Random& random, const TensorView& view) {
  for (const std::int64_t row : testing::row_offsets(view)) {
    for (std::int64_t k = 0; k < view.shape[view.ndim - 1]; ++k) {
      testing::set_bits(view, row + k, static_cast<std::uint32_t>(random.bits()));
    }
  }
}

Case dequantize_case(Random& random) {
  formats::PackedTensor packed;
  packed.format = random_format(random);
  const int block = formats::block_elements(packed.format);
  const Shape shape = testing::random_shape(random, block);
  packed.rows = shape.rows();
  packed.columns = shape.columns;
  Case test;
  test.tensors.add("x", testing::random_tensor(random, testing::random_float_dtype(random),
                                               shape.with_columns(shape.columns)));
  test.tensors.add("codes", testing::random_tensor(
                                random, DType::kU8,
                                {packed.rows, formats::code_bytes(packed.format, packed.columns)}));
  fill_bytes(random, test.tensors.view("codes"));
  if (packed.format != Format::kFp8) {
    packed.layout = static_cast<ScaleLayout>(random.in(0, 2));
    test.tensors.add(
        "scales",
        TestTensor(DType::kU8,
                   {formats::scale_bytes(packed.layout, packed.rows, packed.columns / block)}, {},
                   random.in(0, 3)));
    fill_bytes(random, test.tensors.view("scales"));
  }
  if (packed.format != Format::kMxfp4) packed.scale_kind = static_cast<ScaleKind>(random.in(0, 2));
  if (packed.scale_kind != ScaleKind::kNone) {
    const bool one = random.one_in(2);
    test.tensors.add("scale", TestTensor(DType::kF32, {one ? 1 : packed.rows}));
    if (one && random.one_in(2)) test.tensors.keep_on_host("scale");
    const TensorView scale = test.tensors.view("scale");
    for (std::int64_t row = 0; row < scale.numel(); ++row) {
      // Nothing is checked here: a file may hold a bad scale, and then the formula speaks.
      testing::set(scale, row, testing::random_scale(random));
      if (random.one_in(10)) {
        testing::set_bits(scale, row, random.pick({0x80000000u, 0x7FC00000u, 0xFF800000u, 0u}));
      }
    }
  }
  test.operation = [packed](const TensorSet& set, const base::Execution& execution) {
    formats::PackedTensor argument = packed;
    argument.codes = set.view("codes");
    argument.scales = set.view("scales");
    argument.scale = set.view("scale");
    return dequantize({.packed = argument, .x = set.view("x")}, execution);
  };
  test.text = std::string("dequantize ") + formats::format_name(packed.format) + ", " +
              formats::layout_name(packed.layout) + ", scale_kind " +
              std::to_string(static_cast<int>(packed.scale_kind));
  return test;
}

Case amax_case(Random& random) {
  const Shape shape = testing::random_shape(random, 1);
  const bool per_row = random.one_in(2);
  Case test;
  test.tensors.add("x", testing::random_tensor(random, testing::random_float_dtype(random),
                                               shape.with_columns(shape.columns)));
  testing::fill_random(random, test.tensors.view("x"));
  test.tensors.add("amax", TestTensor(DType::kF32, {per_row ? shape.rows() : 1}));
  test.operation = [per_row](const TensorSet& set, const base::Execution& execution) {
    return amax({.x = set.view("x"), .amax = set.view("amax"), .per_row = per_row}, execution);
  };
  test.text = per_row ? "amax per row" : "amax";
  return test;
}

TEST(QuantizeProperty, CpuEqualsReference) {
  testing::expect_equals_reference(quantize_case, 1'000'000, 3000, testing::cpu_runners());
}
TEST(DequantizeProperty, CpuEqualsReference) {
  testing::expect_equals_reference(dequantize_case, 2'000'000, 1000, testing::cpu_runners());
}
TEST(AmaxProperty, CpuEqualsReference) {
  testing::expect_equals_reference(amax_case, 3'000'000, 1000, testing::cpu_runners());
}

TEST(QuantizeProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(quantize_case, 1'000'000, 4000, runners);
}
TEST(DequantizeProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(dequantize_case, 2'000'000, 1000, runners);
}
TEST(AmaxProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(amax_case, 3'000'000, 1000, runners);
}
TEST(QuantizeProperty, CudaEveryRowLength) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_every_row_length(quantize_case, 47'000'000, runners);
}
TEST(DequantizeProperty, CudaEveryRowLength) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_every_row_length(dequantize_case, 48'000'000, runners);
}
TEST(QuantizeProperty, CudaManyRows) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_many_rows(quantize_case, 57'000'000, 100, runners);
}
TEST(DequantizeProperty, CudaManyRows) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_many_rows(dequantize_case, 58'000'000, 100, runners);
}

}  // namespace
}  // namespace halfbyte::ops
