#include "halfbyte/checkpoint/shard_output.h"

#include <algorithm>

#include "halfbyte/checkpoint/parallel.h"

namespace halfbyte::checkpoint {
namespace {

using base::Status;

constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;

Status copy_tensors(std::span<const CopiedTensor> tensors, const io::SafetensorsShardWriter& writer,
                    int num_threads, Progress& progress) {
  struct Piece {
    const CopiedTensor* tensor;
    std::int64_t begin, end;
  };
  std::vector<Piece> pieces;
  for (const CopiedTensor& tensor : tensors) {
    const std::int64_t bytes = tensor.tensor.entry->size_bytes();
    for (std::int64_t at = 0; at < bytes; at += kPieceBytes) {
      pieces.push_back({&tensor, at, std::min(bytes, at + kPieceBytes)});
    }
  }
  return run_parallel(
      static_cast<std::int64_t>(pieces.size()), num_threads, [&](std::int64_t item, int) -> Status {
        const Piece& piece = pieces[static_cast<std::size_t>(item)];
        const auto bytes = piece.tensor->tensor.entry->bytes().subspan(
            static_cast<std::size_t>(piece.begin),
            static_cast<std::size_t>(piece.end - piece.begin));
        HALFBYTE_RETURN_IF_ERROR(writer.write(piece.tensor->name, piece.begin, bytes));
        io::release_pages(bytes);
        progress.add(piece.end - piece.begin);
        return {};
      });
}

}  // namespace

void order_for_alignment(std::vector<io::SafetensorsDeclaration>& tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return io::dtype_bits(a.dtype) > io::dtype_bits(b.dtype);
  });
}

std::int64_t data_bytes(const OutputShard& shard) {
  std::int64_t bytes = 0;
  for (const auto& tensor : shard.tensors) {
    const auto size = io::tensor_bytes(tensor.dtype, tensor.shape);
    if (size.ok()) bytes += size.value();  // an error shows when the shard is laid out
  }
  return bytes;
}

Status write_shards(const ModelFiles& in, const OutputTarget& out,
                    std::span<const OutputShard> shards, int num_threads, Progress& progress) {
  std::int64_t total = 0;
  for (const OutputShard& shard : shards) total += data_bytes(shard);
  HALFBYTE_RETURN_IF_ERROR(out.check_space(total));
  io::SafetensorsIndex index;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string& name = in.shard_names()[i];
    auto writer = io::SafetensorsShardWriter::create(out.shard_path(name), shards[i].tensors,
                                                     shards[i].metadata, out.overwrite());
    if (!writer.ok()) return writer.status();
    HALFBYTE_RETURN_IF_ERROR(copy_tensors(shards[i].copied, writer.value(), num_threads, progress));
    HALFBYTE_RETURN_IF_ERROR(shards[i].fill(writer.value()));
    HALFBYTE_RETURN_IF_ERROR(writer.value().finish());
    for (const auto& tensor : shards[i].tensors) index[tensor.name] = name;
  }
  if (!in.has_index()) return {};
  return out.write_text(kIndexFile, io::safetensors_index_json(index, total));
}

}  // namespace halfbyte::checkpoint
