// halfbyte inspect PATH: what a checkpoint holds, and what is suspicious.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfbyte/checkpoint_output.h"
#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/inspect_checkpoint.h"

namespace halfbyte::app {
namespace {

using checkpoint::Finding;
using checkpoint::InspectedWeight;
using checkpoint::InspectReport;
using checkpoint::Severity;

struct Options {
  std::string path;
  bool full = false;
  bool all = false;
  bool json = false;
};

const char* severity_name(Severity severity) {
  return severity == Severity::kWarning ? "warning" : "note";
}

double share(std::int64_t part, std::int64_t all) {
  return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
}

Json weight_json(const InspectedWeight& weight) {
  Json json = {{"weight", weight.name},
               {"format", formats::format_name(weight.format)},
               {"convention", checkpoint::convention_name(weight.convention)},
               {"shape", weight.shape}};
  if (weight.has_global_scale) json["global_scale"] = number_or_null(weight.global_scale);
  if (weight.has_input_scale) json["input_scale"] = number_or_null(weight.input_scale);
  const auto& scales = weight.scales;
  json["sampled_blocks"] = scales.blocks;
  json["nan_scales"] = scales.nan;
  json["zero_scales"] = scales.zero;
  json["saturated_scales"] = scales.saturated;
  if (scales.max_byte >= scales.min_byte) json["scale_bytes"] = {scales.min_byte, scales.max_byte};
  return json;
}

Json json_of(const InspectReport& report, const Options& options, const Meter& meter) {
  Json json = report_json();
  json["path"] = options.path;
  json["shards"] = report.shards;
  json["tensors"] = report.tensors;
  json["bytes"] = report.bytes;
  json["declared"] = report.declaration.declared
                         ? Json({{"method", report.declaration.method},
                                 {"algorithm", report.declaration.algorithm},
                                 {"activations", report.declaration.activations},
                                 {"ignore", report.declaration.ignore}})
                         : Json(nullptr);
  json["formats"] = Json::object();
  for (const auto& [name, totals] : report.formats) {
    json["formats"][name] = {{"tensors", totals.tensors}, {"bytes", totals.bytes}};
  }
  json["sampled_blocks"] = report.sampled_blocks;
  json["total_blocks"] = report.total_blocks;
  json["findings"] = Json::array();
  for (const Finding& finding : report.findings) {
    json["findings"].push_back({{"kind", finding.kind},
                                {"severity", severity_name(finding.severity)},
                                {"message", finding.message},
                                {"tensors", finding.tensors}});
  }
  json["weights"] = Json::array();
  for (const InspectedWeight& weight : report.weights) {
    json["weights"].push_back(weight_json(weight));
  }
  meter.add_to(json, report.bytes);
  return json;
}

void print_weights(const InspectReport& report, bool all) {
  constexpr std::size_t kShown = 20;
  if (report.weights.empty()) return;
  const std::size_t shown = all ? report.weights.size() : std::min(kShown, report.weights.size());
  Table table(
      {"weight", "format", "shape", "global scale", "input scale", "zero scales", "scales"});
  for (std::size_t i = 0; i < shown; ++i) {
    const InspectedWeight& weight = report.weights[i];
    std::string shape;
    for (const std::int64_t dim : weight.shape)
      shape += fmt::format("{}{}", shape.empty() ? "" : "x", dim);
    const auto& scales = weight.scales;
    table.add({weight.name, formats::format_name(weight.format), shape,
               weight.has_global_scale ? fmt::format("{:.4g}", weight.global_scale) : "-",
               weight.has_input_scale ? fmt::format("{:.4g}", weight.input_scale) : "-",
               fmt::format("{:.3f} %", 100 * share(scales.zero, scales.blocks)),
               scales.max_byte >= scales.min_byte
                   ? fmt::format("0x{:02x}..0x{:02x}", scales.min_byte, scales.max_byte)
                   : "-"});
  }
  table.print(stdout);
  if (shown < report.weights.size()) {
    fmt::print("{} more (--all lists them)\n", report.weights.size() - shown);
  }
  fmt::print("\n");
}

void print_findings(const InspectReport& report) {
  constexpr std::size_t kNames = 3;
  for (const Finding& finding : report.findings) {
    std::string names;
    for (std::size_t i = 0; i < std::min(kNames, finding.tensors.size()); ++i) {
      names += (i == 0 ? ": " : ", ") + finding.tensors[i];
    }
    if (finding.tensors.size() > kNames) {
      names += fmt::format(" and {} more", finding.tensors.size() - kNames);
    }
    fmt::print("{}: {}{} [{}]\n", severity_name(finding.severity), finding.message, names,
               finding.kind);
  }
  if (report.findings.empty()) fmt::print("nothing suspicious\n");
}

void print_text(const InspectReport& report, const Options& options, const Meter& meter) {
  print_weights(report, options.all);
  fmt::print("{}: {} tensors in {} {}, {}\n", options.path, report.tensors, report.shards,
             report.shards == 1 ? "file" : "files", bytes_text(report.bytes));
  for (const auto& [name, totals] : report.formats) {
    fmt::print("  {}: {} tensors, {}\n", name, totals.tensors, bytes_text(totals.bytes));
  }
  if (report.declaration.declared) {
    fmt::print("declared: {} {}, {}\n", report.declaration.method, report.declaration.algorithm,
               report.declaration.activations ? "weights and activations" : "weight-only");
  } else {
    fmt::print("declared: nothing\n");
  }
  if (report.total_blocks > 0) {
    fmt::print("block scales and codes: {} of {} blocks read{}; fp32 scales: all\n",
               report.sampled_blocks, report.total_blocks,
               report.sampled_blocks < report.total_blocks ? " (--full reads all)" : "");
  }
  print_findings(report);
  fmt::print("{:.2f} s, peak memory {}\n", meter.seconds(), bytes_text(Meter::peak_bytes()));
}

int run_inspect(const Options& options) {
  const Meter meter;
  const auto report = checkpoint::inspect_checkpoint(options.path, {options.full});
  if (!report.ok()) return print_error(report.status());
  if (options.json) {
    fmt::print("{}", json_text(json_of(report.value(), options, meter)));
  } else {
    print_text(report.value(), options, meter);
  }
  return kExitOk;
}

}  // namespace

Command add_inspect(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "inspect", "Formats, shapes, conventions and scales of a checkpoint; what is suspicious");
  parser->add_option("PATH", options->path, "file or folder")->required();
  parser->add_flag("--full", options->full, "look at every block instead of samples");
  parser->add_flag("--all", options->all, "list every quantized weight");
  parser->add_flag("--json", options->json, "report as JSON");
  parser->footer(
      "Exit code 0 whatever is found; 1 when the checkpoint cannot be read.\n"
      "Example:\n  halfbyte inspect models/llama-nvfp4");
  return {parser, [options] { return run_inspect(*options); }};
}

}  // namespace halfbyte::app
