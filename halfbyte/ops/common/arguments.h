// Checks of arguments that every room makes, each naming argument, expected and actual.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"

namespace halfbyte::ops {

// A [.., H] argument, checked and resolved for a kernel: element (m, k) is data[rows.offset(m) +
// k].
struct Rows {
  void* data = nullptr;
  base::DType dtype = base::DType::kF32;
  base::RowMap map;
  std::int64_t columns = 0;

  explicit operator bool() const { return data != nullptr; }
};

// Given, at least one dimension, H >= 1, a dense last dimension, a pointer aligned to its elements.
base::Result<Rows> resolve_rows(const char* argument, const base::TensorView& view);

base::Status check_float(const char* argument, const base::TensorView& view);
// resolve_rows of a tensor that check_float passes: what every operator reads or gives as T.
base::Result<Rows> resolve_float_rows(const char* argument, const base::TensorView& view);
base::Status check_dtype(const char* argument, const base::TensorView& view, base::DType expected);
base::Status check_device(const char* argument, const base::TensorView& view,
                          base::Device expected);
base::Status check_shape(const char* argument, const base::TensorView& view,
                         const base::TensorView& expected);
// Given, dense, `count` elements of `dtype` on `device`, aligned.
base::Status check_array(const char* argument, const base::TensorView& view, base::DType dtype,
                         std::int64_t count, base::Device device);
// An argument that this call does not take must be absent; `why` completes "absent (..)".
base::Status check_absent(const char* argument, const base::TensorView& view, const char* why);

// No output may overlap another argument, nor itself. Rows of two arguments may interleave in one
// buffer (column slices of equal row stride); anything else whose address ranges meet is refused.
class OverlapCheck {
 public:
  void reads(const char* argument, const Rows& rows) { add(argument, rows, false); }
  void writes(const char* argument, const Rows& rows) { add(argument, rows, true); }
  void reads(const char* argument, const base::TensorView& dense) { add(argument, dense, false); }
  void writes(const char* argument, const base::TensorView& dense) { add(argument, dense, true); }
  base::Status result() const;

 private:
  struct Span {
    std::string argument;
    std::intptr_t begin, end;  // address range, bytes
    std::int64_t row_stride;   // bytes; 0 where the rows do not form one regular level
    std::int64_t row_bytes;
    bool writes;
    bool overlaps_itself;
  };
  void add(const char* argument, const Rows& rows, bool writes);
  void add(const char* argument, const base::TensorView& dense, bool writes);
  static bool interleave(const Span& a, const Span& b);

  std::vector<Span> spans_;
};

}  // namespace halfbyte::ops
