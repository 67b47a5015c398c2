// libFuzzer target: every input is the text of a model.safetensors.index.json. fuzz/run.sh builds
// and runs it.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "halfbyte/io/safetensors_index.h"
#include "halfbyte/io/utf8.h"

namespace {

void require(bool holds) {
  if (!holds) __builtin_trap();  // libFuzzer keeps the input
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  namespace io = halfbyte::io;
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  const auto index = io::parse_safetensors_index(text, "fuzz.index.json");
  if (!index.ok()) {
    const std::string message = index.status().message();
    require(index.status().code() == halfbyte::base::StatusCode::kData);
    require(message.starts_with("fuzz.index.json: ") && message.size() < 1000);
    require(io::utf8_valid_prefix(message) == message.size());
    return 0;
  }
  for (const auto& [tensor, file] : index.value()) {
    require(io::utf8_valid_prefix(tensor) == tensor.size());
    require(!file.empty() && file != "." && file != "..");
    require(file.find('/') == std::string::npos && file.find('\0') == std::string::npos);
  }
  // What was accepted is written so that it reads back the same.
  const auto again = io::parse_safetensors_index(
      io::safetensors_index_json(index.value(), static_cast<std::int64_t>(size)), "again");
  require(again.ok() && again.value() == index.value());
  return 0;
}
