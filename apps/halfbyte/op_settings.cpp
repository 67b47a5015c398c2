#include "apps/halfbyte/op_settings.h"

#include <algorithm>
#include <charconv>
#include <system_error>

namespace halfbyte::app {
namespace {

using base::invalid_argument;
using base::Status;

template <class T>
bool parse_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool is_member(std::string_view text, std::string_view values) {
  while (true) {
    const std::size_t bar = values.find('|');
    if (values.substr(0, bar) == text) return true;
    if (bar == std::string_view::npos) return false;
    values.remove_prefix(bar + 1);
  }
}

Status check_value(const OpKey& key, const std::string& value) {
  const std::string argument = "--set " + std::string(key.name);
  if (key.values == "INT") {
    std::int64_t number = 0;
    if (parse_number(value, number) && number >= 0) return {};
    return invalid_argument(argument, "an integer >= 0", "'" + value + "'");
  }
  if (key.values == "FLOAT") {
    float number = 0;
    if (parse_number(value, number)) return {};
    return invalid_argument(argument, "a number", "'" + value + "'");
  }
  if (is_member(value, key.values)) return {};
  return invalid_argument(argument, "one of " + std::string(key.values), "'" + value + "'");
}

std::string key_names(const OpInfo& op) {
  std::string names;
  for (const OpKey& key : op.keys) names += (names.empty() ? "" : ", ") + std::string(key.name);
  return names;
}

}  // namespace

base::Result<Settings> Settings::parse(const OpInfo& op, const std::vector<std::string>& texts) {
  Settings settings;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return invalid_argument("--set", "key=value", "'" + text + "'");
    }
    const std::string name = text.substr(0, equals);
    const auto key = std::find_if(op.keys.begin(), op.keys.end(),
                                  [&](const OpKey& known) { return known.name == name; });
    if (key == op.keys.end()) {
      return invalid_argument("--set",
                              "a key of " + std::string(op.name) + " (" + key_names(op) + ")",
                              "'" + name + "'");
    }
    const std::string value = text.substr(equals + 1);
    HALFBYTE_RETURN_IF_ERROR(check_value(*key, value));
    if (!settings.values_.emplace(name, value).second) {
      return invalid_argument("--set", "each key once", "'" + name + "' again");
    }
  }
  for (const OpKey& key : op.keys) {
    if (!key.initial.empty()) settings.values_.emplace(key.name, key.initial);
  }
  return settings;
}

std::string_view Settings::text(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? std::string_view() : std::string_view(found->second);
}

std::optional<std::int64_t> Settings::integer(std::string_view key) const {
  std::int64_t value = 0;
  if (!parse_number(text(key), value)) return std::nullopt;
  return value;
}

float Settings::number(std::string_view key) const {
  float value = 0;
  parse_number(text(key), value);
  return value;
}

}  // namespace halfbyte::app
