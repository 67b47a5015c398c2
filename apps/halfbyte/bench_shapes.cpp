#include "apps/halfbyte/bench_shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "apps/halfbyte/bench_shape_sets.h"  // made by CMake of bench/shapes.json
#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/model_files.h"

namespace halfbyte::app {
namespace {

using base::Result;
using base::Status;

using Shapes = std::vector<BenchShape>;

constexpr std::int64_t kMost = std::int64_t{1} << 31;

bool is_extent(std::int64_t value) { return value > 0 && value <= kMost; }

// Two numbers, or three.
bool parse_shape(std::string_view text, BenchShape& shape) {
  shape.inner = 0;
  const char* end = text.data() + text.size();
  const auto rows = std::from_chars(text.data(), end, shape.rows);
  if (rows.ec != std::errc() || rows.ptr == end || *rows.ptr != 'x') return false;
  auto last = std::from_chars(rows.ptr + 1, end, shape.columns);
  if (last.ec == std::errc() && last.ptr != end && *last.ptr == 'x') {
    last = std::from_chars(last.ptr + 1, end, shape.inner);
    if (!is_extent(shape.inner)) return false;
  }
  return last.ec == std::errc() && last.ptr == end && is_extent(shape.rows) &&
         is_extent(shape.columns);
}

Status wrong_entry(const std::string& source, const std::string& entry) {
  return {base::StatusCode::kData,
          source + ": expected \"MxH\", [M, H] or, for a product, \"MxNxK\", got " + entry};
}

// {"m": [..], "h": [..]}: every H of every M.
Result<Shapes> grid_of(const Json& json, const std::string& source) {
  Shapes shapes;
  for (const Json& m : json["m"]) {
    for (const Json& h : json["h"]) {
      if (!m.is_number_integer() || !h.is_number_integer() || !is_extent(m.get<std::int64_t>()) ||
          !is_extent(h.get<std::int64_t>())) {
        return wrong_entry(source, m.dump() + " x " + h.dump());
      }
      shapes.push_back({m.get<std::int64_t>(), h.get<std::int64_t>(), 0});
    }
  }
  return shapes;
}

Result<Shapes> list_of(const Json& json, const std::string& source) {
  Shapes shapes;
  for (const Json& item : json) {
    BenchShape shape;
    const bool pair = item.is_array() && item.size() == 2 && item[0].is_number_integer() &&
                      item[1].is_number_integer();
    const std::string entry =
        pair ? fmt::format("{}x{}", item[0].get<std::int64_t>(), item[1].get<std::int64_t>())
        : item.is_string() ? item.get<std::string>()
                           : item.dump();
    if (!parse_shape(entry, shape)) return wrong_entry(source, entry);
    shapes.push_back(shape);
  }
  return shapes;
}

bool is_grid(const Json& json) {
  return json.is_object() && json.contains("m") && json.contains("h") && json["m"].is_array() &&
         json["h"].is_array();
}

Result<Shapes> shapes_of(Json json, const std::string& source, std::string_view operator_name) {
  for (const std::string_view key : {operator_name, std::string_view("shapes")}) {
    if (json.is_object() && json.contains(key)) json = Json(json[std::string(key)]);
  }
  Result<Shapes> shapes = is_grid(json)     ? grid_of(json, source)
                          : json.is_array() ? list_of(json, source)
                                            : Result<Shapes>(Shapes());
  if (!shapes.ok() || !shapes.value().empty()) return shapes;
  return Status(base::StatusCode::kData, source + ": expected a JSON array of shapes, got none");
}

Json built_in_sets() { return Json::parse(kBenchShapeSets); }

}  // namespace

std::string shape_set_names() {
  std::string names;
  const Json sets = built_in_sets();
  for (const auto& item : sets.items()) names += (names.empty() ? "" : ", ") + item.key();
  return names;
}

namespace {

Result<Shapes> parse_any(const std::string& text, std::string_view operator_name) {
  const Json sets = built_in_sets();
  if (sets.contains(text)) return shapes_of(sets[text], "bench/shapes.json", operator_name);
  Shapes shapes;
  bool list = true;
  for (std::string_view rest = text; !rest.empty() && list;) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    BenchShape shape;
    list = parse_shape(item, shape);
    if (list) shapes.push_back(shape);
  }
  if (list && !shapes.empty()) return shapes;
  const std::string expected =
      "MxH,.. (MxNxK for a product), one of " + shape_set_names() + ", or a file";
  const Result<std::string> file = checkpoint::read_text(text);
  if (text.empty() || !file.ok()) {
    return base::invalid_argument("--shapes", expected, "'" + text + "'");
  }
  return shapes_of(Json::parse(file.value(), nullptr, /*allow_exceptions=*/false), text,
                   operator_name);
}

}  // namespace

Result<Shapes> parse_shapes(const std::string& text, std::string_view operator_name, bool product) {
  Result<Shapes> shapes = parse_any(text, operator_name);
  if (!shapes.ok()) return shapes;
  for (const BenchShape& shape : shapes.value()) {
    if ((shape.inner != 0) == product) continue;
    return base::invalid_argument(
        "--shapes", std::string(product ? "MxNxK" : "MxH") + " for " + std::string(operator_name),
        shape.name());
  }
  return shapes;
}

}  // namespace halfbyte::app
