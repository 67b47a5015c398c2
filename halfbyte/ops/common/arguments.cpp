#include "halfbyte/ops/common/arguments.h"

#include <algorithm>
#include <cstdlib>

namespace halfbyte::ops {

using base::invalid_argument;
using base::Status;
using base::TensorView;

namespace {

Status check_pointer(const char* argument, const TensorView& view) {
  if (view.numel() == 0) return {};
  if (view.data == nullptr) return invalid_argument(argument, "a data pointer", "null");
  const auto address = reinterpret_cast<std::uintptr_t>(view.data);
  const auto alignment = static_cast<std::uintptr_t>(base::dtype_bytes(view.dtype));
  if (address % alignment != 0) {
    return invalid_argument(
        argument, "a pointer aligned to " + std::to_string(alignment) + " bytes",
        "address % " + std::to_string(alignment) + " = " + std::to_string(address % alignment));
  }
  return {};
}

}  // namespace

base::Result<Rows> resolve_rows(const char* argument, const TensorView& view) {
  if (!view) return invalid_argument(argument, "a tensor", "none");
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] < 0) {
      return invalid_argument(argument, "no negative dimension", base::shape_string(view));
    }
  }
  base::Result<base::RowMap> map = base::row_map(argument, view);
  if (!map.ok()) return map.status();
  const std::int64_t columns = view.shape[view.ndim - 1];
  if (columns < 1) {
    return invalid_argument(argument, "a last dimension of at least 1", base::shape_string(view));
  }
  HALFBYTE_RETURN_IF_ERROR(check_pointer(argument, view));
  return Rows{view.data, view.dtype, map.value(), columns};
}

Status check_float(const char* argument, const TensorView& view) {
  if (base::is_float(view.dtype)) return {};
  return invalid_argument(argument, "fp32, fp16 or bf16",
                          std::string(base::dtype_name(view.dtype)));
}

base::Result<Rows> resolve_float_rows(const char* argument, const TensorView& view) {
  base::Result<Rows> rows = resolve_rows(argument, view);
  if (rows.ok()) HALFBYTE_RETURN_IF_ERROR(check_float(argument, view));
  return rows;
}

Status check_dtype(const char* argument, const TensorView& view, base::DType expected) {
  if (view.dtype == expected) return {};
  return invalid_argument(argument, std::string(base::dtype_name(expected)),
                          std::string(base::dtype_name(view.dtype)));
}

Status check_device(const char* argument, const TensorView& view, base::Device expected) {
  if (view.device == expected) return {};
  return invalid_argument(argument, "a tensor on " + base::to_string(expected),
                          base::to_string(view.device));
}

Status check_shape(const char* argument, const TensorView& view, const TensorView& expected) {
  const bool equal =
      view.ndim == expected.ndim &&
      std::equal(view.shape.begin(), view.shape.begin() + view.ndim, expected.shape.begin());
  if (equal) return {};
  return invalid_argument(argument, "shape " + base::shape_string(expected),
                          base::shape_string(view));
}

Status check_array(const char* argument, const TensorView& view, base::DType dtype,
                   std::int64_t count, base::Device device) {
  if (!view) return invalid_argument(argument, "a tensor", "none");
  HALFBYTE_RETURN_IF_ERROR(check_dtype(argument, view, dtype));
  HALFBYTE_RETURN_IF_ERROR(check_device(argument, view, device));
  if (view.numel() != count) {
    return invalid_argument(argument, std::to_string(count) + " elements",
                            std::to_string(view.numel()) + " in shape " + base::shape_string(view));
  }
  if (!view.is_contiguous()) return invalid_argument(argument, "a contiguous tensor", "strides");
  return check_pointer(argument, view);
}

Status check_absent(const char* argument, const TensorView& view, const char* why) {
  if (!view) return {};
  return invalid_argument(argument, std::string("no tensor (") + why + ")",
                          "shape " + base::shape_string(view));
}

void OverlapCheck::add(const char* argument, const Rows& rows, bool writes) {
  if (rows.map.rows == 0 || rows.data == nullptr) return;
  const std::int64_t element = base::dtype_bytes(rows.dtype);
  const std::int64_t row_bytes = rows.columns * element;
  const std::int64_t inner = rows.map.inner_stride * element;
  const std::int64_t outer = rows.map.outer_stride * element;
  const std::int64_t inner_rows = rows.map.inner_rows;
  const std::int64_t outer_rows = rows.map.rows / inner_rows;
  const std::int64_t inner_reach = (inner_rows - 1) * inner, outer_reach = (outer_rows - 1) * outer;
  const auto base_address = reinterpret_cast<std::intptr_t>(rows.data);

  Span span;
  span.argument = argument;
  span.begin = base_address + std::min<std::int64_t>(inner_reach, 0) +
               std::min<std::int64_t>(outer_reach, 0);
  span.end = base_address + std::max<std::int64_t>(inner_reach, 0) +
             std::max<std::int64_t>(outer_reach, 0) + row_bytes;
  span.row_stride = rows.map.rows == 1 ? row_bytes : outer_rows == 1 ? std::abs(inner) : 0;
  span.row_bytes = row_bytes;
  span.writes = writes;
  // Rows are apart if one level's rows are, and the other level steps over all of them.
  const std::int64_t inner_step = inner_rows == 1 ? row_bytes : std::abs(inner);
  const std::int64_t outer_step = outer_rows == 1 ? row_bytes : std::abs(outer);
  const bool nested = inner_step >= row_bytes &&
                      (outer_rows == 1 || outer_step >= std::abs(inner_reach) + row_bytes);
  const bool crossed = outer_step >= row_bytes &&
                       (inner_rows == 1 || inner_step >= std::abs(outer_reach) + row_bytes);
  span.overlaps_itself = !nested && !crossed;
  spans_.push_back(span);
}

void OverlapCheck::add(const char* argument, const TensorView& dense, bool writes) {
  if (!dense || dense.numel() == 0) return;
  const std::int64_t bytes = dense.numel() * base::dtype_bytes(dense.dtype);
  const auto begin = reinterpret_cast<std::intptr_t>(dense.data);
  spans_.push_back({argument, begin, begin + bytes, 0, bytes, writes, false});
}

bool OverlapCheck::interleave(const Span& a, const Span& b) {
  if (a.row_stride == 0 || a.row_stride != b.row_stride) return false;
  const std::int64_t distance = ((b.begin - a.begin) % a.row_stride + a.row_stride) % a.row_stride;
  return distance >= a.row_bytes && distance + b.row_bytes <= a.row_stride;
}

Status OverlapCheck::result() const {
  for (std::size_t i = 0; i < spans_.size(); ++i) {
    const Span& a = spans_[i];
    if (a.writes && a.overlaps_itself) {
      return invalid_argument(a.argument, "rows that do not overlap", "strides that make them");
    }
    for (std::size_t j = i + 1; j < spans_.size(); ++j) {
      const Span& b = spans_[j];
      const bool meet = a.begin < b.end && b.begin < a.end;
      if (!meet || (!a.writes && !b.writes) || interleave(a, b)) continue;
      const Span& written = a.writes ? a : b;
      const Span& other = a.writes ? b : a;
      return invalid_argument(written.argument, "memory apart from " + other.argument,
                              "memory that overlaps it");
    }
  }
  return {};
}

}  // namespace halfbyte::ops
