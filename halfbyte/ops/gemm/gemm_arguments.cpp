#include "halfbyte/ops/gemm/gemm_arguments.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/quantize_target.h"

namespace halfbyte::ops {

using base::Device;
using base::DType;
using base::invalid_argument;
using base::Result;
using base::Status;

Status check_fp4_format(const char* argument, Format format) {
  if (format == Format::kNvfp4 || format == Format::kMxfp4) return {};
  const int value = static_cast<int>(format);
  return invalid_argument(argument, "nvfp4 or mxfp4",
                          format == Format::kFp8 ? "fp8" : std::to_string(value));
}

Status check_fp4_columns(const char* argument, Format format, std::int64_t columns) {
  const int block = formats::block_elements(format);
  if (columns >= block && columns % block == 0) return {};
  return invalid_argument(argument,
                          "a positive multiple of " + std::to_string(block) + " (" +
                              formats::format_name(format) + " blocks)",
                          std::to_string(columns));
}

Status check_fp4_rows(const char* argument, std::int64_t rows, std::int64_t columns,
                      std::int64_t matrices) {
  // Codes, scales and any padding of them take less than a byte an element of this.
  constexpr std::int64_t kPadding = 256;
  std::int64_t height = 0, width = 0, bytes = 0;
  const bool fits = rows >= 0 && !__builtin_add_overflow(rows, kPadding, &height) &&
                    !__builtin_add_overflow(columns, kPadding, &width) &&
                    !__builtin_mul_overflow(height, width, &bytes) &&
                    !__builtin_mul_overflow(bytes, matrices, &bytes);
  if (fits) return {};
  return invalid_argument(argument, "0 or more, and fewer than 2^63 bytes of weights",
                          std::to_string(rows));
}

Result<Rows> resolve_fp4_codes(const char* argument, const TensorView& codes, std::int64_t rows,
                               std::int64_t columns, Device device) {
  Result<Rows> resolved = resolve_rows(argument, codes);
  if (!resolved.ok()) return resolved;
  HALFBYTE_RETURN_IF_ERROR(check_dtype(argument, codes, DType::kU8));
  HALFBYTE_RETURN_IF_ERROR(check_device(argument, codes, device));
  if (resolved.value().map.rows == rows && resolved.value().columns == columns / 2) return resolved;
  return invalid_argument(
      argument, std::to_string(rows) + " rows of " + std::to_string(columns / 2) + " bytes",
      "shape " + base::shape_string(codes));
}

Status check_prepared(const char* argument, const TensorView& prepared, std::int64_t bytes,
                      Device device) {
  HALFBYTE_RETURN_IF_ERROR(check_array(argument, prepared, DType::kU8, bytes, device));
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(prepared.data) %
                                              static_cast<std::uintptr_t>(kPreparedAlignment));
  if (bytes == 0 || past == 0) return {};
  const std::string alignment = std::to_string(kPreparedAlignment);
  return invalid_argument(argument, "a pointer aligned to " + alignment + " bytes",
                          "address % " + alignment + " = " + std::to_string(past));
}

namespace {

// An address for memory that a query lacks; nothing is read from it.
TensorView with_memory(TensorView view) {
  alignas(kPreparedAlignment) static std::byte nowhere[kPreparedAlignment];
  if (view && view.data == nullptr) view.data = nowhere;
  return view;
}

GemmArgs with_memory(GemmArgs args) {
  for (TensorView* view :
       {&args.a, &args.a_packed.codes, &args.a_packed.scales, &args.a_packed.scale, &args.b.codes,
        &args.b.scales, &args.b.prepared, &args.b.scale, &args.bias, &args.c,
        &args.groups.row_offsets, &args.groups.scale_row_offsets}) {
    *view = with_memory(*view);
  }
  return args;
}

class Resolver {
 public:
  Resolver(const GemmArgs& args, GemmCheck check, OverlapCheck& overlap, std::optional<DType> inner)
      : args_(args), reads_memory_(check == GemmCheck::kCall), overlap_(overlap), inner_(inner) {}

  Result<GemmProblem> resolve() {
    HALFBYTE_RETURN_IF_ERROR(shape());
    HALFBYTE_RETURN_IF_ERROR(inner_ ? inner_output() : output());
    HALFBYTE_RETURN_IF_ERROR(weights());
    HALFBYTE_RETURN_IF_ERROR(input());
    HALFBYTE_RETURN_IF_ERROR(groups());
    HALFBYTE_RETURN_IF_ERROR(bias());
    return problem_;
  }

 private:
  std::int64_t matrices() const { return problem_.groups == 0 ? 1 : problem_.groups; }

  Status shape() {
    const GemmWeights& b = args_.b;
    HALFBYTE_RETURN_IF_ERROR(check_fp4_format("b.format", b.format));
    HALFBYTE_RETURN_IF_ERROR(check_fp4_columns("b.columns", b.format, b.columns));
    if (args_.groups.count < 0) {
      return invalid_argument("groups.count", "0 or more", std::to_string(args_.groups.count));
    }
    HALFBYTE_RETURN_IF_ERROR(
        check_fp4_rows("b.rows", b.rows, b.columns, std::max<std::int64_t>(args_.groups.count, 1)));
    const int method = static_cast<int>(args_.method);
    if (method < 0 || method > static_cast<int>(GemmMethod::kBlockScaled)) {
      return invalid_argument("method",
                              "auto, exact, tensor_core, dequantize, fp8 or block_scaled (0 to 5)",
                              std::to_string(method));
    }
    problem_.format = b.format;
    problem_.n = b.rows;
    problem_.k = b.columns;
    problem_.groups = args_.groups.count;
    problem_.method = args_.method;
    return {};
  }

  Status output() {
    if (!args_.c) return invalid_argument("c", "a tensor", "none");
    HALFBYTE_RETURN_IF_ERROR(check_float("c", args_.c));
    device_ = args_.c.device;
    TensorView c = args_.c;
    // A matrix without columns has no rows that resolve_rows could take.
    const bool empty = problem_.n == 0 && c.ndim > 0 && c.shape[c.ndim - 1] == 0;
    if (empty) {
      c.shape[c.ndim - 1] = 1;
      c.data = with_memory(TensorView(nullptr, c.dtype, {1})).data;
    }
    const Result<Rows> rows = resolve_rows("c", c);
    if (!rows.ok()) return rows.status();
    if (!empty && rows.value().columns != problem_.n) {
      return invalid_argument("c", "a last dimension of " + std::to_string(problem_.n) + " (N)",
                              "shape " + base::shape_string(args_.c));
    }
    problem_.m = rows.value().map.rows;
    problem_.c = args_.c.data;
    problem_.c_dtype = args_.c.dtype;
    problem_.c_rows = rows.value().map;
    if (!empty) overlap_.writes("c", rows.value());
    return {};
  }

  Status inner_output() {
    HALFBYTE_RETURN_IF_ERROR(check_absent("c", args_.c, "the product stays inside"));
    if (!base::is_float(*inner_)) {
      return invalid_argument("dtype", "fp32, fp16 or bf16",
                              std::string(base::dtype_name(*inner_)));
    }
    const PackedTensor& packed = args_.a_packed;
    problem_.m = packed.rows;
    device_ = packed.codes.device;
    if (!packed.codes) {
      const Result<Rows> a = resolve_rows("a", args_.a);
      if (!a.ok()) return a.status();
      problem_.m = a.value().map.rows;
      device_ = args_.a.device;
    }
    problem_.c_dtype = *inner_;
    problem_.c_rows = {.rows = problem_.m, .inner_rows = problem_.m, .inner_stride = problem_.n};
    return {};
  }

  Status weights() {
    const GemmWeights& b = args_.b;
    const std::int64_t scale_bytes = formats::scale_bytes(b.layout, problem_.n, problem_.blocks());
    problem_.form = b.form;
    if (b.form == WeightForm::kPlain) {
      HALFBYTE_RETURN_IF_ERROR(check_absent("b_prepared", b.prepared, "the weights are plain"));
      const Result<Rows> codes =
          resolve_fp4_codes("b_codes", b.codes, matrices() * problem_.n, problem_.k, device_);
      if (!codes.ok()) return codes.status();
      HALFBYTE_RETURN_IF_ERROR(check_layout("b_layout", b.layout));
      HALFBYTE_RETURN_IF_ERROR(
          check_array("b_scales", b.scales, DType::kU8, matrices() * scale_bytes, device_));
      problem_.b_codes = b.codes.as<const std::uint8_t>();
      problem_.b_rows = codes.value().map;
      problem_.b_scales = b.scales.as<const std::uint8_t>();
      problem_.b_layout = b.layout;
      problem_.b_scale_stride = scale_bytes;
      overlap_.reads("b_codes", codes.value());
      overlap_.reads("b_scales", b.scales);
    } else if (b.form == WeightForm::kPrepared) {
      HALFBYTE_RETURN_IF_ERROR(check_absent("b_codes", b.codes, "the weights are prepared"));
      HALFBYTE_RETURN_IF_ERROR(check_absent("b_scales", b.scales, "the weights are prepared"));
      const std::int64_t bytes = prepared_weight_bytes(b.format, problem_.n, problem_.k);
      HALFBYTE_RETURN_IF_ERROR(
          check_prepared("b_prepared", b.prepared, matrices() * bytes, device_));
      problem_.b_prepared = b.prepared.as<const std::uint8_t>();
      problem_.b_prepared_stride = bytes;
      overlap_.reads("b_prepared", b.prepared);
    } else {
      return invalid_argument("b.form", "plain or prepared",
                              std::to_string(static_cast<int>(b.form)));
    }
    const std::int64_t per_group = problem_.groups;
    return scale("b_scale", b.scale, b.scale_kind, per_group, "group", problem_.b_scale);
  }

  // The fp32 scale of an operand: none, one, or `many`.
  Status scale(const char* argument, const TensorView& view, ScaleKind kind, std::int64_t many,
               const char* of, ScaleValue& to) {
    const int value = static_cast<int>(kind);
    if (value < 0 || value > 2) {
      return invalid_argument(std::string(argument) + "_kind", "none, encode or decode",
                              std::to_string(value));
    }
    to.kind = kind;
    if (kind == ScaleKind::kNone) return check_absent(argument, view, "scale_kind is none");
    if (problem_.format == Format::kMxfp4) {
      return invalid_argument(argument, "no fp32 scale (mxfp4 has none)",
                              kind == ScaleKind::kEncode ? "a global_scale" : "a decode_scale");
    }
    if (!view) return invalid_argument(argument, "a tensor", "none");
    const std::int64_t count = view.numel();
    const bool one = count == 1;
    if (!one && (view.ndim != 1 || count != many || many == 0)) {
      std::string expected = "shape [1]";
      if (many > 0) expected += " or [" + std::to_string(many) + "] (one a " + of + ")";
      return invalid_argument(argument, expected, base::shape_string(view));
    }
    const bool on_host = view.device.type == base::DeviceType::kCpu;
    const bool by_value = one && on_host && device_.type == base::DeviceType::kCuda;
    HALFBYTE_RETURN_IF_ERROR(
        check_array(argument, view, DType::kF32, count, by_value ? view.device : device_));
    if (on_host && kind == ScaleKind::kEncode && reads_memory_) {
      for (std::int64_t i = 0; i < count; ++i) {
        const float g = view.as<const float>()[i];
        if (std::isfinite(g) && g > 0.0f) continue;
        return invalid_argument(argument, "a finite encode scale > 0", std::to_string(g));
      }
    }
    if (by_value) {
      to.value = reads_memory_ ? *view.as<const float>() : 1.0f;
      return {};
    }
    to.data = view.as<const float>();
    to.stride = one ? 0 : 1;
    overlap_.reads(argument, view);
    return {};
  }

  Status input() {
    const PackedTensor& packed = args_.a_packed;
    if (!packed.codes) {
      if (!args_.a) return invalid_argument("a", "a tensor, or a_codes", "none");
      HALFBYTE_RETURN_IF_ERROR(check_absent("a_scales", packed.scales, "a is not quantized"));
      HALFBYTE_RETURN_IF_ERROR(check_absent("a_scale", packed.scale, "a is not quantized"));
      return values();
    }
    HALFBYTE_RETURN_IF_ERROR(check_absent("a", args_.a, "a_codes is given"));
    HALFBYTE_RETURN_IF_ERROR(check_fp4_format("a.format", packed.format));
    if (packed.format != problem_.format) {
      return invalid_argument("a.format",
                              std::string(formats::format_name(problem_.format)) +
                                  ", the format of b (products of two formats are not defined)",
                              formats::format_name(packed.format));
    }
    if (packed.rows != problem_.m || packed.columns != problem_.k) {
      return invalid_argument(
          "a",
          std::to_string(problem_.m) + " rows (as c) of " + std::to_string(problem_.k) +
              " columns (as b)",
          std::to_string(packed.rows) + " rows of " + std::to_string(packed.columns) + " columns");
    }
    const Result<Rows> codes =
        resolve_fp4_codes("a_codes", packed.codes, problem_.m, problem_.k, device_);
    if (!codes.ok()) return codes.status();
    HALFBYTE_RETURN_IF_ERROR(check_layout("a_layout", packed.layout));
    problem_.quantized = true;
    problem_.a_codes = packed.codes.as<const std::uint8_t>();
    problem_.a_rows = codes.value().map;
    problem_.a_scales = packed.scales.as<const std::uint8_t>();
    problem_.a_layout = packed.layout;
    HALFBYTE_RETURN_IF_ERROR(input_scales(packed));
    overlap_.reads("a_codes", codes.value());
    overlap_.reads("a_scales", packed.scales);
    problem_.a_scale_per_group = problem_.groups > 0 && packed.scale_kind == ScaleKind::kEncode;
    return scale("a_scale", packed.scale, packed.scale_kind,
                 problem_.a_scale_per_group ? problem_.groups : problem_.m,
                 problem_.a_scale_per_group ? "group" : "row", problem_.a_scale);
  }

  // Without groups the array has the rows of a; with groups it is the caller's to say.
  Status input_scales(const PackedTensor& packed) {
    problem_.a_scale_rows = problem_.m;
    if (problem_.groups > 0) {
      const std::int64_t columns = formats::padded_scale_columns(packed.layout, problem_.blocks());
      const std::int64_t unit = columns * formats::padded_scale_rows(packed.layout, 1);
      if (!packed.scales || packed.scales.numel() % unit != 0) {
        return invalid_argument("a_scales",
                                "u8, a multiple of " + std::to_string(unit) + " elements (" +
                                    std::to_string(unit / columns) + " rows of scales)",
                                packed.scales ? base::shape_string(packed.scales) : "none");
      }
      problem_.a_scale_rows = packed.scales.numel() / columns;
    }
    return check_array(
        "a_scales", packed.scales, DType::kU8,
        formats::scale_bytes(packed.layout, problem_.a_scale_rows, problem_.blocks()), device_);
  }

  Status values() {
    const Result<Rows> a = resolve_rows("a", args_.a);
    if (!a.ok()) return a.status();
    if (args_.a.dtype != DType::kBF16 && args_.a.dtype != DType::kF16) {
      return invalid_argument("a", "bf16 or fp16", std::string(base::dtype_name(args_.a.dtype)));
    }
    HALFBYTE_RETURN_IF_ERROR(check_device("a", args_.a, device_));
    if (a.value().map.rows != problem_.m || a.value().columns != problem_.k) {
      return invalid_argument("a",
                              std::to_string(problem_.m) + " rows (as c) of " +
                                  std::to_string(problem_.k) + " columns (as b)",
                              "shape " + base::shape_string(args_.a));
    }
    problem_.x = args_.a.data;
    problem_.x_dtype = args_.a.dtype;
    problem_.x_rows = a.value().map;
    overlap_.reads("a", a.value());
    return {};
  }

  Status groups() {
    const RowGroups& groups = args_.groups;
    if (groups.count == 0 || !problem_.quantized) {
      HALFBYTE_RETURN_IF_ERROR(
          check_absent("scale_row_offsets", groups.scale_row_offsets,
                       groups.count == 0 ? "no groups" : "a is not quantized"));
    }
    if (groups.count == 0) return check_absent("row_offsets", groups.row_offsets, "no groups");
    const std::int64_t count = groups.count + 1;
    HALFBYTE_RETURN_IF_ERROR(
        check_array("row_offsets", groups.row_offsets, DType::kI32, count, device_));
    problem_.row_offsets = groups.row_offsets.as<const std::int32_t>();
    overlap_.reads("row_offsets", groups.row_offsets);
    if (problem_.quantized) {
      HALFBYTE_RETURN_IF_ERROR(
          check_array("scale_row_offsets", groups.scale_row_offsets, DType::kI32, count, device_));
      problem_.scale_row_offsets = groups.scale_row_offsets.as<const std::int32_t>();
      overlap_.reads("scale_row_offsets", groups.scale_row_offsets);
    }
    if (device_.type != base::DeviceType::kCpu || !reads_memory_) return {};
    return check_group_offsets(
        {.groups = groups.count,
         .rows = problem_.m,
         .row_offsets = problem_.row_offsets,
         .scale_row_offsets = problem_.scale_row_offsets,
         .scale_rows = problem_.a_scale_rows,
         .scale_row_unit = static_cast<int>(formats::padded_scale_rows(problem_.a_layout, 1))});
  }

  Status bias() {
    const TensorView& bias = args_.bias;
    if (!bias) return {};
    if (bias.dtype != problem_.c_dtype && bias.dtype != DType::kF32) {
      return invalid_argument("bias",
                              std::string(base::dtype_name(problem_.c_dtype)) +
                                  (inner_ ? " (the product's) or fp32" : " (as c) or fp32"),
                              std::string(base::dtype_name(bias.dtype)));
    }
    HALFBYTE_RETURN_IF_ERROR(
        check_array("bias", bias, bias.dtype, matrices() * problem_.n, device_));
    problem_.bias = bias.data;
    problem_.bias_dtype = bias.dtype;
    overlap_.reads("bias", bias);
    return {};
  }

  const GemmArgs& args_;
  const bool reads_memory_;
  OverlapCheck& overlap_;
  const std::optional<DType> inner_;
  Device device_;
  GemmProblem problem_;
};

}  // namespace

Result<GemmProblem> resolve_gemm(const GemmArgs& args, GemmCheck check, OverlapCheck& overlap,
                                 std::optional<DType> inner) {
  if (check == GemmCheck::kCall) return Resolver(args, check, overlap, inner).resolve();
  const GemmArgs shapes = with_memory(args);
  return Resolver(shapes, check, overlap, inner).resolve();
}

}  // namespace halfbyte::ops
