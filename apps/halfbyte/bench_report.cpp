#include "apps/halfbyte/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <string_view>

#include "apps/halfbyte/bench_gemm.h"
#include "halfbyte/base/cpu_level.h"
#include "halfbyte/base/cuda_device.h"

namespace halfbyte::app {
namespace {

using base::Backend;

constexpr std::string_view kCpuMethod =
    "replays of about 1 ms that alternate between operator, unfused path and floor, on buffers "
    "that "
    "rotate over three times the last-level cache; median and minimum of 21; floor: the same bytes "
    "moved, the best of a sweep over threads, stores, chunks";
constexpr std::string_view kCudaMethod =
    "graphs of clamp(20 ms / t, 1, 20) launches on rotating buffers, the L2 emptied before each "
    "replay, timed by events; median and minimum of 11 after 3 warm-ups; floor: the same bytes "
    "moved, the best of a sweep over grids";
constexpr std::string_view kQuickCudaMethod =
    "quick: graphs of clamp(5 ms / t, 1, 20) launches on rotating buffers, the L2 emptied before "
    "each replay, timed by events; median and minimum of 7 after 3 warm-ups; floor: the same bytes "
    "moved, the best of a sweep over grids";

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

std::string cuda_name() {
  const auto devices = base::cuda_devices();
  return devices.ok() && !devices.value().empty() ? devices.value().front().name : "CUDA device";
}

// As it was typed, near enough: arguments that hold spaces are not quoted.
std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  while (!text.empty() && text.back() == '\0') text.pop_back();
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[16] = "";
  (void)std::strftime(text, sizeof(text), "%Y-%m-%d", &utc);
  return text;
}

std::string backend_name(Backend backend) {
  return backend == Backend::kCuda ? "cuda" : backend == Backend::kReference ? "ref" : "cpu";
}

// What every row repeats, so that rows of several runs can be put together.
Json settings_json(const BenchReport& report) {
  const BenchOptions& options = report.options;
  const auto text = [&](const char* option, std::string_view value) {
    return report.op->takes(option) ? Json(value) : Json(nullptr);
  };
  Json json;
  json["backend"] = backend_name(options.backend);
  const bool cuda = options.backend == Backend::kCuda;
  const bool simd = !cuda && options.backend != Backend::kReference;
  json["cpu_level"] =
      simd ? Json(base::cpu_level_name(options.cpu_level.value_or(base::default_cpu_level())))
           : Json(nullptr);
  json["threads"] = cuda ? Json(nullptr) : Json(resolved_threads(options.num_threads));
  json["format"] = text("--format", formats::format_name(options.spec.format));
  json["layout"] = text("--layout", formats::layout_name(options.spec.layout));
  json["second_layout"] = options.spec.second_layout
                              ? Json(formats::layout_name(*options.spec.second_layout))
                              : Json(nullptr);
  json["scale"] = text("--scale", formats::scale_mode_name(options.spec.scale));
  json["normed"] = report.op->takes("--normed") ? Json(options.normed) : Json(nullptr);
  json["head_dim"] = options.head_dim != 0 ? Json(options.head_dim) : Json(nullptr);
  json["style"] = text("--style", options.gptj ? "gptj" : "neox");
  json["interleave"] = report.op->takes("--interleave") ? Json(options.interleave) : Json(nullptr);
  json["activations"] = text("--activations", options.activations16 ? "16bit" : "fp4");
  json["weights"] = text(
      "--weights", bench_weights(options) == ops::WeightForm::kPrepared ? "prepared" : "plain");
  json["plan"] = text("--plan", bench_plan_name(options.plan));
  json["per"] = text("--per", options.per_row ? "row" : "tensor");
  return json;
}

Json row_json(const BenchRow& row, const Json& settings) {
  const BenchTiming& t = row.timing;
  Json json = {{"name", row.name},
               {"m", row.shape.rows},
               {"h", row.shape.columns},
               {"k", row.shape.inner != 0 ? Json(row.shape.inner) : Json(nullptr)},
               {"dtype", base::dtype_name(row.dtype)},
               {"residual", row.residual}};
  json.update(settings);
  json["fused_us"] = t.fused.median_us;
  json["unfused_us"] = t.unfused ? Json(t.unfused->median_us) : Json(nullptr);
  json["floor_us"] = t.floor.median_us;
  json["fused_min_us"] = t.fused.min_us;
  json["unfused_min_us"] = t.unfused ? Json(t.unfused->min_us) : Json(nullptr);
  json["floor_min_us"] = t.floor.min_us;
  json["floor"] = t.floor_variant;
  json["ratio"] = t.ratio();
  json["ratio_min"] = t.ratio_min();
  json["bytes"] = t.bytes();
  json["bytes_read"] = t.bytes_read;
  json["bytes_written"] = t.bytes_written;
  json["gb_per_s"] = t.gb_per_s();
  json["bits_equal"] = t.bits_equal;
  json["checked_reference"] = t.rows_referenced == row.shape.rows;
  json["rows_referenced"] = t.rows_referenced;
  return json;
}

}  // namespace

bool BenchReport::bits_equal() const {
  return std::all_of(rows.begin(), rows.end(),
                     [](const BenchRow& row) { return row.timing.bits_equal; });
}

void BenchReport::print() const {
  const bool unfused = std::any_of(
      rows.begin(), rows.end(), [](const BenchRow& row) { return row.timing.unfused.has_value(); });
  std::vector<std::string> header = {model.empty() ? "shape" : "norm"};
  if (!model.empty()) header.insert(header.end(), {"M x H", "residual"});
  header.emplace_back(unfused ? "fused µs" : "µs");
  header.emplace_back("min µs");
  if (unfused) header.insert(header.end(), {"unfused µs", "speedup"});
  header.insert(header.end(), {"floor µs", "ratio", "GB/s", "bits equal"});
  Table table(header);
  for (const BenchRow& row : rows) {
    const BenchTiming& t = row.timing;
    std::vector<std::string> cells = {row.name};
    if (!model.empty()) {
      cells.push_back(fmt::format("{}x{}", row.shape.rows, row.shape.columns));
      cells.emplace_back(row.residual ? "yes" : "no");
    }
    cells.push_back(fmt::format("{:.2f}", t.fused.median_us));
    cells.push_back(fmt::format("{:.2f}", t.fused.min_us));
    if (unfused) {
      cells.push_back(t.unfused ? fmt::format("{:.2f}", t.unfused->median_us) : "-");
      cells.push_back(t.unfused ? fmt::format("{:.2f}", t.unfused->median_us / t.fused.median_us)
                                : "-");
    }
    cells.push_back(fmt::format("{:.2f}", t.floor.median_us));
    cells.push_back(fmt::format("{:.2f}", t.ratio()));
    cells.push_back(fmt::format("{:.1f}", t.gb_per_s()));
    cells.emplace_back(t.bits_equal ? "yes" : "NO");
    table.add(cells);
  }
  table.print(stdout);
}

Json BenchReport::json() const {
  const bool cuda = options.backend == Backend::kCuda;
  const Json settings = settings_json(*this);
  Json json = report_json();
  json["op"] = op->name;
  json["device"] = cuda ? cuda_name() : cpu_name();
  json["date"] = today();
  json["command"] = command_line();
  json["method"] = !cuda ? kCpuMethod : options.quick ? kQuickCudaMethod : kCudaMethod;
  if (!model.empty()) json["model"] = model;
  json.update(settings);
  json["rows"] = Json::array();
  for (const BenchRow& row : rows) json["rows"].push_back(row_json(row, settings));
  return json;
}

}  // namespace halfbyte::app
