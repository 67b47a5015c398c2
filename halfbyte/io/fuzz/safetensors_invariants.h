// What must hold for every file that parse_safetensors_header accepts; shared by the fuzzer and
// the mutation test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>

#include "halfbyte/io/safetensors_header.h"
#include "halfbyte/io/utf8.h"

namespace halfbyte::io {

// The first invariant that `header`, parsed from `file`, breaks; "" when all hold. Written without
// the parser's own helpers where a mistake there could hide itself.
inline std::string broken_invariant(const SafetensorsHeader& header,
                                    std::span<const std::byte> file) {
  if (header.data_offset < 10 || header.data_offset > static_cast<std::int64_t>(file.size())) {
    return "data_offset inside the file";
  }
  const std::byte* const data = file.data() + header.data_offset;
  std::int64_t next = 0;
  std::set<std::string> names;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != next || entry.end < entry.begin) return "ranges tile the data section";
    next = entry.end;
    if (entry.data != data + entry.begin) return "data points at begin";
    if (utf8_valid_prefix(entry.name) != entry.name.size()) return "names are UTF-8";
    if (!names.insert(entry.name).second) return "names are unique";
    if (header.find(entry.name) != &entry) return "find returns the entry";
    // long double is exact for the sizes of files that fit in a test's memory.
    long double bits = kSafetensorsDTypes.at(static_cast<std::size_t>(entry.dtype)).bits;
    for (const std::int64_t dim : entry.shape) {
      if (dim < 0) return "dimensions are not negative";
      bits *= static_cast<long double>(dim);
    }
    if (bits != static_cast<long double>(entry.size_bytes()) * 8) return "shape x dtype = range";
  }
  if (header.data_offset + next != static_cast<std::int64_t>(file.size())) {
    return "ranges end at the end of the file";
  }
  if (header.name_order.size() != header.entries.size()) return "every name is indexed";
  return "";
}

}  // namespace halfbyte::io
