#include "halfbyte/io/safetensors_index.h"

#include <exception>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "halfbyte/io/utf8.h"

namespace halfbyte::io {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;

constexpr std::size_t kMaxBytes = 100'000'000;
constexpr std::size_t kMaxDepth = 8;

Status refusal(std::string_view file, const std::string& rule, const std::string& expected,
               const std::string& actual) {
  return {StatusCode::kData,
          std::string(file) + ": " + rule + ": expected " + expected + ", got " + actual};
}

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

// Receives the JSON events; keeps the pairs of weight_map, checks the rest and forgets it.
class IndexReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  IndexReader(std::string_view file, SafetensorsIndex* index) : file_(file), index_(index) {}

  const Status& status() const { return status_; }
  bool has_weight_map() const { return has_weight_map_; }

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool binary(binary_t&) override { return scalar("binary"); }
  bool number_integer(number_integer_t) override { return scalar("a number"); }
  bool number_unsigned(number_unsigned_t) override { return scalar("a number"); }
  bool number_float(number_float_t, const string_t&) override { return scalar("a number"); }
  bool string(string_t& value) override {
    if (!in_weight_map()) return scalar("a string");
    if (!is_plain_file_name(value)) {
      return refuse("weight_map of " + quote_text(key_), "the name of a file beside the index",
                    quote_text(value));
    }
    (*index_)[key_] = value;
    return true;
  }
  bool start_object(std::size_t) override {
    if (in_weight_map()) return scalar("an object");
    const bool map = keys_.size() == 1 && key_ == "weight_map";
    if (!open()) return false;
    if (map) map_depth_ = keys_.size();
    has_weight_map_ = has_weight_map_ || map;
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override {
    if (in_weight_map() || keys_.empty()) return scalar("an array");
    if (keys_.size() == 1 && key_ == "weight_map") return scalar("an array");
    return open();
  }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    key_ = value;
    if (keys_.back().insert(value).second) return true;
    return refuse("key " + quote_text(value), "every key once", "it twice");
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return refuse("index", "JSON", "an error at byte " + std::to_string(position));
  }

 private:
  bool in_weight_map() const { return map_depth_ != 0 && keys_.size() == map_depth_; }
  bool refuse(const std::string& rule, const std::string& expected, const std::string& actual) {
    status_ = refusal(file_, rule, expected, actual);
    return false;
  }
  bool scalar(const char* what) {
    if (keys_.empty()) return refuse("index", "an object", what);
    if (in_weight_map()) return refuse("weight_map of " + quote_text(key_), "a string", what);
    if (keys_.size() == 1 && key_ == "weight_map") return refuse("weight_map", "an object", what);
    return true;
  }
  bool open() {
    if (keys_.size() == kMaxDepth) return refuse("nesting", "at most 8 levels", "more");
    keys_.emplace_back();
    return true;
  }
  bool close() {
    if (keys_.size() == map_depth_) map_depth_ = 0;
    keys_.pop_back();
    return true;
  }

  std::string file_;
  SafetensorsIndex* index_;
  Status status_;
  std::vector<std::set<std::string>> keys_;  // seen so far, of every open object (or array)
  std::string key_;                          // the last one
  std::size_t map_depth_ = 0;                // keys_.size() inside weight_map; 0: outside
  bool has_weight_map_ = false;
};

}  // namespace

Result<SafetensorsIndex> parse_safetensors_index(std::string_view text,
                                                 std::string_view file_name) {
  if (text.size() > kMaxBytes) {
    return refusal(file_name, "index", "at most 100000000 bytes", std::to_string(text.size()));
  }
  if (const std::size_t valid = utf8_valid_prefix(text); valid != text.size()) {
    return refusal(file_name, "index", "UTF-8",
                   "an invalid sequence at byte " + std::to_string(valid));
  }
  // The parser skips a byte order mark.
  if (text.starts_with("\xEF\xBB\xBF")) {
    return refusal(file_name, "index", "an object", "a byte order mark");
  }
  SafetensorsIndex index;
  try {
    IndexReader reader(file_name, &index);
    const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
    if (!parsed) return reader.status();
    if (!reader.has_weight_map()) {
      return refusal(file_name, "weight_map", "an object", "none");
    }
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kIo, std::string(file_name) + ": out of memory");
  }
  return index;
}

std::string safetensors_index_json(const SafetensorsIndex& index, std::int64_t total_size) {
  nlohmann::ordered_json json;
  json["metadata"]["total_size"] = total_size;
  json["weight_map"] = nlohmann::ordered_json::object();
  for (const auto& [tensor, file] : index) json["weight_map"][tensor] = file;
  return json.dump(2) + "\n";
}

}  // namespace halfbyte::io
