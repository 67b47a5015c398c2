#include "halfbyte/ops/common/testing_groups.h"

#include <algorithm>

#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::ops::testing {
namespace {

using base::DType;

std::int64_t layout_rows(ScaleLayout layout) { return formats::padded_scale_rows(layout, 1); }

void add_offsets(const std::string& name, const std::vector<std::int64_t>& offsets,
                 TensorSet& set) {
  set.add(name, TestTensor(DType::kI32, {static_cast<std::int64_t>(offsets.size())}));
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    set_bits(set.view(name), static_cast<std::int64_t>(i), static_cast<std::uint32_t>(offsets[i]));
  }
}

}  // namespace

void add_row_groups(Random& random, const QuantizeSpec& spec, const Shape& shape, TensorSet& set) {
  if (!formats::has_block_scales(spec.format) || spec.scale == ScaleMode::kComputed) return;
  const std::int64_t rows = shape.rows(), groups = random.in(1, 9);
  std::vector<std::int64_t> row_offsets;
  for (std::int64_t e = 0; e <= groups; ++e) row_offsets.push_back(random.in(0, rows));
  std::sort(row_offsets.begin(), row_offsets.end());
  if (random.one_in(2)) row_offsets.front() = 0;
  if (random.one_in(2)) row_offsets.back() = rows;
  add_offsets("row_offsets", row_offsets, set);
  add_scale_row_offsets(random, spec, shape, "scale_row_offsets", set);
}

void add_scale_row_offsets(Random& random, const QuantizeSpec& spec, const Shape& shape,
                           const std::string& name, TensorSet& set) {
  const base::TensorView row_offsets = set.view("row_offsets");
  const std::int64_t groups = row_offsets.numel() - 1;
  const ScaleLayout second = spec.second_layout.value_or(spec.layout);
  const std::int64_t unit = std::max(layout_rows(spec.layout), layout_rows(second));
  std::vector<std::int64_t> scale_row_offsets = {unit * random.in(0, 1)};
  for (std::int64_t e = 0; e < groups; ++e) {
    const std::int64_t count =
        row_offsets.as<const std::int32_t>()[e + 1] - row_offsets.as<const std::int32_t>()[e];
    scale_row_offsets.push_back(
        formats::round_up_to(scale_row_offsets.back() + count + random.in(0, 3), unit));
  }
  add_offsets(name, scale_row_offsets, set);

  const std::int64_t scale_rows = scale_row_offsets.back() + unit * random.in(0, 1);
  const std::int64_t columns = shape.columns / formats::block_elements(spec.format);
  const auto renew = [&](const char* array, ScaleLayout layout) {
    set.tensors().erase(array);
    set.add(array, TestTensor(DType::kU8, {formats::scale_bytes(layout, scale_rows, columns)}, {},
                              random.in(0, 3)));
  };
  renew("scales", spec.layout);
  if (spec.second_layout) renew("scales_second", *spec.second_layout);
  if (set.view("global_scale") && set.view("global_scale").numel() != 1) {
    set.tensors().erase("global_scale");
    set.add("global_scale", TestTensor(DType::kF32, {groups}, {random.in(1, 3)}));
    const base::TensorView view = set.view("global_scale");
    for (std::int64_t e = 0; e < groups; ++e) {
      testing::set(view, e * view.strides[0], random_scale(random));
    }
  }
}

RowGroups row_groups(const TensorSet& set) {
  const base::TensorView offsets = set.view("row_offsets");
  return {.row_offsets = offsets,
          .scale_row_offsets = set.view("scale_row_offsets"),
          .count = offsets ? offsets.numel() - 1 : 0};
}

}  // namespace halfbyte::ops::testing
