#include "halfbyte/io/safetensors_shard_writer.h"

#include <atomic>
#include <utility>

#include "halfbyte/io/atomic_file.h"
#include "halfbyte/io/utf8.h"

namespace halfbyte::io {

using base::Result;
using base::Status;
using base::StatusCode;

struct SafetensorsShardWriter::State {
  explicit State(AtomicFile target) : file(std::move(target)) {}

  AtomicFile file;
  SafetensorsLayout layout;
  std::map<std::string, std::size_t, std::less<>> index;
  std::atomic<std::int64_t> written{0};  // bytes of tensors
  std::int64_t expected = 0;
};

SafetensorsShardWriter::SafetensorsShardWriter(std::unique_ptr<State> state)
    : state_(std::move(state)) {}
SafetensorsShardWriter::SafetensorsShardWriter(SafetensorsShardWriter&&) noexcept = default;
SafetensorsShardWriter::~SafetensorsShardWriter() = default;

Result<SafetensorsShardWriter> SafetensorsShardWriter::create(
    const std::string& path, const std::vector<SafetensorsDeclaration>& tensors,
    const SafetensorsMetadata& metadata, bool overwrite) {
  Result<SafetensorsLayout> layout = lay_out_safetensors(path, tensors, metadata);
  if (!layout.ok()) return layout.status();
  Result<AtomicFile> file = AtomicFile::create(path, overwrite);
  if (!file.ok()) return file.status();
  auto state = std::make_unique<State>(std::move(file).value());
  state->layout = std::move(layout).value();
  for (std::size_t i = 0; i < tensors.size(); ++i) state->index[tensors[i].name] = i;
  for (const std::int64_t bytes : state->layout.bytes) state->expected += bytes;
  const std::string& header = state->layout.header;
  HALFBYTE_RETURN_IF_ERROR(
      state->file.write_at(0, {reinterpret_cast<const std::byte*>(header.data()), header.size()}));
  return SafetensorsShardWriter(std::move(state));
}

Status SafetensorsShardWriter::write(std::string_view tensor, std::int64_t offset,
                                     std::span<const std::byte> bytes) const {
  const auto found = state_->index.find(tensor);
  const std::string place = state_->file.path() + ": tensor " + quote_text(tensor);
  if (found == state_->index.end()) {
    return {StatusCode::kInvalidArgument, place + ": expected a declared tensor, got another"};
  }
  const std::int64_t size = state_->layout.bytes[found->second];
  const auto count = static_cast<std::int64_t>(bytes.size());
  if (offset < 0 || offset > size || count > size - offset) {
    return {StatusCode::kInvalidArgument,
            place + ": bytes: expected a range of its " + std::to_string(size) + " bytes, got " +
                std::to_string(count) + " at " + std::to_string(offset)};
  }
  state_->written += count;
  return state_->file.write_at(state_->layout.begin[found->second] + offset, bytes);
}

Status SafetensorsShardWriter::finish() {
  if (state_->written != state_->expected) {
    return {StatusCode::kInvalidArgument, state_->file.path() + ": bytes of tensors: expected " +
                                              std::to_string(state_->expected) + ", got " +
                                              std::to_string(state_->written)};
  }
  return state_->file.commit();
}

}  // namespace halfbyte::io
