#include "halfbyte/io/safetensors_layout.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>

#include "halfbyte/io/utf8.h"

namespace halfbyte::io {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;

Status wrong(const std::string& path, const std::string& rule, const std::string& expected,
             const std::string& actual) {
  return {StatusCode::kInvalidArgument,
          path + ": " + rule + ": expected " + expected + ", got " + actual};
}

std::string in_tensor(const std::string& name, const std::string& rule) {
  return "tensor " + quote_text(name) + ": " + rule;
}

Status check_utf8(const std::string& path, const std::string& what, const std::string& text) {
  if (utf8_valid_prefix(text) == text.size()) return {};
  return wrong(path, what, "UTF-8", quote_text(text));
}

std::string json_string(const std::string& text) { return nlohmann::json(text).dump(); }

}  // namespace

// Same key order and spelling as the safetensors package writes.
Result<SafetensorsLayout> lay_out_safetensors(const std::string& path,
                                              const std::vector<SafetensorsDeclaration>& tensors,
                                              const SafetensorsMetadata& metadata) {
  SafetensorsLayout layout;
  std::vector<std::string_view> names;
  for (const auto& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end()) {
    return wrong(path, in_tensor(std::string(*twice), "duplicate name"), "every name once",
                 "it more than once");
  }

  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      HALFBYTE_RETURN_IF_ERROR(check_utf8(path, "__metadata__ key", key));
      HALFBYTE_RETURN_IF_ERROR(check_utf8(path, "__metadata__ value", value));
      if (json.back() != '{') json += ',';
      json += json_string(key) + ":" + json_string(value);
    }
    json += "}";
  }
  std::int64_t offset = 0;
  for (const auto& tensor : tensors) {
    HALFBYTE_RETURN_IF_ERROR(check_utf8(path, "tensor name", tensor.name));
    if (tensor.name == "__metadata__") {
      return wrong(path, "tensor name", "any but the reserved '__metadata__'", "it");
    }
    const Result<std::int64_t> bytes = tensor_bytes(tensor.dtype, tensor.shape);
    if (!bytes.ok()) {
      return Status{StatusCode::kInvalidArgument,
                    path + ": " + in_tensor(tensor.name, bytes.status().message())};
    }
    layout.bytes.push_back(bytes.value());
    const std::int64_t begin = offset;
    layout.begin.push_back(begin);
    if (__builtin_add_overflow(offset, bytes.value(), &offset)) {
      return wrong(path, in_tensor(tensor.name, "end of its bytes"), "at most 2^63 - 1", "more");
    }
    if (json.back() != '{') json += ',';
    json += json_string(tensor.name) + ":{\"dtype\":\"" + std::string(dtype_name(tensor.dtype)) +
            "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i > 0) json += ',';
      json += std::to_string(tensor.shape[i]);
    }
    json += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(offset) + "]}";
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  if (json.size() > kSafetensorsMaxHeaderBytes) {
    return wrong(path, "header", "at most 100000000 bytes", std::to_string(json.size()));
  }
  const std::uint64_t length = json.size();
  layout.header.assign(sizeof(length), '\0');
  std::memcpy(layout.header.data(), &length, sizeof(length));
  layout.header += json;
  const auto header_bytes = static_cast<std::int64_t>(layout.header.size());
  for (std::int64_t& begin : layout.begin) begin += header_bytes;
  if (__builtin_add_overflow(offset, header_bytes, &layout.file_bytes)) {
    return wrong(path, "size of the file", "at most 2^63 - 1 bytes", "more");
  }
  return layout;
}

}  // namespace halfbyte::io
