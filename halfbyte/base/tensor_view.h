// TensorView: a borrowed, strided tensor. Kernels know pointers, not frameworks; this is the only
// tensor type that crosses an interface of the library.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "halfbyte/base/dtype.h"
#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"

namespace halfbyte::base {

enum class DeviceType : std::int32_t { kCpu = 1, kCuda = 2 };  // the values of DLPack

struct Device {
  DeviceType type = DeviceType::kCpu;
  std::int32_t index = 0;
  bool operator==(const Device&) const = default;
};

HALFBYTE_API std::string to_string(Device device);

inline constexpr int kMaxDims = 8;

// Pointer, type, device, shape and strides (in elements). A view with data == nullptr and
// ndim == 0 means "not given"; an optional argument is left at that. A zero-size tensor that is
// given may have a null pointer, so presence is `given`, not the pointer. A shape has at most
// kMaxDims dimensions (the C ABI refuses more; a C++ caller must not pass more).
struct HALFBYTE_API TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Device device;
  int ndim = 0;
  bool given = false;
  std::array<std::int64_t, kMaxDims> shape{};
  std::array<std::int64_t, kMaxDims> strides{};

  TensorView() = default;
  // A contiguous tensor.
  TensorView(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
             Device device = {});
  TensorView(void* data, DType dtype, std::span<const std::int64_t> shape, Device device = {});
  TensorView(void* data, DType dtype, std::span<const std::int64_t> shape,
             std::span<const std::int64_t> strides, Device device = {});

  explicit operator bool() const { return given; }
  std::int64_t numel() const;
  bool is_contiguous() const;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// "[2, 16]"
HALFBYTE_API std::string shape_string(const TensorView& view);
HALFBYTE_API std::string shape_string(std::span<const std::int64_t> dims);

// How the rows of a [.., H] tensor lie in memory: every leading dimension folds into at most two
// levels, which covers any 3-D view and every 2-D one, whatever its strides.
struct RowMap {
  std::int64_t rows = 0;          // M: product of the leading dimensions
  std::int64_t inner_rows = 1;    // rows of the inner level
  std::int64_t inner_stride = 0;  // elements between rows of the inner level
  std::int64_t outer_stride = 0;  // elements between groups of inner_rows rows

  HALFBYTE_HD constexpr std::int64_t offset(std::int64_t row) const {
    return inner_rows == rows
               ? row * inner_stride
               : (row / inner_rows) * outer_stride + (row % inner_rows) * inner_stride;
  }
};

// The row map of `view` seen as [rows, columns = last dimension]. Errors: no dimension, a last
// dimension that is not dense, leading dimensions that need more than two levels.
HALFBYTE_API Result<RowMap> row_map(const char* argument, const TensorView& view);

}  // namespace halfbyte::base
