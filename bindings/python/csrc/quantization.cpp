#include "quantization.h"

namespace halfbyte::bindings {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

std::int32_t read_format(std::string_view op, const Text& name) {
  return enum_value(op, "format", name, {"nvfp4", "mxfp4", "fp8"});
}

std::int32_t read_layout(std::string_view op, const char* argument, const Text& name) {
  return enum_value(op, argument, name, {"linear", "128x4", "8x4"});
}

std::int32_t read_rounding(std::string_view op, const Text& name) {
  return enum_value(op, "rounding", name, {"float32", "huggingface"});
}

void Quantization::take_scales(Arguments& arguments) {
  global_scale_ = arguments.optional_tensor();
  decode_scale_ = arguments.optional_tensor();
}

void Quantization::take_options(Arguments& arguments) {
  format_ = arguments.text();
  layout_ = arguments.text();
  second_layout_ = arguments.optional_text();
  scale_ = arguments.text();
  scale_rule_ = arguments.text();
  mx_rule_ = arguments.text();
}

void Quantization::take_groups(Arguments& arguments, bool with_scale_rows) {
  row_offsets_ = arguments.optional_tensor();
  scale_row_offsets_ = arguments.optional_tensor();
  if (with_scale_rows) scale_rows_ = arguments.optional_integer();
}

void Quantization::take_outputs(Arguments& arguments) {
  outputs_[kCodes] = arguments.tensor();
  for (std::size_t i = kScales; i < outputs_.size(); ++i) outputs_[i] = arguments.optional_tensor();
}

void Quantization::read_options() {
  spec_.struct_size = sizeof(spec_);
  spec_.format = read_format(op_, format_);
  spec_.layout = read_layout(op_, "layout", layout_);
  if (second_layout_) spec_.second_layout = read_layout(op_, "second_layout", second_layout_);
  spec_.scale = enum_value(op_, "scale", scale_, {"tensor", "row", "computed"});
  spec_.scale_rule = enum_value(op_, "scale_rule", scale_rule_, {"kernel", "te"});
  spec_.mx_rule = enum_value(op_, "mx_rule", mx_rule_, {"round_up", "ocp_floor"});
  if (row_offsets_.given() != scale_row_offsets_.given()) {
    refuse(op_, row_offsets_.given() ? "scale_row_offsets" : "row_offsets",
           "a tensor, since the other offsets are given", "none");
  }
  row_offsets_.read(op_, "row_offsets");
  scale_row_offsets_.read(op_, "scale_row_offsets");
}

void Quantization::make_outputs(const Tensor& x, const char* argument, std::int64_t factor) {
  const halfbyte_tensor& view = *x.view();
  const std::int64_t block = this->block();
  if (view.ndim < 1) refuse(op_, argument, "at least one dimension", "a scalar");
  const std::int64_t width = view.shape[view.ndim - 1];
  if (width < 1 || width % (factor * block) != 0) {
    std::string expected = factor == 1
                               ? "a last dimension that is a positive multiple of " +
                                     std::to_string(block) + " (" + *format_ + " blocks)"
                               : "a last dimension 2I, I a multiple of " + std::to_string(block);
    refuse(op_, argument, expected, std::to_string(width));
  }
  if (scale_rows_.has_value() != row_offsets_.given()) {
    refuse(op_, "scale_rows",
           row_offsets_.given() ? "the rows of the scales" : "none without groups",
           row_offsets_.given() ? "none" : std::to_string(*scale_rows_));
  }
  make_outputs(x, width / factor, scale_rows_);
}

void Quantization::make_outputs(const Tensor& x, std::int64_t columns,
                                std::optional<std::int64_t> scale_rows) {
  const halfbyte_tensor& view = *x.view();
  const std::int64_t block = this->block();
  scale_rows_ = scale_rows;
  if (scale_rows_.value_or(0) < 0) {
    refuse(op_, "scale_rows", "a number >= 0", std::to_string(*scale_rows_));
  }
  const std::int32_t bytes = dtype_number(ScalarType::kUInt8);
  const std::int32_t floats = dtype_number(ScalarType::kFloat32);
  const bool has_blocks = spec_.format != kFp8;
  made_ = true;
  outputs_[kCodes] =
      make_tensor(view, Shape::with_last(view, has_blocks ? columns / 2 : columns), bytes);
  make_scales(kScales, x, has_blocks ? spec_.layout : -1, columns / block);
  make_scales(kScalesSecond, x, has_blocks && second_layout_ ? spec_.second_layout : -1,
              columns / block);
  const auto make_floats = [&](Output output, bool wanted, std::int64_t count) {
    if (!wanted) {
      outputs_[output] = absent(view, output, ScalarType::kFloat32);
      return;
    }
    Shape shape;
    shape.add(count);
    outputs_[output] = make_tensor(view, shape, floats);
  };
  const bool computed = spec_.scale == HALFBYTE_SCALE_COMPUTED;
  make_floats(kRowScale, spec_.scale == HALFBYTE_SCALE_ROW, x.rows());
  make_floats(kGlobalScale, computed, 1);
  make_floats(kDecodeScale, computed, 1);
}

void Quantization::make_scales(Output output, const Tensor& x, std::int32_t layout,
                               std::int64_t columns) {
  constexpr std::array<std::int64_t, 3> kTileRows = {1, 128, 8};
  const halfbyte_tensor& view = *x.view();
  if (layout < 0) {
    outputs_[output] = absent(view, output, ScalarType::kUInt8);
    return;
  }
  Shape shape;
  if (layout == HALFBYTE_LAYOUT_LINEAR) {
    if (scale_rows_) {
      shape.add(*scale_rows_);
      shape.add(columns);
    } else {
      shape = Shape::with_last(view, columns);
    }
  } else {
    shape.add(
        round_up(scale_rows_.value_or(x.rows()), kTileRows[static_cast<std::size_t>(layout)]));
    shape.add(round_up(columns, 4));
  }
  outputs_[output] = make_tensor(view, shape, dtype_number(ScalarType::kUInt8));
}

void Quantization::read_tensors() {
  global_scale_.read(op_, "global_scale");
  decode_scale_.read(op_, "decode_scale");
  // An output of this call's own that the options do not ask for is there and empty; a given one is
  // the library's to judge.
  const auto view = [&](Output output, const char* name, bool wanted) {
    return wanted || !made_ ? outputs_[output].read(op_, name) : nullptr;
  };
  const bool computed = spec_.scale == HALFBYTE_SCALE_COMPUTED;
  c_out_.struct_size = sizeof(c_out_);
  c_out_.codes = view(kCodes, "codes", true);
  c_out_.scales = view(kScales, "scales", spec_.format != kFp8);
  c_out_.scales_second = view(kScalesSecond, "scales_second", second_layout_.has_value());
  c_out_.row_scale = view(kRowScale, "row_scale", spec_.scale == HALFBYTE_SCALE_ROW);
  c_out_.global_scale = view(kGlobalScale, "global_scale", computed);
  c_out_.decode_scale = view(kDecodeScale, "decode_scale", computed);
  if (row_offsets_.given()) {
    c_groups_.struct_size = sizeof(c_groups_);
    c_groups_.row_offsets = row_offsets_.view();
    c_groups_.scale_row_offsets = scale_row_offsets_.view();
    const halfbyte_tensor& offsets = *row_offsets_.view();
    if (offsets.ndim != 1 || offsets.shape[0] < 1) {
      refuse(op_, "row_offsets", "int32 [groups + 1]",
             offsets.ndim == 1 ? "no element" : std::to_string(offsets.ndim) + " dimensions");
    }
    c_groups_.count = offsets.shape[0] - 1;
  }
}

const halfbyte_row_groups* Quantization::groups() const {
  return row_offsets_.given() ? &c_groups_ : nullptr;
}

void Quantization::give_outputs(Value* stack) {
  for (std::size_t i = 0; i < outputs_.size(); ++i) give(stack, i, outputs_[i]);
}

}  // namespace halfbyte::bindings
