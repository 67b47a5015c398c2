#include "halfbyte/checkpoint/layer_encoder.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::checkpoint {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::TensorView;
using formats::Format;

constexpr std::uint8_t kLargestE4m3 = 0x7E;

base::Execution one_thread() {
  base::Execution execution;
  execution.num_threads = 1;
  return execution;
}

bool is_aligned(const void* data, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) %
             static_cast<std::uintptr_t>(base::dtype_bytes(dtype)) ==
         0;
}

template <class T>
T* room(std::vector<T>& buffer, std::int64_t count) {
  if (buffer.size() < static_cast<std::size_t>(count))
    buffer.resize(static_cast<std::size_t>(count));
  return buffer.data();
}

// Rows to encode: the piece, and, for scale = computed, one more row whose only element is the
// family's amax: the operator computes its scales from the largest element it is given.
struct EncodeInput {
  TensorView x;
  DType dtype = DType::kF32;
};

EncodeInput encode_input(const MatrixSource& source, RowRange rows, const float* carried_amax,
                         EncodeScratch& scratch) {
  const std::int64_t k = source.columns, bytes = base::dtype_bytes(source.dtype);
  const auto* in_place =
      source.tensor.entry->data + (source.first + rows.begin * source.row_stride) * bytes;
  if (carried_amax == nullptr && source.dense() && is_aligned(in_place, source.dtype)) {
    void* data = const_cast<std::byte*>(in_place);  // kernels only read x
    return {TensorView(data, source.dtype, {rows.count, k}), source.dtype};
  }
  const std::int64_t extra = carried_amax != nullptr ? 1 : 0;
  float* input = room(scratch.input, ((rows.count + extra) * k * bytes + 3) / 4);
  gather_rows(source, rows.begin, rows.count, input);
  DType dtype = source.dtype;
  if (carried_amax != nullptr) {
    std::uint32_t carried = 0;
    float back = 0;
    from_float(carried_amax, 1, dtype, &carried);
    to_float(dtype, &carried, 1, &back);
    if (back != *carried_amax) {  // another member of the family has a wider type
      float* wide = room(scratch.original, (rows.count + 1) * k);
      to_float(dtype, input, rows.count * k, wide);
      input = room(scratch.input, (rows.count + 1) * k);
      std::memcpy(input, wide, static_cast<std::size_t>(rows.count * k) * sizeof(float));
      dtype = DType::kF32;
      carried = std::bit_cast<std::uint32_t>(*carried_amax);
    }
    const std::int64_t size = base::dtype_bytes(dtype);
    auto* last = reinterpret_cast<std::byte*>(input) + rows.count * k * size;
    std::memset(last, 0, static_cast<std::size_t>(k * size));
    std::memcpy(last, &carried, static_cast<std::size_t>(size));
  }
  return {TensorView(input, dtype, {rows.count + extra, k}), dtype};
}

Status write_bytes(const io::SafetensorsShardWriter& writer, const std::string& tensor,
                   std::int64_t offset, const std::uint8_t* bytes, std::int64_t count) {
  return writer.write(tensor, offset,
                      std::as_bytes(std::span(bytes, static_cast<std::size_t>(count))));
}

Status write_piece(const PlannedLayer& layer, Format format, RowRange rows, EncodeScratch& scratch,
                   const io::SafetensorsShardWriter& writer) {
  const std::int64_t n = layer.source.rows;
  const std::int64_t code_row = layer.source.columns / 2;
  const std::int64_t scale_row = layer.source.columns / formats::block_elements(format);
  if (layer.packing != Packing::kTransposed) {
    const std::int64_t first = layer.matrix * n + rows.begin;
    HALFBYTE_RETURN_IF_ERROR(write_bytes(writer, layer.names.codes, first * code_row,
                                         scratch.codes.data(), rows.count * code_row));
    return write_bytes(writer, layer.names.scales, first * scale_row, scratch.scales.data(),
                       rows.count * scale_row);
  }
  // The piece is the whole matrix.
  std::uint8_t* out = room(scratch.transposed, n * code_row);
  transpose(scratch.codes.data(), n, code_row, 1, out);
  HALFBYTE_RETURN_IF_ERROR(
      write_bytes(writer, layer.names.codes, layer.matrix * n * code_row, out, n * code_row));
  transpose(scratch.scales.data(), n, scale_row, 1, out);
  return write_bytes(writer, layer.names.scales, layer.matrix * n * scale_row, out, n * scale_row);
}

}  // namespace

std::vector<RowRange> pieces_of(const MatrixSource& source) {
  if (source.column_stride != 1) return {{0, source.rows}};
  std::vector<RowRange> pieces;
  const std::int64_t step = rows_per_piece(source.columns * base::dtype_bytes(source.dtype));
  for (std::int64_t row = 0; row < source.rows; row += step) {
    pieces.push_back({row, std::min(step, source.rows - row)});
  }
  return pieces;
}

Result<float> piece_amax(const MatrixSource& source, RowRange rows, EncodeScratch& scratch) {
  float amax = 0;
  ops::AmaxArgs args;
  args.x = encode_input(source, rows, nullptr, scratch).x;
  args.amax = TensorView(&amax, DType::kF32, {1});
  HALFBYTE_RETURN_IF_ERROR(ops::amax(args, one_thread()));
  release_rows(source, rows.begin, rows.count);
  return amax;
}

Result<TensorError> encode_piece(const PlannedLayer& layer, const Family& family,
                                 const QuantizationDeclaration& declaration, RowRange rows,
                                 EncodeScratch& scratch, const io::SafetensorsShardWriter& writer) {
  const MatrixSource& source = layer.source;
  const Format format = declaration.format;
  const bool nvfp4 = format == Format::kNvfp4;
  const bool computed = nvfp4 && encodes_as_computed(declaration.convention, family.amax);
  const EncodeInput input = encode_input(source, rows, computed ? &family.amax : nullptr, scratch);
  const std::int64_t k = source.columns, encoded_rows = input.x.shape[0];
  const std::int64_t scale_row = k / formats::block_elements(format);

  StoredScale scale = family.scale, reported;
  ops::QuantizeArgs args;
  args.x = input.x;
  args.spec.format = format;
  args.out.codes =
      TensorView(room(scratch.codes, encoded_rows * k / 2), DType::kU8, {encoded_rows, k / 2});
  args.out.scales = TensorView(room(scratch.scales, encoded_rows * scale_row), DType::kU8,
                               {encoded_rows * scale_row});
  if (computed) {
    args.spec.scale = formats::ScaleMode::kComputed;
    args.out.global_scale = TensorView(&reported.encode, DType::kF32, {1});
    args.out.decode_scale = TensorView(&reported.decode, DType::kF32, {1});
  } else if (nvfp4) {
    args.given.global_scale = TensorView(&scale.encode, DType::kF32, {1});
  }
  HALFBYTE_RETURN_IF_ERROR(ops::quantize(args, one_thread()));
  if (computed && (reported.encode != scale.encode || reported.decode != scale.decode)) {
    return Status(base::StatusCode::kInternal,
                  "'" + layer.tensor + "': the scale of the operator is not that of the file");
  }

  formats::PackedTensor packed;  // as a reader of the file sees it
  packed.format = format;
  packed.rows = rows.count;
  packed.columns = k;
  packed.codes = TensorView(scratch.codes.data(), DType::kU8, {rows.count, k / 2});
  packed.scales = TensorView(scratch.scales.data(), DType::kU8, {rows.count * scale_row});
  if (nvfp4) {
    const bool decode = declaration.convention == Convention::kModelOpt;
    packed.scale = TensorView(decode ? &scale.decode : &scale.encode, DType::kF32, {1});
    packed.scale_kind = decode ? formats::ScaleKind::kDecode : formats::ScaleKind::kEncode;
  }
  const std::int64_t elements = rows.count * k;
  float* original = room(scratch.original, elements);
  ops::DequantizeArgs back;
  back.packed = packed;
  back.x = TensorView(room(scratch.restored, elements), DType::kF32, {rows.count, k});
  HALFBYTE_RETURN_IF_ERROR(ops::dequantize(back, one_thread()));
  to_float(input.dtype, input.x.data, elements, original);
  const auto count = static_cast<std::size_t>(elements);
  TensorError error = float_error({original, count}, {scratch.restored.data(), count}, false);
  error.zero_codes = count_zero_codes({scratch.codes.data(), count / 2});
  error.scales = rows.count * scale_row;
  if (nvfp4) {
    error.saturated_scales =
        std::count(scratch.scales.begin(), scratch.scales.begin() + error.scales, kLargestE4m3);
  }
  HALFBYTE_RETURN_IF_ERROR(write_piece(layer, format, rows, scratch, writer));
  release_rows(source, rows.begin, rows.count);
  return error;
}

Status write_scalars(const PlannedLayer& layer, const Family& family, Convention convention,
                     const io::SafetensorsShardWriter& writer) {
  const auto write = [&](const std::string& name, const StoredScale& scale) {
    const float stored[] = {convention == Convention::kModelOpt ? scale.decode : scale.encode};
    return writer.write(name, 0, std::as_bytes(std::span(stored)));
  };
  if (layer.matrix != 0 || layer.names.global_scale.empty()) return {};
  HALFBYTE_RETURN_IF_ERROR(write(layer.names.global_scale, family.scale));
  return layer.input_scale ? write(layer.names.input_scale, *layer.input_scale) : Status();
}

}  // namespace halfbyte::checkpoint
