#include "halfbyte/io/safetensors_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>

#include "halfbyte/io/utf8.h"

namespace halfbyte::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensors are little-endian in the file and are not swapped");

using base::Result;
using base::Status;
using base::StatusCode;

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

std::string file_rule(std::string_view file_name, std::string_view rule) {
  return std::string(file_name) + ": " + std::string(rule);
}

std::string tensor_rule(std::string_view file_name, std::string_view tensor,
                        std::string_view rule) {
  return std::string(file_name) + ": tensor " + quote_text(tensor) + ": " + std::string(rule);
}

Status refusal(const std::string& rule, const std::string& expected, const std::string& actual) {
  return {StatusCode::kData, rule + ": expected " + expected + ", got " + actual};
}

// Receives the JSON events of a header and is itself the grammar: `at_` says which event may come
// next, everything else is refused on the spot. Nothing is stored for what is refused, so a
// nesting bomb ends at its first bracket.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(std::string_view file_name, SafetensorsHeader* header)
      : file_name_(file_name), header_(header) {}

  const Status& status() const { return status_; }

  bool null() override { return wrong_type("null"); }
  bool boolean(bool value) override { return wrong_type(value ? "true" : "false"); }
  bool binary(binary_t&) override { return wrong_type("binary"); }
  // nlohmann calls this for negative integers only ("-0" is one).
  bool number_integer(number_integer_t value) override {
    return wrong_type("a negative number, " + std::to_string(value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    const bool integer = text.find_first_of(".eE") == string_t::npos;
    return wrong_type((integer ? "an integer out of range, " : "a fractional number, ") +
                      quote_text(text));
  }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool start_object(std::size_t) override;
  bool key(string_t& value) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override;

 private:
  // The place in the grammar, named after the event that comes next.
  enum class At {
    kRoot,           // {
    kName,           // a tensor name, __metadata__ or the root's }
    kTensor,         // {
    kField,          // dtype, shape, data_offsets or the tensor's }
    kDType,          // string
    kShape,          // [
    kDimension,      // number or ]
    kOffsets,        // [
    kOffset,         // number or ]
    kMetadata,       // {
    kMetadataKey,    // key or }
    kMetadataValue,  // string
    kEnd,            // nothing
  };

  // The place a message names: the file, and the tensor while inside one.
  std::string in_place(std::string_view rule) const {
    const bool in_tensor = at_ >= At::kTensor && at_ <= At::kOffset;
    return in_tensor ? tensor_rule(file_name_, entry_.name, rule) : file_rule(file_name_, rule);
  }
  bool refuse(const std::string& rule, const std::string& expected, const std::string& actual) {
    status_ = refusal(in_place(rule), expected, actual);
    return false;
  }
  bool wrong_type(const std::string& actual);
  bool field(std::string_view name, bool* seen, At next);
  bool finish_tensor();

  std::string file_name_;
  SafetensorsHeader* header_;
  Status status_;
  At at_ = At::kRoot;
  SafetensorsEntry entry_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  int offsets_ = 0;
  bool has_metadata_ = false;
  std::string metadata_key_;
};

bool HeaderReader::wrong_type(const std::string& actual) {
  constexpr const char* kInteger = "an integer in [0, 2^63 - 1]";
  switch (at_) {
    case At::kRoot:
      return refuse("header", "an object", actual);
    case At::kTensor:
      return refuse("type", "an object with dtype, shape and data_offsets", actual);
    case At::kDType:
      return refuse("dtype", "a string", actual);
    case At::kShape:
      return refuse("shape", "an array of integers", actual);
    case At::kDimension:
      return refuse("shape", kInteger, actual);
    case At::kOffsets:
      return refuse("data_offsets", "an array of two integers", actual);
    case At::kOffset:
      return refuse("data_offsets", kInteger, actual);
    case At::kMetadata:
      return refuse("__metadata__", "an object of strings", actual);
    case At::kMetadataValue:
      return refuse("__metadata__: value of " + quote_text(metadata_key_), "a string", actual);
    case At::kName:
    case At::kField:
    case At::kMetadataKey:
    case At::kEnd:
      break;
  }
  return refuse("header is not JSON", "a key", actual);
}

bool HeaderReader::number_unsigned(number_unsigned_t value) {
  if ((at_ != At::kDimension && at_ != At::kOffset) || value > static_cast<std::uint64_t>(kMax)) {
    return wrong_type(std::to_string(value));
  }
  const auto number = static_cast<std::int64_t>(value);
  if (at_ == At::kDimension) {
    entry_.shape.push_back(number);
    return true;
  }
  if (offsets_ == 2) return refuse("data_offsets", "two integers", "three or more");
  (offsets_ == 0 ? entry_.begin : entry_.end) = number;
  ++offsets_;
  return true;
}

bool HeaderReader::string(string_t& value) {
  if (at_ == At::kMetadataValue) {
    if (!header_->metadata.emplace(metadata_key_, value).second) {
      return refuse("__metadata__: duplicate key", "every key once",
                    quote_text(metadata_key_) + " again");
    }
    at_ = At::kMetadataKey;
    return true;
  }
  if (at_ != At::kDType) return wrong_type("the string " + quote_text(value));
  const std::optional<SafetensorsDType> dtype = parse_dtype(value);
  if (!dtype)
    return refuse("unknown dtype", "a type of the format, such as BF16", quote_text(value));
  entry_.dtype = *dtype;
  at_ = At::kField;
  return true;
}

bool HeaderReader::start_object(std::size_t) {
  switch (at_) {
    case At::kRoot:
      at_ = At::kName;
      return true;
    case At::kTensor:
      at_ = At::kField;
      return true;
    case At::kMetadata:
      at_ = At::kMetadataKey;
      return true;
    default:
      return wrong_type("an object");
  }
}

bool HeaderReader::key(string_t& value) {
  if (at_ == At::kMetadataKey) {
    metadata_key_ = value;
    at_ = At::kMetadataValue;
    return true;
  }
  if (at_ == At::kName) {
    if (value == "__metadata__") {
      if (has_metadata_) return refuse("duplicate key", "every key once", "'__metadata__' again");
      has_metadata_ = true;
      at_ = At::kMetadata;
      return true;
    }
    // A duplicate name is found after the last event, by sorting.
    entry_ = SafetensorsEntry{};
    entry_.name = value;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    offsets_ = 0;
    at_ = At::kTensor;
    return true;
  }
  if (value == "dtype") return field(value, &has_dtype_, At::kDType);
  if (value == "shape") return field(value, &has_shape_, At::kShape);
  if (value == "data_offsets") return field(value, &has_offsets_, At::kOffsets);
  return refuse("unknown field", "dtype, shape and data_offsets only", quote_text(value));
}

bool HeaderReader::field(std::string_view name, bool* seen, At next) {
  if (*seen) return refuse("duplicate field", "every field once", quote_text(name) + " again");
  *seen = true;
  at_ = next;
  return true;
}

bool HeaderReader::end_object() {
  if (at_ == At::kField) return finish_tensor();
  at_ = at_ == At::kMetadataKey ? At::kName : At::kEnd;
  return true;
}

bool HeaderReader::start_array(std::size_t) {
  if (at_ != At::kShape && at_ != At::kOffsets) return wrong_type("an array");
  at_ = at_ == At::kShape ? At::kDimension : At::kOffset;
  return true;
}

bool HeaderReader::end_array() {
  if (at_ == At::kOffset && offsets_ != 2) {
    return refuse("data_offsets", "two integers", offsets_ == 0 ? "none" : "one");
  }
  at_ = At::kField;
  return true;
}

bool HeaderReader::finish_tensor() {
  for (const auto& [seen, name] : {std::pair(has_dtype_, "dtype"), std::pair(has_shape_, "shape"),
                                   std::pair(has_offsets_, "data_offsets")}) {
    if (!seen) return refuse("missing field", name, "none");
  }
  const std::string type =
      "shape " + short_shape(entry_.shape) + " of " + std::string(dtype_name(entry_.dtype));
  const Result<std::int64_t> bytes = tensor_bytes(entry_.dtype, entry_.shape);
  if (!bytes.ok()) {
    status_ = {StatusCode::kData, in_place(type + ": " + bytes.status().message())};
    return false;
  }
  const std::string range =
      "[" + std::to_string(entry_.begin) + ", " + std::to_string(entry_.end) + ")";
  if (entry_.begin > entry_.end) return refuse("data_offsets", "begin <= end", range);
  if (bytes.value() != entry_.size_bytes()) {
    return refuse("size", std::to_string(bytes.value()) + " bytes for " + type,
                  std::to_string(entry_.size_bytes()) + " in data_offsets " + range);
  }
  if (header_->entries.size() >= std::numeric_limits<std::uint32_t>::max()) {
    return refuse("tensors", "fewer than 2^32", "more");
  }
  header_->entries.push_back(std::move(entry_));
  at_ = At::kName;
  return true;
}

bool HeaderReader::parse_error(std::size_t position, const std::string& last_token,
                               const nlohmann::detail::exception& error) {
  constexpr int kNumberOverflow = 406;
  if (error.id == kNumberOverflow)
    return wrong_type("a number out of range, " + quote_text(last_token));
  // "[json.exception.parse_error.101] parse error at line 1, column 5: what went wrong; last read:
  // 'everything since the last token'", which may be as long as the header.
  std::string_view what = error.what();
  if (const auto start = what.find(": "); start != what.npos) what.remove_prefix(start + 2);
  if (const auto end = what.find("; last read"); end != what.npos) what = what.substr(0, end);
  status_ = {StatusCode::kData, in_place("header is not JSON: byte " + std::to_string(position) +
                                         ": " + quote_text(what))};
  return false;
}

// Checks what only the whole header can tell: names, and that the ranges tile the data section.
Status check_layout(std::string_view file_name, std::span<const std::byte> data,
                    SafetensorsHeader* header) {
  auto& entries = header->entries;
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  auto& order = header->name_order;
  order.resize(entries.size());
  std::iota(order.begin(), order.end(), 0U);
  // Sorting instead of hashing: a file made of colliding names costs no more than any other.
  std::sort(order.begin(), order.end(),
            [&](auto a, auto b) { return entries[a].name < entries[b].name; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::string& name = entries[order[i]].name;
    if (name == entries[order[i - 1]].name) {
      return refusal(tensor_rule(file_name, name, "duplicate key"), "every name once",
                     "it more than once");
    }
  }
  const auto data_bytes = static_cast<std::int64_t>(data.size());
  std::int64_t next = 0;
  for (SafetensorsEntry& entry : entries) {
    if (entry.begin != next) {
      const char* rule = next == 0            ? "the first range starts after 0"
                         : entry.begin < next ? "ranges overlap"
                                              : "ranges leave a hole";
      return refusal(tensor_rule(file_name, entry.name, rule),
                     "data_offsets to begin at " + std::to_string(next),
                     std::to_string(entry.begin));
    }
    if (entry.end > data_bytes) {
      return refusal(tensor_rule(file_name, entry.name, "range past the end of the file"),
                     "data_offsets to end within " + std::to_string(data_bytes) + " bytes of data",
                     std::to_string(entry.end));
    }
    entry.data = data.data() + entry.begin;
    next = entry.end;
  }
  if (next != data_bytes) {
    return refusal(file_rule(file_name, "trailing bytes"),
                   std::to_string(next) + " bytes of data, as the header says",
                   std::to_string(data_bytes));
  }
  return {};
}

}  // namespace

const SafetensorsEntry* SafetensorsHeader::find(std::string_view name) const {
  const auto at =
      std::lower_bound(name_order.begin(), name_order.end(), name,
                       [&](auto index, std::string_view n) { return entries[index].name < n; });
  return at != name_order.end() && entries[*at].name == name ? &entries[*at] : nullptr;
}

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file,
                                                   std::string_view file_name) {
  constexpr std::size_t kLengthBytes = 8;
  if (file.size() < kLengthBytes) {
    return refusal(file_rule(file_name, "file too short"), "at least 8 bytes",
                   std::to_string(file.size()));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length < 2 || length > kSafetensorsMaxHeaderBytes) {
    return refusal(file_rule(file_name, "header length"), "2 to 100000000 bytes",
                   std::to_string(length));
  }
  if (length > file.size() - kLengthBytes) {
    return refusal(file_rule(file_name, "header length past the end of the file"),
                   "at most " + std::to_string(file.size() - kLengthBytes) + " bytes",
                   std::to_string(length));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (text[0] != '{') {
    return refusal(file_rule(file_name, "header start"), "'{'", quote_text(text.substr(0, 1)));
  }
  if (const std::size_t valid = utf8_valid_prefix(text); valid != text.size()) {
    return refusal(file_rule(file_name, "header is not UTF-8"), "valid UTF-8",
                   quote_text(text.substr(valid, 1)) + " at byte " + std::to_string(valid));
  }
  // nlohmann takes a NUL byte for the end of the input, and would accept anything behind it.
  if (const std::size_t nul = text.find('\0'); nul != text.npos) {
    return refusal(file_rule(file_name, "header is not JSON"), "no NUL byte",
                   "one at byte " + std::to_string(nul));
  }
  try {
    SafetensorsHeader header;
    header.data_offset = static_cast<std::int64_t>(kLengthBytes + length);
    HeaderReader reader(file_name, &header);
    if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) return reader.status();
    HALFBYTE_RETURN_IF_ERROR(check_layout(file_name, file.subspan(kLengthBytes + length), &header));
    return header;
  } catch (const std::exception& error) {  // std::bad_alloc: the header decides how much we ask for
    return Status{StatusCode::kIo, file_rule(file_name, "header: ") + error.what()};
  }
}

}  // namespace halfbyte::io
