// The header of a safetensors file, parsed and checked. Pure functions over bytes: no file is
// opened here, which is what lets tests and the fuzzer drive every rule.
//
// A file is: N, 8 bytes, little-endian; a JSON object of N bytes; the data section, to the end.
// Refused, each with a message that names the file, the tensor and the rule (StatusCode::kData):
//   file      shorter than 8 bytes; N < 2, N > 100 000 000, N past the end of the file
//   header    not UTF-8; not starting with '{'; not JSON (a NUL byte included)
//   keys      a tensor name, a field or a metadata key twice; a missing or an unknown field
//   fields    a wrong type or arity; a number that is negative, fractional or above 2^63 - 1; an
//             unknown dtype; `__metadata__` that does not map strings to strings; any array or
//             object where the format has none, so nesting never exceeds three levels
//   sizes     nonzero dimensions that multiply past 2^63 - 1 bits; a tensor that does not fill
//             whole bytes; shape x dtype different from the byte range; begin > end
//   layout    ranges that start after 0, overlap, leave a hole or run past the end; trailing bytes
// Legal: zero-size tensors, scalars (shape []), no tensor at all, JSON white space after the
// object (writers pad with spaces), a data section at any alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/io/safetensors_dtype.h"

namespace halfbyte::io {

inline constexpr std::uint64_t kSafetensorsMaxHeaderBytes = 100'000'000;

using SafetensorsMetadata = std::map<std::string, std::string>;

// One tensor of a file, row-major and dense.
struct SafetensorsEntry {
  std::string name;  // valid UTF-8; may be empty
  SafetensorsDType dtype = SafetensorsDType::kU8;
  std::vector<std::int64_t> shape;  // in elements; empty for a scalar
  std::int64_t begin = 0;           // bytes from the start of the data section
  std::int64_t end = 0;             // one past the last byte
  const std::byte* data = nullptr;  // begin's address, in the parsed bytes; any alignment

  std::int64_t size_bytes() const { return end - begin; }
  std::span<const std::byte> bytes() const {
    return {data, static_cast<std::size_t>(size_bytes())};
  }
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by data offset; those at one offset in header order
  SafetensorsMetadata metadata;
  std::int64_t data_offset = 0;           // bytes from the start of the file to the data section
  std::vector<std::uint32_t> name_order;  // indices into entries, sorted by name

  // nullptr when there is no such tensor. O(log n).
  const SafetensorsEntry* find(std::string_view name) const;
};

// Parses the header of `file`, the bytes of a whole file. Entries point into `file`, of which only
// the header is read. `file_name` appears in messages only. Memory is at most a constant (about
// 20) times the header; out of memory is StatusCode::kIo.
base::Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file,
                                                         std::string_view file_name);

}  // namespace halfbyte::io
