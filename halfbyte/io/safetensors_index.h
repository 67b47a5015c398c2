// The index of a sharded checkpoint, `model.safetensors.index.json`: which file holds each tensor.
// Pure functions over text, as safetensors_header.h's are over bytes.
//
// Refused, each with a message that names the file and the rule (StatusCode::kData): more than
// 100 000 000 bytes; not UTF-8; not a JSON object; a key twice; no `weight_map`, or one that is
// not an object of strings; a file name that is empty, ".", ".." or has a '/' or a NUL byte;
// nesting deeper than eight levels. Other keys (`metadata`) may hold anything else.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "halfbyte/base/status.h"

namespace halfbyte::io {

// Tensor name to file name.
using SafetensorsIndex = std::map<std::string, std::string, std::less<>>;

base::Result<SafetensorsIndex> parse_safetensors_index(std::string_view text,
                                                       std::string_view file_name);

// The text of an index, sorted by tensor; `total_size` is in bytes of tensor data.
std::string safetensors_index_json(const SafetensorsIndex& index, std::int64_t total_size);

}  // namespace halfbyte::io
