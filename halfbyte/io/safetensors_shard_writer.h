// Writing one safetensors file from several threads, each tensor in pieces of any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/io/safetensors_layout.h"

namespace halfbyte::io {

// The bytes of the file are those that SafetensorsWriter gives for the same declarations and data;
// it appears under its name at finish() only.
class SafetensorsShardWriter {
 public:
  // Errors: those of SafetensorsWriter::create().
  static base::Result<SafetensorsShardWriter> create(
      const std::string& path, const std::vector<SafetensorsDeclaration>& tensors,
      const SafetensorsMetadata& metadata, bool overwrite);

  SafetensorsShardWriter(SafetensorsShardWriter&&) noexcept;
  ~SafetensorsShardWriter();

  // Bytes of a tensor from its byte `offset` on; no byte twice. From several threads at once.
  // Errors: kInvalidArgument for a tensor that was not declared or bytes outside it; kIo.
  base::Status write(std::string_view tensor, std::int64_t offset,
                     std::span<const std::byte> bytes) const;

  // Checks that every byte was written (else kInvalidArgument), flushes, renames.
  base::Status finish();

 private:
  struct State;
  explicit SafetensorsShardWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::io
