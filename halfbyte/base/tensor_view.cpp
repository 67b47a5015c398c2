#include "halfbyte/base/tensor_view.h"

#include <algorithm>

namespace halfbyte::base {

std::string to_string(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

TensorView::TensorView(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                       Device device)
    : TensorView(data, dtype, std::span(shape.begin(), shape.size()), device) {}

TensorView::TensorView(void* data, DType dtype, std::span<const std::int64_t> shape, Device device)
    : data(data), dtype(dtype), device(device), ndim(static_cast<int>(shape.size())), given(true) {
  std::copy(shape.begin(), shape.end(), this->shape.begin());
  std::int64_t stride = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= std::max<std::int64_t>(this->shape[i], 1);
  }
}

TensorView::TensorView(void* data, DType dtype, std::span<const std::int64_t> shape,
                       std::span<const std::int64_t> strides, Device device)
    : data(data), dtype(dtype), device(device), ndim(static_cast<int>(shape.size())), given(true) {
  std::copy(shape.begin(), shape.end(), this->shape.begin());
  std::copy(strides.begin(), strides.end(), this->strides.begin());
}

std::int64_t TensorView::numel() const {
  std::int64_t n = 1;
  for (int i = 0; i < ndim; ++i) n *= shape[i];
  return n;
}

bool TensorView::is_contiguous() const {
  if (numel() == 0) return true;
  std::int64_t stride = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != stride) return false;
    stride *= shape[i];
  }
  return true;
}

std::string shape_string(std::span<const std::int64_t> dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims[i]);
  }
  return text + "]";
}

std::string shape_string(const TensorView& view) {
  return shape_string(std::span(view.shape.data(), static_cast<std::size_t>(view.ndim)));
}

Result<RowMap> row_map(const char* argument, const TensorView& view) {
  if (view.ndim < 1) return invalid_argument(argument, "at least one dimension", "a scalar");
  const int last = view.ndim - 1;
  if (view.shape[last] > 1 && view.strides[last] != 1) {
    return invalid_argument(argument, "a dense last dimension (stride 1)",
                            "stride " + std::to_string(view.strides[last]));
  }
  // Walk the leading dimensions from the innermost, folding each one that continues the stride
  // pattern of the level below it.
  RowMap map;
  map.rows = 1;
  struct Level {
    std::int64_t size, stride;
  };
  std::array<Level, kMaxDims> levels{};
  int count = 0;
  for (int i = last - 1; i >= 0; --i) {
    map.rows *= view.shape[i];
    if (view.shape[i] == 1) continue;
    if (count > 0 && view.strides[i] == levels[count - 1].stride * levels[count - 1].size) {
      levels[count - 1].size *= view.shape[i];
    } else {
      levels[count++] = {view.shape[i], view.strides[i]};
    }
  }
  if (map.rows == 0) return RowMap{.rows = 0, .inner_rows = 0};
  if (count > 2) {
    return invalid_argument(
        argument, "leading dimensions that fold into at most two strides",
        "shape " + shape_string(view) + " with strides " +
            shape_string(std::span(view.strides.data(), static_cast<std::size_t>(view.ndim))));
  }
  map.inner_rows = count > 0 ? levels[0].size : 1;
  map.inner_stride = count > 0 ? levels[0].stride : 0;
  map.outer_stride = count > 1 ? levels[1].stride : 0;
  return map;
}

}  // namespace halfbyte::base
