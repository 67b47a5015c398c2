#include "halfbyte/checkpoint/stored_weights.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_set>

#include "halfbyte/io/utf8.h"

namespace halfbyte::checkpoint {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::StatusCode;
using formats::Format;
using io::SafetensorsDType;
using io::SafetensorsEntry;
using Shape = std::vector<std::int64_t>;

bool strip(std::string_view& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  name.remove_suffix(suffix.size());
  return true;
}

std::int64_t numel(const SafetensorsEntry& entry) {
  std::int64_t count = 1;
  for (const std::int64_t dim : entry.shape) count *= dim;
  return count;
}

bool is_bytes(const SafetensorsEntry& entry) { return entry.dtype == SafetensorsDType::kU8; }
bool is_e4m3(const SafetensorsEntry& entry) { return entry.dtype == SafetensorsDType::kF8E4M3; }

class Finder {
 public:
  explicit Finder(const ModelFiles& files) : files_(files) {}

  Result<StoredCheckpoint> run() {
    for (std::size_t shard = 0; shard < files_.shards().size(); ++shard) {
      for (const SafetensorsEntry& entry : files_.shards()[shard].entries()) {
        HALFBYTE_RETURN_IF_ERROR(look_at({&entry, shard}));
      }
    }
    for (std::size_t shard = 0; shard < files_.shards().size(); ++shard) {
      for (const SafetensorsEntry& entry : files_.shards()[shard].entries()) {
        if (used_.count(&entry) != 0) continue;
        if (is_quantized_tensor(entry)) {
          return base::unsupported(files_.place({&entry, shard}) +
                                   "expected a part of an NVFP4, MXFP4 or FP8 weight that is "
                                   "known here, got " +
                                   std::string(io::dtype_name(entry.dtype)) + " " +
                                   io::short_shape(entry.shape));
        }
        found_.plain.push_back({&entry, shard});
      }
    }
    return std::move(found_);
  }

 private:
  // Adds the weight whose codes `tensor` is, if it is one's.
  Status look_at(const TensorRef& tensor) {
    const SafetensorsEntry& entry = *tensor.entry;
    const std::size_t rank = entry.shape.size();
    std::string_view name = entry.name;
    StoredWeight weight;
    weight.codes = tensor;
    if (is_bytes(entry) && rank == 2 && strip(name, ".weight_packed")) {
      weight.convention = Convention::kCompressedTensors;
      weight.module = name;
      weight.format =
          files_.find(weight.module + ".weight_global_scale") ? Format::kNvfp4 : Format::kMxfp4;
      weight.name = weight.module + ".weight";
      return add(std::move(weight));
    }
    if (is_bytes(entry) && rank == 2 && strip(name, ".weight")) {
      weight.module = name;
      if (!files_.find(weight.module + ".weight_scale_2")) return {};
      weight.name = entry.name;
      return add(std::move(weight));
    }
    if (is_bytes(entry) && rank == 3 && files_.find(entry.name + "_weight_scale_2")) {
      weight.packing = Packing::kTransposed;
      weight.module = name;
      weight.name = entry.name;
      return add(std::move(weight));
    }
    if (is_bytes(entry) && rank == 4 && strip(name, "_blocks")) {
      weight.convention = Convention::kGptOss;
      weight.format = Format::kMxfp4;
      weight.packing = Packing::kBlocks;
      weight.module = name;
      weight.name = weight.module;
      return add(std::move(weight));
    }
    if (is_e4m3(entry) && rank == 2 && strip(name, ".weight")) {
      weight.format = Format::kFp8;
      weight.module = name;
      if (!files_.find(weight.module + ".weight_scale")) return {};
      weight.name = entry.name;
      return add_fp8(std::move(weight));
    }
    return {};
  }

  Status add(StoredWeight weight) {
    const LinearTensorNames names =
        weight.is_stack() ? stack_tensor_names(weight.convention, weight.module)
                          : linear_tensor_names(weight.convention, weight.format, weight.module);
    const Shape& codes = weight.codes.entry->shape;
    const int block = formats::block_elements(weight.format);
    Shape scales;
    switch (weight.packing) {
      case Packing::kRows:
        weight.rows = codes[0];
        weight.columns = codes[1] * 2;
        scales = {codes[0], weight.columns / block};
        break;
      case Packing::kTransposed:
        weight.matrices = codes[0];
        weight.rows = codes[2];
        weight.columns = codes[1] * 2;
        scales = {codes[0], weight.columns / block, codes[2]};
        break;
      case Packing::kBlocks:
        weight.matrices = codes[0];
        weight.rows = codes[1];
        weight.columns = codes[2] * block;
        scales = {codes[0], codes[1], codes[2]};
        break;
    }
    const bool fills = weight.packing != Packing::kBlocks || codes[3] * 2 == block;
    if (weight.columns % block != 0 || !fills) {
      return wrong(weight.codes, "codes of whole blocks of " + std::to_string(block));
    }
    HALFBYTE_RETURN_IF_ERROR(take(weight, names.scales, weight.scales));
    if (weight.scales.entry->shape != scales) {
      return wrong(weight.scales, io::short_shape(scales) + ", as the codes ask for");
    }
    const SafetensorsDType dtype = weight.scales.entry->dtype;
    if (weight.format == Format::kNvfp4
            ? dtype != SafetensorsDType::kF8E4M3
            : dtype != SafetensorsDType::kU8 && dtype != SafetensorsDType::kF8E8M0) {
      return wrong(weight.scales, weight.format == Format::kNvfp4 ? "F8_E4M3" : "U8 or F8_E8M0");
    }
    if (weight.format == Format::kNvfp4) {
      HALFBYTE_RETURN_IF_ERROR(take(weight, names.global_scale, weight.global_scale));
      HALFBYTE_RETURN_IF_ERROR(check_scalar(weight.global_scale, weight.matrices));
      weight.input_scale = files_.find(names.input_scale);
      if (weight.input_scale) {
        used_.insert(weight.input_scale.entry);
        HALFBYTE_RETURN_IF_ERROR(check_scalar(weight.input_scale, weight.matrices));
      }
    }
    used_.insert(weight.codes.entry);
    found_.weights.push_back(std::move(weight));
    return {};
  }

  Status add_fp8(StoredWeight weight) {
    weight.rows = weight.codes.entry->shape[0];
    weight.columns = weight.codes.entry->shape[1];
    HALFBYTE_RETURN_IF_ERROR(take(weight, weight.module + ".weight_scale", weight.global_scale));
    HALFBYTE_RETURN_IF_ERROR(check_scalar(weight.global_scale, weight.rows));
    weight.input_scale = files_.find(weight.module + ".input_scale");
    if (weight.input_scale) used_.insert(weight.input_scale.entry);
    used_.insert(weight.codes.entry);
    found_.weights.push_back(std::move(weight));
    return {};
  }

  Status take(const StoredWeight& weight, const std::string& name, TensorRef& out) {
    out = files_.find(name);
    if (!out) {
      return {StatusCode::kData, files_.place(weight.codes) + "expected its scale " +
                                     io::quote_text(name) + " too, got none"};
    }
    used_.insert(out.entry);
    return {};
  }

  // One value, or one for each of `count`.
  Status check_scalar(const TensorRef& scale, std::int64_t count) const {
    const bool floats = computed_float(*scale.entry);
    if (floats && (numel(*scale.entry) == 1 || numel(*scale.entry) == count)) return {};
    return wrong(scale, "one F32 or BF16 value, or " + std::to_string(count));
  }
  static bool computed_float(const SafetensorsEntry& entry) {
    return entry.dtype == SafetensorsDType::kF32 || entry.dtype == SafetensorsDType::kBF16;
  }

  Status wrong(const TensorRef& tensor, const std::string& expected) const {
    return {StatusCode::kData, files_.place(tensor) + "expected " + expected + ", got " +
                                   std::string(io::dtype_name(tensor.entry->dtype)) + " " +
                                   io::short_shape(tensor.entry->shape)};
  }

  const ModelFiles& files_;
  StoredCheckpoint found_;
  std::unordered_set<const SafetensorsEntry*> used_;
};

}  // namespace

std::vector<std::int64_t> StoredWeight::decoded_shape() const {
  if (is_stack()) return {matrices, columns, rows};
  return {rows, columns};
}

formats::ScaleKind StoredWeight::scale_kind() const {
  if (format == Format::kMxfp4) return formats::ScaleKind::kNone;
  return convention == Convention::kCompressedTensors ? formats::ScaleKind::kEncode
                                                      : formats::ScaleKind::kDecode;
}

const StoredWeight* StoredCheckpoint::find(std::string_view name) const {
  const auto found = std::find_if(weights.begin(), weights.end(),
                                  [&](const StoredWeight& weight) { return weight.name == name; });
  return found == weights.end() ? nullptr : &*found;
}

bool is_quantized_tensor(const SafetensorsEntry& tensor) {
  for (const std::string_view suffix :
       {".weight_packed", ".weight_scale", ".weight_scale_2", ".weight_global_scale",
        ".weight_scale_inv", ".qweight", ".qzeros", "_proj_blocks", "_proj_scales",
        "_proj_weight_scale", "_proj_weight_scale_2"}) {
    if (tensor.name.ends_with(suffix)) return true;
  }
  // Bytes, E4M3 or F4 under a weight's own name.
  const auto dtype = io::computed_dtype(tensor.dtype);
  return tensor.name.ends_with(".weight") && tensor.shape.size() >= 2 && dtype == DType::kU8;
}

Result<StoredCheckpoint> find_stored_weights(const ModelFiles& files) {
  return Finder(files).run();
}

float stored_scale(const TensorRef& scale, std::int64_t index) {
  const SafetensorsEntry& entry = *scale.entry;
  const bool bf16 = entry.dtype == SafetensorsDType::kBF16;
  const std::size_t bytes = bf16 ? 2 : 4;
  const std::size_t at =
      entry.size_bytes() == static_cast<std::int64_t>(bytes) ? 0 : static_cast<std::size_t>(index);
  std::uint32_t bits = 0;
  std::memcpy(&bits, entry.data + at * bytes, bytes);
  if (bf16) bits <<= 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace halfbyte::checkpoint
