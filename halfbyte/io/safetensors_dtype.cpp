#include "halfbyte/io/safetensors_dtype.h"

#include <algorithm>

namespace halfbyte::io {

std::string short_shape(std::span<const std::int64_t> shape) {
  constexpr std::size_t kShown = 8;
  std::string text = "[";
  for (std::size_t i = 0; i < std::min(shape.size(), kShown); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + (shape.size() > kShown ? ", ...]" : "]");
}

base::Result<std::int64_t> tensor_bytes(SafetensorsDType dtype,
                                        std::span<const std::int64_t> shape) {
  // The product without its zeros must fit too, whatever their order: strides are such products.
  std::int64_t bits = dtype_bits(dtype);
  bool empty = false;
  for (const std::int64_t dim : shape) {
    if (dim < 0) {
      return base::invalid_argument("shape", "dimensions >= 0", std::to_string(dim));
    }
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bits, dim, &bits)) {
      return base::invalid_argument("shape product overflow", "at most 2^63 - 1 bits", "more");
    }
  }
  if (empty) return std::int64_t{0};
  if (bits % 8 != 0) {
    return base::invalid_argument("size", "whole bytes", std::to_string(bits) + " bits");
  }
  return bits / 8;
}

}  // namespace halfbyte::io
