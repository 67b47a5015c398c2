#include "halfbyte/checkpoint/matrix_source.h"

#include <algorithm>
#include <cstring>

#include "halfbyte/numerics/half_types.h"

namespace halfbyte::checkpoint {
namespace {

using base::DType;

template <class T>
void transpose_elements(const T* in, std::int64_t rows, std::int64_t columns,
                        std::int64_t row_stride, T* out, std::int64_t out_stride) {
  constexpr std::int64_t kTile = 32;
  for (std::int64_t r = 0; r < rows; r += kTile) {
    for (std::int64_t c = 0; c < columns; c += kTile) {
      for (std::int64_t i = r; i < std::min(rows, r + kTile); ++i) {
        for (std::int64_t j = c; j < std::min(columns, c + kTile); ++j) {
          T value;  // `in` may be unaligned
          std::memcpy(&value, in + i * row_stride + j, sizeof(T));
          out[j * out_stride + i] = value;
        }
      }
    }
  }
}

template <class T>
void gather(const MatrixSource& source, std::int64_t begin, std::int64_t count, T* out) {
  const auto* base = reinterpret_cast<const T*>(source.tensor.entry->data) + source.first;
  if (source.column_stride == 1) {
    for (std::int64_t row = 0; row < count; ++row) {
      std::memcpy(out + row * source.columns, base + (begin + row) * source.row_stride,
                  static_cast<std::size_t>(source.columns) * sizeof(T));
    }
  } else if (source.row_stride == 1) {
    transpose_elements(base + begin, source.columns, count, source.column_stride, out,
                       source.columns);
  } else {
    for (std::int64_t row = 0; row < count; ++row) {
      for (std::int64_t k = 0; k < source.columns; ++k) {
        std::memcpy(out + row * source.columns + k,
                    base + (begin + row) * source.row_stride + k * source.column_stride, sizeof(T));
      }
    }
  }
}

}  // namespace

MatrixSource matrix_of(const TensorRef& tensor) {
  const io::SafetensorsEntry& entry = *tensor.entry;
  MatrixSource source;
  source.tensor = tensor;
  source.dtype = io::computed_dtype(entry.dtype).value_or(DType::kU8);
  source.columns = entry.shape.empty() ? 1 : entry.shape.back();
  source.rows = 1;
  for (std::size_t i = 0; i + 1 < entry.shape.size(); ++i) source.rows *= entry.shape[i];
  source.row_stride = source.columns;
  return source;
}

void gather_rows(const MatrixSource& source, std::int64_t begin, std::int64_t count, void* out) {
  if (source.dtype == DType::kF32) {
    gather(source, begin, count, static_cast<std::uint32_t*>(out));
  } else {
    gather(source, begin, count, static_cast<std::uint16_t*>(out));
  }
}

void release_rows(const MatrixSource& source, std::int64_t begin, std::int64_t count) {
  const std::int64_t element = base::dtype_bytes(source.dtype);
  if (source.column_stride != 1) {  // the rows lie across the matrix: all of it
    io::release_pages({source.tensor.entry->data + source.first * element,
                       static_cast<std::size_t>(source.columns * source.column_stride * element)});
    return;
  }
  io::release_pages(
      {source.tensor.entry->data + (source.first + begin * source.row_stride) * element,
       static_cast<std::size_t>(count * source.row_stride * element)});
}

void transpose(const void* in, std::int64_t rows, std::int64_t columns, int element_bytes,
               void* out) {
  const auto run = [&](auto tag) {
    using T = decltype(tag);
    transpose_elements(static_cast<const T*>(in), rows, columns, columns, static_cast<T*>(out),
                       rows);
  };
  if (element_bytes == 1) return run(std::uint8_t{});
  if (element_bytes == 2) return run(std::uint16_t{});
  run(std::uint32_t{});
}

void to_float(DType dtype, const void* data, std::int64_t count, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, data, static_cast<std::size_t>(count) * sizeof(float));
  } else if (dtype == DType::kBF16) {
    const auto* in = static_cast<const std::uint16_t*>(data);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t bits = std::uint32_t{in[i]} << 16;
      std::memcpy(out + i, &bits, sizeof bits);
    }
  } else {
    const auto* in = static_cast<const numerics::Fp16*>(data);
    for (std::int64_t i = 0; i < count; ++i) out[i] = numerics::to_float(in[i]);
  }
}

void from_float(const float* data, std::int64_t count, DType dtype, void* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, data, static_cast<std::size_t>(count) * sizeof(float));
  } else if (dtype == DType::kBF16) {
    auto* to = static_cast<numerics::Bf16*>(out);
    for (std::int64_t i = 0; i < count; ++i) to[i] = numerics::bf16_from_float(data[i]);
  } else {
    auto* to = static_cast<numerics::Fp16*>(out);
    for (std::int64_t i = 0; i < count; ++i) to[i] = numerics::fp16_from_float(data[i]);
  }
}

std::int64_t rows_per_piece(std::int64_t row_bytes) {
  constexpr std::int64_t kPieceBytes = std::int64_t{2} << 20;
  return std::max<std::int64_t>(1, kPieceBytes / std::max<std::int64_t>(1, row_bytes));
}

}  // namespace halfbyte::checkpoint
