// The keys of `halfbyte op --set key=value`, checked against an operator's table entry.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/halfbyte/op_table.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

class Settings {
 public:
  // Errors (kInvalidArgument): not key=value, a key the operator does not have, a key twice, a
  // value that is not one of the table's.
  static base::Result<Settings> parse(const OpInfo& op, const std::vector<std::string>& texts);

  // The value given, or the table's default; "" where there is neither. `key` is in the table.
  std::string_view text(std::string_view key) const;
  std::optional<std::int64_t> integer(std::string_view key) const;
  float number(std::string_view key) const;
  bool flag(std::string_view key) const { return text(key) == "1"; }
  // The entry of `names` that the key names; its first where the key has no value.
  template <class T, std::size_t N>
  T choice(std::string_view key, const std::pair<std::string_view, T> (&names)[N]) const {
    for (const auto& [name, value] : names) {
      if (name == text(key)) return value;
    }
    return names[0].second;
  }

 private:
  std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace halfbyte::app
