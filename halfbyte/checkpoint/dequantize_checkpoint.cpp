#include "halfbyte/checkpoint/dequantize_checkpoint.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "halfbyte/checkpoint/declaration.h"
#include "halfbyte/checkpoint/matrix_source.h"
#include "halfbyte/checkpoint/output_target.h"
#include "halfbyte/checkpoint/parallel.h"
#include "halfbyte/checkpoint/stored_weights.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::DType;
using base::Result;
using base::Status;
using base::StatusCode;
using base::TensorView;

struct Scratch {
  DecodeScratch decode;
  std::vector<float> rows, turned;  // elements of the output's type, aligned for any
};

// What one thread does at a time: rows of a matrix; of a stack, which is stored transposed, all.
struct Piece {
  const StoredWeight* weight;
  std::int64_t matrix, begin, count;
};

std::vector<Piece> pieces_of(const std::vector<const StoredWeight*>& weights, std::int64_t bytes) {
  std::vector<Piece> pieces;
  for (const StoredWeight* weight : weights) {
    const std::int64_t step =
        weight->is_stack() ? weight->rows : rows_per_piece(weight->columns * bytes);
    for (std::int64_t matrix = 0; matrix < weight->matrices; ++matrix) {
      for (std::int64_t row = 0; row < weight->rows; row += step) {
        pieces.push_back({weight, matrix, row, std::min(step, weight->rows - row)});
      }
    }
  }
  return pieces;
}

Status decode_piece(const Piece& piece, DType dtype, Scratch& scratch,
                    const io::SafetensorsShardWriter& writer) {
  const std::int64_t k = piece.weight->columns, n = piece.count;
  const std::int64_t bytes = n * k * base::dtype_bytes(dtype);
  const auto floats = static_cast<std::size_t>((bytes + 3) / 4);
  if (scratch.rows.size() < floats) scratch.rows.resize(floats);
  HALFBYTE_RETURN_IF_ERROR(decode_rows(*piece.weight, piece.matrix, piece.begin,
                                       TensorView(scratch.rows.data(), dtype, {n, k}),
                                       scratch.decode));
  const float* out = scratch.rows.data();
  if (piece.weight->is_stack()) {
    if (scratch.turned.size() < floats) scratch.turned.resize(floats);
    transpose(scratch.rows.data(), n, k, static_cast<int>(base::dtype_bytes(dtype)),
              scratch.turned.data());
    out = scratch.turned.data();
  }
  const std::int64_t first = (piece.matrix * piece.weight->rows + piece.begin) * k;
  HALFBYTE_RETURN_IF_ERROR(
      writer.write(piece.weight->name, first * base::dtype_bytes(dtype),
                   {reinterpret_cast<const std::byte*>(out), static_cast<std::size_t>(bytes)}));
  release_stored(*piece.weight, piece.matrix, piece.begin, piece.count);
  return {};
}

const char* config_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return "float16";
    case DType::kF32:
      return "float32";
    default:
      return "bfloat16";
  }
}

Status write_folder_files(const ModelFiles& files, const OutputTarget& out, DType dtype,
                          DequantizeReport& report) {
  if (!files.is_folder()) return {};
  auto left_out = out.copy_other_files();
  if (!left_out.ok()) return left_out.status();
  for (const std::string& name : left_out.value()) {
    report.notes.push_back("not copied: " + name + " (weights in another format)");
  }
  const auto config = dequantized_config_json(files.config(), (files.path() / kConfigFile).string(),
                                              config_dtype(dtype));
  if (!config.ok()) return config.status();
  return out.write_text(kConfigFile, config.value());
}

}  // namespace

bool is_leftover_scale(const std::string& tensor) {
  for (const std::string_view suffix : {".input_scale", ".input_global_scale", ".output_scale",
                                        ".k_scale", ".v_scale", "_proj_input_scale"}) {
    if (tensor.ends_with(suffix)) return true;
  }
  return false;
}

Result<DequantizeReport> dequantize_checkpoint(const fs::path& in, const fs::path& out,
                                               const DequantizeOptions& options) {
  if (!base::is_float(options.dtype)) {
    return base::invalid_argument("dtype", "bf16, fp16 or fp32", "another");
  }
  const Result<ModelFiles> files = ModelFiles::open(in);
  if (!files.ok()) return files.status();
  Result<OutputTarget> target = OutputTarget::create(files.value(), out, options.overwrite);
  if (!target.ok()) return target.status();
  const Result<StoredCheckpoint> stored = find_stored_weights(files.value());
  if (!stored.ok()) return stored.status();
  if (stored.value().weights.empty()) {
    return Status(StatusCode::kData, in.string() + ": expected a quantized weight, got none");
  }

  DequantizeReport report;
  report.bytes_before = files.value().data_bytes();
  report.weights = static_cast<std::int64_t>(stored.value().weights.size());
  std::vector<OutputShard> shards(files.value().shards().size());
  std::int64_t dropped = 0, copied_bytes = 0;
  for (const TensorRef& tensor : stored.value().plain) {
    if (is_leftover_scale(tensor.entry->name)) {
      ++dropped;
      continue;
    }
    const io::SafetensorsEntry& entry = *tensor.entry;
    shards[tensor.shard].copied.push_back({tensor, entry.name});
    shards[tensor.shard].tensors.push_back({entry.name, entry.dtype, entry.shape});
    copied_bytes += entry.size_bytes();
    ++report.tensors_kept;
  }
  for (const StoredWeight& weight : stored.value().weights) dropped += weight.input_scale ? 1 : 0;
  if (dropped > 0) {
    report.notes.push_back(std::to_string(dropped) +
                           " scales of activations and of the KV cache dropped");
  }
  std::vector<std::vector<const StoredWeight*>> of_shard(shards.size());
  std::int64_t decoded = 0;
  for (const StoredWeight& weight : stored.value().weights) {
    shards[weight.codes.shard].tensors.push_back(
        {weight.name, io::stored_dtype(options.dtype), weight.decoded_shape()});
    of_shard[weight.codes.shard].push_back(&weight);
    decoded += weight.matrices * weight.rows * weight.columns * base::dtype_bytes(options.dtype);
  }
  report.bytes_after = decoded + copied_bytes;
  Progress progress(options.progress, report.bytes_after);
  std::vector<Scratch> scratch(static_cast<std::size_t>(thread_count(options.num_threads)));
  for (std::size_t i = 0; i < shards.size(); ++i) {
    order_for_alignment(shards[i].tensors);
    shards[i].metadata = files.value().shards()[i].metadata();
    shards[i].metadata.erase("quantization_config");
    shards[i].fill = [&, i](const io::SafetensorsShardWriter& writer) {
      const auto work = pieces_of(of_shard[i], base::dtype_bytes(options.dtype));
      return run_parallel(
          static_cast<std::int64_t>(work.size()), options.num_threads,
          [&](std::int64_t item, int worker) -> Status {
            const Piece& piece = work[static_cast<std::size_t>(item)];
            HALFBYTE_RETURN_IF_ERROR(decode_piece(
                piece, options.dtype, scratch[static_cast<std::size_t>(worker)], writer));
            progress.add(piece.count * piece.weight->columns * base::dtype_bytes(options.dtype));
            return {};
          });
    };
  }
  HALFBYTE_RETURN_IF_ERROR(
      write_shards(files.value(), target.value(), shards, options.num_threads, progress));
  HALFBYTE_RETURN_IF_ERROR(
      write_folder_files(files.value(), target.value(), options.dtype, report));
  HALFBYTE_RETURN_IF_ERROR(target.value().commit());
  return report;
}

}  // namespace halfbyte::checkpoint
