// libFuzzer target: every input is a whole safetensors file. fuzz/run.sh builds and runs it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "halfbyte/io/fuzz/safetensors_invariants.h"
#include "halfbyte/io/safetensors_header.h"
#include "halfbyte/io/safetensors_reader.h"

namespace {

using halfbyte::io::SafetensorsEntry;

void require(bool holds) {
  if (!holds) __builtin_trap();  // libFuzzer keeps the input
}

void check(std::span<const std::byte> file) {
  const auto header = halfbyte::io::parse_safetensors_header(file, "fuzz.safetensors");
  if (!header.ok()) {
    const std::string message = header.status().message();
    require(header.status().code() == halfbyte::base::StatusCode::kData);
    require(message.starts_with("fuzz.safetensors: ") && message.size() < 1000);
    require(halfbyte::io::utf8_valid_prefix(message) == message.size());
    return;
  }
  require(halfbyte::io::broken_invariant(header.value(), file).empty());
  for (const SafetensorsEntry& entry : header.value().entries) {
    const auto view = halfbyte::io::as_view(entry);
    if (!view.ok()) continue;
    const auto bytes = static_cast<std::int64_t>(view.value().numel() *
                                                 halfbyte::base::dtype_bytes(view.value().dtype));
    require(bytes == entry.size_bytes() && view.value().is_contiguous());
    volatile std::uint8_t sink = 0;  // every byte of the view is readable
    for (std::int64_t i = 0; i < bytes; ++i) sink = sink ^ view.value().as<std::uint8_t>()[i];
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes);
  check({data, size});
  // Mutations rarely keep the length field right: try again with the header ending at the last
  // brace, so that changes of the JSON reach the rules behind the length.
  constexpr std::size_t kLengthBytes = 8;
  if (size < kLengthBytes) return 0;
  std::vector<std::byte> repaired(data, data + size);
  const auto brace = std::find(repaired.rbegin(), repaired.rend(), std::byte{'}'});
  const auto end = static_cast<std::uint64_t>(repaired.rend() - brace);
  if (end <= kLengthBytes) return 0;
  const std::uint64_t length = end - kLengthBytes;
  std::memcpy(repaired.data(), &length, kLengthBytes);
  check(repaired);
  return 0;
}
