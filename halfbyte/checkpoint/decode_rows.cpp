// Values of stored weights (stored_weights.h).
#include <algorithm>
#include <cstring>

#include "halfbyte/checkpoint/stored_weights.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::checkpoint {
namespace {

using base::DType;
using base::TensorView;
using formats::Format;

// Columns [begin, begin + count) of a byte matrix [height, width] as rows: [count, height].
const std::uint8_t* columns_as_rows(const std::byte* data, std::int64_t height, std::int64_t width,
                                    std::int64_t begin, std::int64_t count,
                                    std::vector<std::uint8_t>& out) {
  out.resize(static_cast<std::size_t>(count * height));
  const auto* in = reinterpret_cast<const std::uint8_t*>(data);
  constexpr std::int64_t kTile = 64;
  for (std::int64_t first = 0; first < count; first += kTile) {
    const std::int64_t last = std::min(count, first + kTile);
    for (std::int64_t y = 0; y < height; ++y) {
      const std::uint8_t* row = in + y * width + begin;
      for (std::int64_t x = first; x < last; ++x) {
        out[static_cast<std::size_t>(x * height + y)] = row[x];
      }
    }
  }
  return out.data();
}

}  // namespace

base::Status decode_rows(const StoredWeight& weight, std::int64_t matrix, std::int64_t begin,
                         const TensorView& out, DecodeScratch& scratch) {
  const std::int64_t count = out.shape[0], n = weight.rows, k = weight.columns;
  const bool fp8 = weight.format == Format::kFp8;
  const std::int64_t code_row = fp8 ? k : k / 2;
  const std::int64_t scale_row = fp8 ? 0 : k / formats::block_elements(weight.format);
  const auto* codes = reinterpret_cast<const std::uint8_t*>(weight.codes.entry->data);
  const auto* scales =
      fp8 ? nullptr : reinterpret_cast<const std::uint8_t*>(weight.scales.entry->data);
  if (weight.packing == Packing::kTransposed) {
    codes = columns_as_rows(weight.codes.entry->data + matrix * n * code_row, code_row, n, begin,
                            count, scratch.codes);
    scales = columns_as_rows(weight.scales.entry->data + matrix * n * scale_row, scale_row, n,
                             begin, count, scratch.scales);
  } else {
    codes += (matrix * n + begin) * code_row;
    if (!fp8) scales += (matrix * n + begin) * scale_row;
  }
  formats::PackedTensor packed;
  packed.format = weight.format;
  packed.rows = count;
  packed.columns = k;
  packed.codes = TensorView(const_cast<std::uint8_t*>(codes), DType::kU8, {count, code_row});
  if (!fp8) {
    packed.scales = TensorView(const_cast<std::uint8_t*>(scales), DType::kU8, {count * scale_row});
  }
  packed.scale_kind = weight.scale_kind();
  if (fp8) {  // one a tensor or one a row; the operator takes either
    scratch.row_scales.resize(static_cast<std::size_t>(count));
    for (std::int64_t row = 0; row < count; ++row) {
      scratch.row_scales[static_cast<std::size_t>(row)] =
          stored_scale(weight.global_scale, begin + row);
    }
    packed.scale = TensorView(scratch.row_scales.data(), DType::kF32, {count});
  } else if (weight.global_scale) {
    scratch.row_scales.assign(1, stored_scale(weight.global_scale, matrix));
    packed.scale = TensorView(scratch.row_scales.data(), DType::kF32, {1});
  }
  ops::DequantizeArgs args;
  args.packed = packed;
  args.x = out;
  base::Execution execution;
  execution.num_threads = 1;
  const base::Status status = ops::dequantize(args, execution);
  if (status.ok()) return {};
  // The arguments came from the file: a scale that is zero, negative or not finite.
  return {base::StatusCode::kData, "'" + weight.name + "': " + status.message()};
}

void release_stored(const StoredWeight& weight, std::int64_t matrix, std::int64_t begin,
                    std::int64_t count) {
  const auto release = [&](const TensorRef& tensor) {
    if (!tensor || weight.matrices * weight.rows == 0) return;
    const std::int64_t row = tensor.entry->size_bytes() / (weight.matrices * weight.rows);
    const bool across = weight.packing == Packing::kTransposed;
    const std::int64_t first = matrix * weight.rows + (across ? 0 : begin);
    io::release_pages({tensor.entry->data + first * row,
                       static_cast<std::size_t>((across ? weight.rows : count) * row)});
  };
  release(weight.codes);
  if (weight.format != Format::kFp8) release(weight.scales);
}

}  // namespace halfbyte::checkpoint
