// Where the header and every tensor of a safetensors file to be written lie.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/io/safetensors_dtype.h"
#include "halfbyte/io/safetensors_header.h"

namespace halfbyte::io {

struct SafetensorsDeclaration {
  std::string name;
  SafetensorsDType dtype = SafetensorsDType::kU8;
  std::vector<std::int64_t> shape;  // in elements, also where they are narrower than a byte
};

// Tensors lie in the order declared, without gaps; metadata is sorted by key; the data section
// starts at a multiple of 8.
struct SafetensorsLayout {
  std::string header;               // the length field and the JSON object, padded with spaces
  std::vector<std::int64_t> begin;  // of each tensor, in bytes from the start of the file
  std::vector<std::int64_t> bytes;  // of each tensor
  std::int64_t file_bytes = 0;
};

// `path` appears in messages only. Errors (kInvalidArgument): duplicate name, the name
// `__metadata__`, text that is not UTF-8, a shape whose bytes do not fit 63 bits or do not fill
// bytes, a header above 100 MB.
base::Result<SafetensorsLayout> lay_out_safetensors(
    const std::string& path, const std::vector<SafetensorsDeclaration>& tensors,
    const SafetensorsMetadata& metadata);

}  // namespace halfbyte::io
