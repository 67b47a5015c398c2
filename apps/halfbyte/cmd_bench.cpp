// halfbyte bench OP: time against the unfused path and the streaming floor.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/halfbyte/bench_case.h"
#include "apps/halfbyte/bench_model.h"
#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/base/cpu_level.h"
#include "halfbyte/checkpoint/output_folder.h"
#include "halfbyte/numerics/half_types.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Result;
using base::Status;

constexpr std::string_view kOperator = "rmsnorm_quantize";
constexpr const char* kDefaultShapes = "1x4096,16x4096,128x4096,1024x4096,1024x8192";

struct Options {
  std::string op, shapes = kDefaultShapes, model, json;
  std::string backend = "auto", format = "nvfp4", layout = "linear", dtype = "bf16";
  bool residual = false;
  int threads = 0;
};

struct Shape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

struct Row {
  std::string name;
  std::int64_t rows, columns;
  bool residual;
  NormTiming timing;
};

bool parse_shape(std::string_view text, Shape& shape) {
  const char* end = text.data() + text.size();
  const auto rows = std::from_chars(text.data(), end, shape.rows);
  if (rows.ec != std::errc() || rows.ptr == end || *rows.ptr != 'x') return false;
  const auto columns = std::from_chars(rows.ptr + 1, end, shape.columns);
  constexpr std::int64_t kMost = std::int64_t{1} << 31;
  return columns.ec == std::errc() && columns.ptr == end && shape.rows > 0 && shape.columns > 0 &&
         shape.rows <= kMost && shape.columns <= kMost;
}

// A JSON array of "MxH" or [M, H], or an object that holds one under the operator's name or
// "shapes".
Result<std::vector<Shape>> shapes_of_file(const std::string& path) {
  const Result<std::string> text = checkpoint::read_text(path);
  if (!text.ok()) return base::invalid_argument("--shapes", "MxH,.. or a file", "'" + path + "'");
  Json json = Json::parse(text.value(), nullptr, /*allow_exceptions=*/false);
  for (const std::string_view key : {kOperator, std::string_view("shapes")}) {
    if (json.is_object() && json.contains(key)) json = Json(json[std::string(key)]);
  }
  std::vector<Shape> shapes;
  for (const Json& item : json.is_array() ? json : Json::array()) {
    Shape shape;
    const bool pair = item.is_array() && item.size() == 2 && item[0].is_number_integer() &&
                      item[1].is_number_integer();
    const std::string entry =
        pair ? fmt::format("{}x{}", item[0].get<std::int64_t>(), item[1].get<std::int64_t>())
        : item.is_string() ? item.get<std::string>()
                           : item.dump();
    if (!parse_shape(entry, shape)) {
      return Status(base::StatusCode::kData, path + ": expected \"MxH\" or [M, H], got " + entry);
    }
    shapes.push_back(shape);
  }
  if (!shapes.empty()) return shapes;
  return Status(base::StatusCode::kData, path + ": expected a JSON array of shapes, got none");
}

Result<std::vector<Shape>> parse_shapes(const std::string& text) {
  std::vector<Shape> shapes;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    Shape shape;
    if (!parse_shape(item, shape)) return shapes_of_file(text);
    shapes.push_back(shape);
  }
  if (shapes.empty()) return base::invalid_argument("--shapes", "MxH,.. or a file", "''");
  return shapes;
}

// Normally distributed values around `mean`, the same in every run.
Result<OwnedTensor> random_tensor(DType dtype, const std::vector<std::int64_t>& shape, float mean,
                                  unsigned seed) {
  Result<OwnedTensor> tensor = OwnedTensor::create(dtype, shape, kHost);
  if (!tensor.ok()) return tensor;
  const base::TensorView& view = tensor.value().view();
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean, mean == 0.0f ? 1.0f : 0.1f);
  for (std::int64_t i = 0; i < view.numel(); ++i) {
    const float value = normal(generator);
    if (dtype == DType::kBF16) {
      view.as<numerics::Bf16>()[i] = numerics::bf16_from_float(value);
    } else if (dtype == DType::kF16) {
      view.as<numerics::Fp16>()[i] = numerics::fp16_from_float(value);
    } else {
      view.as<float>()[i] = value;
    }
  }
  return tensor;
}

NormCase case_of(const Options& options) {
  NormCase c;
  c.spec.format = options.format == "nvfp4"   ? formats::Format::kNvfp4
                  : options.format == "mxfp4" ? formats::Format::kMxfp4
                                              : formats::Format::kFp8;
  c.spec.layout = options.layout == "linear"  ? formats::ScaleLayout::kLinear
                  : options.layout == "128x4" ? formats::ScaleLayout::k128x4
                                              : formats::ScaleLayout::k8x4;
  c.backend = options.backend == "ref"    ? base::Backend::kReference
              : options.backend == "cpu"  ? base::Backend::kCpu
              : options.backend == "cuda" ? base::Backend::kCuda
                                          : base::Backend::kAuto;
  c.num_threads = options.threads;
  return c;
}

Status measure_shapes(const Options& options, std::vector<Row>& rows) {
  const Result<std::vector<Shape>> shapes = parse_shapes(options.shapes);
  if (!shapes.ok()) return shapes.status();
  const DType dtype = options.dtype == "bf16"   ? DType::kBF16
                      : options.dtype == "fp16" ? DType::kF16
                                                : DType::kF32;
  ProgressBar bar("bench");
  const auto total = static_cast<std::int64_t>(shapes.value().size());
  for (const auto& [m, h] : shapes.value()) {
    bar.update(static_cast<std::int64_t>(rows.size()), total);
    const Result<OwnedTensor> x = random_tensor(dtype, {m, h}, 0.0f, 1);
    const Result<OwnedTensor> weight = random_tensor(dtype, {h}, 1.0f, 2);
    const Result<OwnedTensor> residual =
        random_tensor(dtype, {options.residual ? m : 0, h}, 0.0f, 3);
    for (const auto* tensor : {&x, &weight, &residual}) {
      HALFBYTE_RETURN_IF_ERROR(tensor->status());
    }
    NormCase c = case_of(options);
    c.x = x.value().view();
    c.weight = weight.value().view();
    if (options.residual) c.residual = residual.value().view();
    const Result<NormTiming> timing = measure_norm_quantize(c);
    if (!timing.ok()) return timing.status();
    rows.push_back({fmt::format("{}x{}", m, h), m, h, options.residual, timing.value()});
  }
  return {};
}

Status measure_model(const Options& options, std::vector<Row>& rows) {
  const Result<ModelNorms> model = load_model_norms(options.model);
  if (!model.ok()) return model.status();
  ProgressBar bar("bench");
  const auto total = static_cast<std::int64_t>(model.value().norms.size());
  for (const ModelNorm& norm : model.value().norms) {
    bar.update(static_cast<std::int64_t>(rows.size()), total);
    NormCase c = case_of(options);
    c.x = norm.x.view();
    c.residual = norm.residual.view();
    c.weight = norm.weight.view();
    c.eps = model.value().eps;
    const Result<NormTiming> timing = measure_norm_quantize(c);
    if (!timing.ok()) return {timing.status().code(), norm.name + ": " + timing.status().message()};
    rows.push_back({norm.name, c.x.shape[0], c.x.shape[1], c.residual.given, timing.value()});
  }
  return {};
}

void print_rows(const Options& options, const std::vector<Row>& rows) {
  const bool model = !options.model.empty();
  Table table({model ? "norm" : "shape", "M x H", "residual", "fused µs", "unfused µs", "speedup",
               "floor µs", "ratio", "GB/s", "bits equal"});
  for (const Row& row : rows) {
    const NormTiming& t = row.timing;
    table.add({row.name, fmt::format("{}x{}", row.rows, row.columns), row.residual ? "yes" : "no",
               fmt::format("{:.2f}", t.fused_us), fmt::format("{:.2f}", t.unfused_us),
               fmt::format("{:.2f}", t.unfused_us / t.fused_us),
               t.floor_us ? fmt::format("{:.2f}", *t.floor_us) : "-",
               t.ratio() ? fmt::format("{:.2f}", *t.ratio()) : "-",
               fmt::format("{:.1f}", t.gb_per_s()), t.bits_equal ? "yes" : "NO"});
  }
  table.print(stdout);
}

Json rows_json(const Options& options, const std::vector<Row>& rows) {
  Json json = report_json();
  json["op"] = options.op;
  json["backend"] = options.backend;
  json["cpu_level"] = base::cpu_level_name(base::default_cpu_level());
  json["threads"] = resolved_threads(options.threads);
  json["format"] = options.format;
  json["layout"] = options.layout;
  if (options.model.empty()) {
    json["dtype"] = options.dtype;
  } else {
    json["model"] = options.model;
  }
  json["rows"] = Json::array();
  for (const Row& row : rows) {
    const NormTiming& t = row.timing;
    json["rows"].push_back({{"name", row.name},
                            {"m", row.rows},
                            {"h", row.columns},
                            {"residual", row.residual},
                            {"fused_us", t.fused_us},
                            {"unfused_us", t.unfused_us},
                            {"floor_us", t.floor_us ? Json(*t.floor_us) : Json(nullptr)},
                            {"ratio", t.ratio() ? Json(*t.ratio()) : Json(nullptr)},
                            {"bytes", t.bytes},
                            {"gb_per_s", t.gb_per_s()},
                            {"bits_equal", t.bits_equal},
                            {"checked_reference", t.checked_reference}});
  }
  return json;
}

ExitCode run(const Options& options) {
  if (options.op != kOperator) {
    return print_error(base::invalid_argument("OP",
                                              std::string(kOperator) + " (others are not in "
                                                                       "this build yet)",
                                              "'" + options.op + "'"));
  }
  if (options.backend == "cuda") {
    if (const Status cuda = require_cuda(); !cuda.ok()) {
      return print_error(exit_code(cuda), "--backend cuda: " + cuda.message());
    }
  }
  std::vector<Row> rows;
  const Status status =
      options.model.empty() ? measure_shapes(options, rows) : measure_model(options, rows);
  if (!status.ok()) return print_error(status);
  if (options.json != "-") print_rows(options, rows);
  if (options.json == "-") {
    fmt::print("{}", json_text(rows_json(options, rows)));
  } else if (!options.json.empty()) {
    const Status written = write_text_file(options.json, json_text(rows_json(options, rows)));
    if (!written.ok()) return print_error(written);
  }
  const bool equal =
      std::all_of(rows.begin(), rows.end(), [](const Row& row) { return row.timing.bits_equal; });
  return equal ? kExitOk : print_error(kExitData, "fused and unfused results differ");
}

}  // namespace

Command add_bench(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "bench", "Time an operator against the unfused path and the streaming floor");
  parser->add_option("OP", options->op, std::string(kOperator))->required();
  CLI::Option* shapes =
      parser->add_option("--shapes", options->shapes,
                         fmt::format("MxH,.. or a JSON file (default {})", kDefaultShapes));
  CLI::Option* residual =
      parser->add_flag("--residual", options->residual, "add a residual before the norm");
  CLI::Option* dtype = parser->add_option("--dtype", options->dtype, "bf16 (default), fp16 or fp32")
                           ->check(CLI::IsMember({"bf16", "fp16", "fp32"}));
  parser
      ->add_option("--model", options->model,
                   "a model folder: its norms, on what they saw (activations.safetensors)")
      ->excludes(shapes)
      ->excludes(residual)
      ->excludes(dtype);
  parser->add_option("--backend", options->backend, "auto (default: the CPU), ref, cpu or cuda")
      ->check(CLI::IsMember({"auto", "ref", "cpu", "cuda"}));
  parser->add_option("--format", options->format, "nvfp4 (default), mxfp4 or fp8")
      ->check(CLI::IsMember({"nvfp4", "mxfp4", "fp8"}));
  parser->add_option("--layout", options->layout, "of the scales: linear (default), 128x4 or 8x4")
      ->check(CLI::IsMember({"linear", "128x4", "8x4"}));
  parser->add_option("-j,--threads", options->threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, 4096));
  parser->add_option("--json", options->json,
                     "also write the figures to a file; - for stdout only");
  parser->footer(
      "Medians on cold buffers; floor: the same bytes moved without arithmetic; ratio: fused over "
      "floor.\nExample:\n  halfbyte bench rmsnorm_quantize --shapes 16x4096,1024x4096 --residual");
  return {parser, [options] { return run(*options); }};
}

}  // namespace halfbyte::app
