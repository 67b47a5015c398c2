#include "halfbyte/ops/common/quantize_target.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::ops {

using base::DType;
using base::invalid_argument;
using base::Status;
using formats::RowTarget;

namespace {

constexpr bool in_range(int value, int count) { return value >= 0 && value < count; }

// Options that the format does not have must stay at their defaults: never silently ignored.
Status check_spec(const QuantizeSpec& spec, std::int64_t columns) {
  HALFBYTE_RETURN_IF_ERROR(check_format(spec.format));
  HALFBYTE_RETURN_IF_ERROR(check_layout("layout", spec.layout));
  if (spec.second_layout) {
    HALFBYTE_RETURN_IF_ERROR(check_layout("second_layout", *spec.second_layout));
  }
  if (!in_range(static_cast<int>(spec.scale), 3)) {
    return invalid_argument("scale", "tensor, row or computed",
                            std::to_string(static_cast<int>(spec.scale)));
  }
  if (!in_range(static_cast<int>(spec.scale_rule), 2)) {
    return invalid_argument("scale_rule", "kernel or te",
                            std::to_string(static_cast<int>(spec.scale_rule)));
  }
  if (!in_range(static_cast<int>(spec.mx_rule), 2)) {
    return invalid_argument("mx_rule", "round_up or ocp_floor",
                            std::to_string(static_cast<int>(spec.mx_rule)));
  }
  const std::string format = formats::format_name(spec.format);
  if (spec.format != Format::kNvfp4 && spec.scale_rule != ScaleRule::kKernel) {
    return invalid_argument("scale_rule", "kernel (" + format + " has no other)", "te");
  }
  if (spec.format != Format::kMxfp4 && spec.mx_rule != MxRule::kRoundUp) {
    return invalid_argument("mx_rule", "round_up (" + format + " has no MX exponent)", "ocp_floor");
  }
  if (spec.format == Format::kMxfp4 && spec.scale != ScaleMode::kTensor) {
    return invalid_argument("scale", "tensor (mxfp4 has no fp32 scale)",
                            formats::scale_mode_name(spec.scale));
  }
  if (spec.format == Format::kFp8) {
    if (spec.scale == ScaleMode::kComputed) {
      return invalid_argument("scale", "tensor or row for fp8", "computed");
    }
    if (spec.layout != ScaleLayout::kLinear || spec.second_layout) {
      return invalid_argument(spec.second_layout ? "second_layout" : "layout",
                              "no scale layout (fp8 has no block scales)",
                              formats::layout_name(spec.second_layout.value_or(spec.layout)));
    }
  }
  const int block = formats::block_elements(spec.format);
  if (columns % block != 0) {
    return invalid_argument("x",
                            "a last dimension that is a multiple of " + std::to_string(block) +
                                " (" + format + " blocks)",
                            std::to_string(columns));
  }
  return {};
}

Status check_given_value(const char* argument, float value) {
  if (std::isfinite(value) && value > 0.0f) return {};
  return invalid_argument(argument, "a finite scale > 0", std::to_string(value));
}

// One value, or one a row (a group, where there are groups) where `per_row` allows it.
Status resolve_given(const char* argument, const TensorView& view, bool per_row,
                     base::Device device, RowTarget& target, OverlapCheck& overlap) {
  HALFBYTE_RETURN_IF_ERROR(check_dtype(argument, view, DType::kF32));
  const std::int64_t count = view.numel();
  const bool one = count == 1;
  const std::int64_t most = target.groups > 0 ? target.groups : target.rows;
  const bool rows = per_row && view.ndim == 1 && count == most;
  if (!one && !rows) {
    return invalid_argument(argument,
                            per_row ? "shape [1] or [" + std::to_string(most) + "] (one a " +
                                          (target.groups > 0 ? "group)" : "row)")
                                    : "shape [1]",
                            base::shape_string(view));
  }
  if (count == 0) return {};  // one a row, of no rows
  if (view.data == nullptr) return invalid_argument(argument, "a data pointer", "null");
  if (reinterpret_cast<std::uintptr_t>(view.data) % sizeof(float) != 0) {
    return invalid_argument(argument, "a pointer aligned to 4 bytes", "one that is not");
  }
  const std::int64_t stride = one ? 0 : view.strides[0];
  if (view.device.type == base::DeviceType::kCpu) {
    for (std::int64_t row = 0; row < count; ++row) {
      HALFBYTE_RETURN_IF_ERROR(check_given_value(argument, view.as<const float>()[row * stride]));
    }
  }
  const bool host_value_for_device =
      one && view.device.type == base::DeviceType::kCpu && device.type == base::DeviceType::kCuda;
  if (host_value_for_device) {
    target.given_value = *view.as<const float>();
    return {};
  }
  HALFBYTE_RETURN_IF_ERROR(check_device(argument, view, device));
  target.given = view.as<const float>();
  target.given_stride = stride;
  Rows elements{view.data, DType::kF32, {}, 1};
  elements.map = {.rows = count, .inner_rows = count, .inner_stride = stride};
  overlap.reads(argument, elements);
  return {};
}

Status resolve_given_scale(const QuantizeSpec& spec, const GivenScale& given, base::Device device,
                           RowTarget& target, OverlapCheck& overlap) {
  const bool takes_encode = spec.format == Format::kNvfp4 && spec.scale == ScaleMode::kTensor;
  const bool takes_decode = spec.format == Format::kFp8 && spec.scale == ScaleMode::kTensor;
  if (!takes_encode) {
    HALFBYTE_RETURN_IF_ERROR(check_absent("global_scale", given.global_scale,
                                          spec.format == Format::kMxfp4
                                              ? "mxfp4 has no global scale"
                                          : spec.format == Format::kFp8 ? "fp8 takes a decode_scale"
                                                                        : "the scale is computed"));
  }
  if (!takes_decode) {
    HALFBYTE_RETURN_IF_ERROR(check_absent("decode_scale", given.decode_scale,
                                          spec.format == Format::kFp8
                                              ? "the scale is computed a row"
                                              : "only fp8 with scale = tensor takes one"));
  }
  if (takes_encode && given.global_scale) {
    return resolve_given("global_scale", given.global_scale, true, device, target, overlap);
  }
  if (takes_decode) {
    if (!given.decode_scale) {
      return invalid_argument("decode_scale", "a tensor (fp8 with scale = tensor)", "none");
    }
    return resolve_given("decode_scale", given.decode_scale, false, device, target, overlap);
  }
  return {};
}

Status resolve_scale_array(const char* argument, const TensorView& view, ScaleLayout layout,
                           base::Device device, RowTarget& target, formats::ScaleArray& array,
                           OverlapCheck& overlap) {
  const std::int64_t bytes =
      formats::scale_bytes(layout, target.scale_rows, target.scale_columns());
  HALFBYTE_RETURN_IF_ERROR(check_array(argument, view, DType::kU8, bytes, device));
  array = {view.as<std::uint8_t>(), layout};
  overlap.writes(argument, view);
  return {};
}

Status resolve_outputs(const QuantizeSpec& spec, const QuantizeOutputs& out, base::Device device,
                       RowTarget& target, OverlapCheck& overlap) {
  const base::Result<Rows> codes =
      resolve_codes(out.codes, spec.format, target.rows, target.columns, device);
  if (!codes.ok()) return codes.status();
  target.codes = out.codes.as<std::uint8_t>();
  target.code_rows = codes.value().map;
  overlap.writes("codes", codes.value());

  if (formats::has_block_scales(spec.format)) {
    HALFBYTE_RETURN_IF_ERROR(resolve_scale_array("scales", out.scales, spec.layout, device, target,
                                                 target.scales[0], overlap));
  } else {
    HALFBYTE_RETURN_IF_ERROR(check_absent("scales", out.scales, "fp8 has no block scales"));
  }
  if (spec.second_layout) {
    HALFBYTE_RETURN_IF_ERROR(resolve_scale_array("scales_second", out.scales_second,
                                                 *spec.second_layout, device, target,
                                                 target.scales[1], overlap));
  } else {
    HALFBYTE_RETURN_IF_ERROR(
        check_absent("scales_second", out.scales_second, "no second_layout is asked for"));
  }

  struct FloatOutput {
    const char* argument;
    const TensorView& view;
    ScaleMode mode;
    std::int64_t count;
    float*& pointer;
  };
  const FloatOutput outputs[] = {
      {"row_scale", out.row_scale, ScaleMode::kRow, target.rows, target.row_scale},
      {"out.global_scale", out.global_scale, ScaleMode::kComputed, 1, target.computed_encode},
      {"out.decode_scale", out.decode_scale, ScaleMode::kComputed, 1, target.computed_decode}};
  for (const FloatOutput& output : outputs) {
    if (spec.scale != output.mode) {
      HALFBYTE_RETURN_IF_ERROR(check_absent(output.argument, output.view,
                                            output.mode == ScaleMode::kRow
                                                ? "only scale = row gives it"
                                                : "only scale = computed gives it"));
      continue;
    }
    HALFBYTE_RETURN_IF_ERROR(
        check_array(output.argument, output.view, DType::kF32, output.count, device));
    output.pointer = output.view.as<float>();
    overlap.writes(output.argument, output.view);
  }
  return {};
}

constexpr int layout_rows(ScaleLayout layout) {
  return layout == ScaleLayout::k128x4 ? 128 : layout == ScaleLayout::k8x4 ? 8 : 1;
}

// The groups of rows, and how many rows the scale arrays have.
Status resolve_groups(const QuantizeSpec& spec, const RowGroups& groups, const TensorView& scales,
                      base::Device device, RowTarget& target, OverlapCheck& overlap,
                      const char* scale_row_argument) {
  target.scale_rows = target.rows;
  if (groups.count < 0) {
    return invalid_argument("groups.count", "0 or more", std::to_string(groups.count));
  }
  if (groups.count == 0) {
    HALFBYTE_RETURN_IF_ERROR(check_absent("row_offsets", groups.row_offsets, "no groups"));
    return check_absent(scale_row_argument, groups.scale_row_offsets, "no groups");
  }
  if (!formats::has_block_scales(spec.format) || spec.scale == ScaleMode::kComputed) {
    return invalid_argument("groups", "none",
                            std::to_string(groups.count) + " groups with " +
                                (spec.scale == ScaleMode::kComputed ? "scale = computed" : "fp8"));
  }
  const std::int64_t count = groups.count + 1;
  HALFBYTE_RETURN_IF_ERROR(
      check_array("row_offsets", groups.row_offsets, DType::kI32, count, device));
  HALFBYTE_RETURN_IF_ERROR(
      check_array(scale_row_argument, groups.scale_row_offsets, DType::kI32, count, device));
  target.groups = groups.count;
  target.row_offsets = groups.row_offsets.as<const std::int32_t>();
  target.scale_row_offsets = groups.scale_row_offsets.as<const std::int32_t>();
  overlap.reads("row_offsets", groups.row_offsets);
  overlap.reads(scale_row_argument, groups.scale_row_offsets);

  const std::int64_t columns = formats::padded_scale_columns(spec.layout, target.scale_columns());
  const std::int64_t unit = columns * layout_rows(spec.layout);
  if (!scales || scales.numel() % unit != 0) {
    return invalid_argument("scales",
                            "u8, a multiple of " + std::to_string(unit) + " elements (" +
                                std::to_string(layout_rows(spec.layout)) + " rows of scales)",
                            scales ? base::shape_string(scales) : "none");
  }
  target.scale_rows = scales.numel() / columns;
  if (device.type != base::DeviceType::kCpu) return {};
  const int second = spec.second_layout ? layout_rows(*spec.second_layout) : 1;
  return check_group_offsets({.groups = target.groups,
                              .rows = target.rows,
                              .row_offsets = target.row_offsets,
                              .scale_row_offsets = target.scale_row_offsets,
                              .scale_rows = target.scale_rows,
                              .scale_row_unit = std::max(layout_rows(spec.layout), second),
                              .scale_row_argument = scale_row_argument});
}

}  // namespace

Status check_group_offsets(const GroupOffsets& offsets) {
  const auto at = [](std::int64_t index, std::int64_t value) {
    return std::to_string(value) + " at index " + std::to_string(index);
  };
  for (std::int64_t e = 0; e <= offsets.groups; ++e) {
    const std::int64_t row = offsets.row_offsets[e];
    const std::int64_t rows = e == 0 ? 0 : row - offsets.row_offsets[e - 1];
    if (row < 0 || rows < 0 || row > offsets.rows) {
      return invalid_argument(
          "row_offsets",
          "ascending values from 0 to " + std::to_string(offsets.rows) + " (the rows of x)",
          at(e, row));
    }
    if (offsets.scale_row_offsets == nullptr) continue;
    const std::int64_t scale_row = offsets.scale_row_offsets[e];
    const std::int64_t least = e == 0 ? 0 : offsets.scale_row_offsets[e - 1] + rows;
    if (scale_row < least || scale_row > offsets.scale_rows) {
      return invalid_argument(offsets.scale_row_argument,
                              "values from " + std::to_string(least) + " (room for the group) to " +
                                  std::to_string(offsets.scale_rows) + " (the rows of scales)",
                              at(e, scale_row));
    }
    if (e < offsets.groups && scale_row % offsets.scale_row_unit != 0) {
      return invalid_argument(
          offsets.scale_row_argument,
          "multiples of " + std::to_string(offsets.scale_row_unit) + " (the layout's rows)",
          at(e, scale_row));
    }
  }
  return {};
}

Status check_format(Format format) {
  const int value = static_cast<int>(format);
  if (in_range(value, 3)) return {};
  return invalid_argument("format", "nvfp4, mxfp4 or fp8", std::to_string(value));
}

Status check_layout(const char* argument, ScaleLayout layout) {
  const int value = static_cast<int>(layout);
  if (in_range(value, 3)) return {};
  return invalid_argument(argument, "linear, 128x4 or 8x4", std::to_string(value));
}

base::Result<Rows> resolve_codes(const TensorView& codes, Format format, std::int64_t rows,
                                 std::int64_t columns, base::Device device) {
  base::Result<Rows> resolved = resolve_rows("codes", codes);
  if (!resolved.ok()) return resolved;
  HALFBYTE_RETURN_IF_ERROR(check_dtype("codes", codes, DType::kU8));
  HALFBYTE_RETURN_IF_ERROR(check_device("codes", codes, device));
  const std::int64_t row_bytes = formats::code_bytes(format, columns);
  if (resolved.value().map.rows == rows && resolved.value().columns == row_bytes) return resolved;
  return invalid_argument("codes",
                          std::to_string(rows) + " rows of " + std::to_string(row_bytes) + " bytes",
                          "shape " + base::shape_string(codes));
}

base::Result<RowTarget> resolve_target(const QuantizeSpec& spec, const GivenScale& given,
                                       const QuantizeOutputs& out, std::int64_t rows,
                                       std::int64_t columns, base::Device device,
                                       OverlapCheck& overlap, const RowGroups& groups,
                                       const char* scale_row_offsets) {
  HALFBYTE_RETURN_IF_ERROR(check_spec(spec, columns));
  RowTarget target;
  target.format = spec.format;
  target.mode = spec.scale;
  target.scale_rule = spec.scale_rule;
  target.mx_rule = spec.mx_rule;
  target.rows = rows;
  target.columns = columns;
  HALFBYTE_RETURN_IF_ERROR(
      resolve_groups(spec, groups, out.scales, device, target, overlap, scale_row_offsets));
  HALFBYTE_RETURN_IF_ERROR(resolve_given_scale(spec, given, device, target, overlap));
  HALFBYTE_RETURN_IF_ERROR(resolve_outputs(spec, out, device, target, overlap));
  return target;
}

}  // namespace halfbyte::ops
