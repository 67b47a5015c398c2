// quantize with RowGroups: a group is what quantize makes of its rows alone, at its place.
#include <gtest/gtest.h>

#include <cstring>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/testing_groups.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::Case;
using testing::Random;
using testing::Shape;
using testing::TensorSet;

constexpr std::int64_t kColumns = 80;
constexpr int kBlocks = 5;

struct Grouped {
  std::vector<float> x;
  std::vector<float> global_scale;
  std::vector<std::int32_t> row_offsets, scale_row_offsets;
  std::vector<std::uint8_t> codes, scales;
  ScaleLayout layout = ScaleLayout::k128x4;

  Grouped(std::vector<std::int32_t> rows, std::vector<std::int32_t> scale_rows, std::int64_t all,
          std::int64_t all_scale_rows, ScaleLayout of)
      : x(static_cast<std::size_t>(all * kColumns)),
        row_offsets(std::move(rows)),
        scale_row_offsets(std::move(scale_rows)),
        codes(x.size() / 2, 0xAB),
        scales(static_cast<std::size_t>(formats::scale_bytes(of, all_scale_rows, kBlocks)), 0xAB),
        layout(of) {
    Random random(7);
    for (float& value : x) value = random.normal();
    for (std::size_t e = 0; e + 1 < row_offsets.size(); ++e) {
      global_scale.push_back(100.0f + 50.0f * static_cast<float>(e));
    }
  }
  std::int64_t rows() const { return static_cast<std::int64_t>(x.size()) / kColumns; }

  QuantizeArgs args() {
    const auto offsets = [](std::vector<std::int32_t>& values) {
      return TensorView(values.data(), DType::kI32, {static_cast<std::int64_t>(values.size())});
    };
    QuantizeArgs args;
    args.x = TensorView(x.data(), DType::kF32, {rows(), kColumns});
    args.given.global_scale = TensorView(global_scale.data(), DType::kF32,
                                         {static_cast<std::int64_t>(global_scale.size())});
    args.spec.layout = layout;
    args.out.codes = TensorView(codes.data(), DType::kU8, {rows(), kColumns / 2});
    args.out.scales =
        TensorView(scales.data(), DType::kU8, {static_cast<std::int64_t>(scales.size())});
    args.groups = {offsets(row_offsets), offsets(scale_row_offsets),
                   static_cast<std::int64_t>(row_offsets.size()) - 1};
    return args;
  }
};

TEST(RowGroups, EachGroupIsQuantizedAsIfAlone) {
  for (const base::Backend backend : {base::Backend::kReference, base::Backend::kCpu}) {
    // Five groups, the second and the last empty; rows 0 and 1 and 300 to 309 in none.
    Grouped grouped({2, 130, 130, 140, 300, 300}, {128, 256, 384, 512, 768, 768}, 310, 1024,
                    ScaleLayout::k128x4);
    base::Execution execution;
    execution.backend = backend;
    const base::Status status = quantize(grouped.args(), execution);
    ASSERT_TRUE(status.ok()) << status.message();

    std::vector<std::uint8_t> codes(grouped.codes.size(), 0);
    std::vector<std::uint8_t> scales(grouped.scales.size(), 0);
    for (std::size_t e = 0; e < 5; ++e) {
      const std::int64_t first = grouped.row_offsets[e];
      const std::int64_t count = grouped.row_offsets[e + 1] - first;
      if (count == 0) continue;
      QuantizeArgs alone;
      alone.x = TensorView(grouped.x.data() + first * kColumns, DType::kF32, {count, kColumns});
      alone.given.global_scale = TensorView(&grouped.global_scale[e], DType::kF32, {1});
      alone.spec.layout = ScaleLayout::k128x4;
      alone.out.codes =
          TensorView(codes.data() + first * kColumns / 2, DType::kU8, {count, kColumns / 2});
      alone.out.scales = TensorView(
          scales.data() +
              formats::scale_offset(ScaleLayout::k128x4, grouped.scale_row_offsets[e], 0, kBlocks),
          DType::kU8, {formats::scale_bytes(ScaleLayout::k128x4, count, kBlocks)});
      ASSERT_TRUE(quantize(alone, execution).ok());
    }
    EXPECT_EQ(grouped.codes, codes);
    EXPECT_EQ(grouped.scales, scales);
  }
}

TEST(RowGroups, BadOffsetsAreRefusedAndNothingIsWritten) {
  struct Bad {
    std::vector<std::int32_t> rows, scale_rows;
    const char* argument;
  };
  const Bad bad[] = {{{0, 5, 4}, {0, 8, 16}, "row_offsets"},
                     {{-1, 5, 10}, {0, 8, 16}, "row_offsets"},
                     {{0, 5, 11}, {0, 8, 16}, "row_offsets"},
                     {{0, 5, 10}, {0, 4, 16}, "scale_row_offsets"},
                     {{0, 5, 10}, {0, 12, 24}, "scale_row_offsets"},
                     {{0, 5, 10}, {-8, 8, 16}, "scale_row_offsets"},
                     {{0, 5, 10}, {0, 24, 32}, "scale_row_offsets"}};
  for (const Bad& offsets : bad) {
    Grouped grouped(offsets.rows, offsets.scale_rows, 10, 24, ScaleLayout::k8x4);
    const base::Status status = quantize(grouped.args());
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.message().find(std::string("quantize: ") + offsets.argument + ":"),
              std::string::npos)
        << status.message();
    EXPECT_EQ(grouped.codes, std::vector<std::uint8_t>(grouped.codes.size(), 0xAB));
    EXPECT_EQ(grouped.scales, std::vector<std::uint8_t>(grouped.scales.size(), 0xAB));
  }
}

TEST(RowGroups, ArgumentsThatDoNotFitAreRefused) {
  const auto message = [](const auto& change) {
    Grouped grouped({0, 5, 10}, {0, 8, 16}, 10, 24, ScaleLayout::k8x4);
    QuantizeArgs args = grouped.args();
    change(args);
    return quantize(args).message();
  };
  const auto contains = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos ? "" : text;
  };
  EXPECT_EQ(contains(message([](QuantizeArgs& a) { a.groups.count = 3; }), "row_offsets"), "");
  EXPECT_EQ(contains(message([](QuantizeArgs& a) { a.groups.count = 0; }), "row_offsets"), "");
  EXPECT_EQ(contains(message([](QuantizeArgs& a) { a.groups.count = -1; }), "groups.count"), "");
  EXPECT_EQ(contains(message([](QuantizeArgs& a) { a.groups.row_offsets = {}; }), "row_offsets"),
            "");
  EXPECT_EQ(
      contains(message([](QuantizeArgs& a) { a.groups.scale_row_offsets.dtype = DType::kI64; }),
               "scale_row_offsets"),
      "");
  EXPECT_EQ(contains(message([](QuantizeArgs& a) { a.given.global_scale.shape[0] = 10; }),
                     "(one a group)"),
            "");
  EXPECT_EQ(contains(message([](QuantizeArgs& a) { a.out.scales.shape[0] -= 1; }), "scales"), "");
  EXPECT_EQ(
      contains(message([](QuantizeArgs& a) { a.spec.scale = ScaleMode::kComputed; }), "groups"),
      "");
  EXPECT_EQ(contains(message([](QuantizeArgs& a) {
                       a.spec = {};
                       a.spec.format = Format::kFp8;
                     }),
                     "groups"),
            "");
  EXPECT_EQ(contains(message([](QuantizeArgs& a) {
                       std::memcpy(a.out.scales.data, a.groups.row_offsets.data, 12);
                       a.groups.row_offsets.data = a.out.scales.data;
                     }),
                     "overlap"),
            "");
}

Case grouped_case(Random& random) {
  const Format format = random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4});
  QuantizeSpec spec = testing::random_spec(random, format, true);
  if (spec.scale == ScaleMode::kComputed) spec.scale = ScaleMode::kTensor;
  const Shape shape = testing::random_shape(random, formats::block_elements(format));
  Case test;
  test.tensors.add("x", testing::random_tensor(random, testing::random_float_dtype(random),
                                               shape.with_columns(shape.columns)));
  testing::fill_random(random, test.tensors.view("x"));
  testing::add_quantize_tensors(random, spec, shape, test.tensors);
  testing::add_row_groups(random, spec, shape, test.tensors);
  test.operation = [spec](const TensorSet& set, const base::Execution& execution) {
    return quantize({.x = set.view("x"),
                     .given = testing::given_scale(set),
                     .spec = spec,
                     .out = testing::quantize_outputs(set),
                     .groups = testing::row_groups(set)},
                    execution);
  };
  test.text = "grouped quantize " + testing::describe(spec);
  return test;
}

TEST(RowGroupsProperty, CpuEqualsReference) {
  testing::expect_equals_reference(grouped_case, 4'000'000, 1500, testing::cpu_runners());
}
TEST(RowGroupsProperty, CudaEqualsReference) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  testing::expect_equals_reference(grouped_case, 4'000'000, 1500, runners);
}

}  // namespace
}  // namespace halfbyte::ops
