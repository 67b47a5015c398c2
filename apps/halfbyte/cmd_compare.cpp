// halfbyte compare A B: two checkpoints, tensor by tensor.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfbyte/checkpoint_output.h"
#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/compare_checkpoints.h"

namespace halfbyte::app {
namespace {

using checkpoint::ComparedTensor;
using checkpoint::CompareReport;

struct Options {
  std::string a, b;
  bool all = false;
  int threads = 0;
  bool json = false;
};

Json json_of(const CompareReport& report, const Meter& meter) {
  Json json = report_json();
  json["equal_bits"] = report.equal_bits();
  json["tensors"] = Json::array();
  for (const ComparedTensor& tensor : report.tensors) {
    Json row = {{"tensor", tensor.name},
                {"a", tensor.kind_a},
                {"b", tensor.kind_b},
                {"equal_bits", tensor.equal_bits}};
    if (tensor.compared) row.update(error_json(tensor.error));
    if (!tensor.difference.empty()) row["difference"] = tensor.difference;
    json["tensors"].push_back(std::move(row));
  }
  json["only_a"] = report.only_a;
  json["only_b"] = report.only_b;
  meter.add_to(json, report.bytes);
  return json;
}

void print_text(const CompareReport& report, const Options& options, const Meter& meter) {
  Table table({"tensor", "A", "B", "bits", "SQNR dB", "max abs error", "max relative error"});
  std::size_t equal = 0;
  for (const ComparedTensor& tensor : report.tensors) {
    equal += tensor.equal_bits;
    if (tensor.equal_bits && !options.all) continue;
    const bool values = tensor.compared;
    table.add({tensor.name, tensor.kind_a, tensor.kind_b, tensor.equal_bits ? "equal" : "differ",
               values ? sqnr_text(tensor.error.sqnr_db()) : "-",
               values ? fmt::format("{:.3e}", tensor.error.max_abs) : tensor.difference,
               values ? fmt::format("{:.3e}", tensor.error.max_relative) : "-"});
  }
  if (equal < report.tensors.size() || options.all) table.print(stdout);
  constexpr std::size_t kShown = 20;
  for (const auto& [names, side] :
       {std::pair(&report.only_a, "A"), std::pair(&report.only_b, "B")}) {
    for (std::size_t i = 0; i < std::min(kShown, names->size()); ++i) {
      fmt::print("only in {}: {}\n", side, (*names)[i]);
    }
    if (names->size() > kShown) fmt::print("only in {}: {} more\n", side, names->size() - kShown);
  }
  fmt::print("{} of {} tensors equal bit for bit, {} only in A, {} only in B, {}\n", equal,
             report.tensors.size(), report.only_a.size(), report.only_b.size(),
             meter.text(report.bytes));
}

int run_compare(const Options& options) {
  checkpoint::CompareOptions library;
  library.num_threads = options.threads;
  const Meter meter;
  const auto report = [&] {
    ProgressBar bar("compare");
    library.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
    return checkpoint::compare_checkpoints(options.a, options.b, library);
  }();
  if (!report.ok()) return print_error(report.status());
  if (options.json) {
    fmt::print("{}", json_text(json_of(report.value(), meter)));
  } else {
    print_text(report.value(), options, meter);
  }
  return report.value().equal_bits() ? kExitOk : kExitData;
}

}  // namespace

Command add_compare(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "compare", "Two checkpoints, tensor by tensor: bits, or values where one is quantized");
  parser->add_option("A", options->a, "file or folder: what is right")->required();
  parser->add_option("B", options->b, "file or folder: what is measured against A")->required();
  parser->add_flag("--all", options->all, "list tensors that are equal too");
  parser->add_option("-j,--threads", options->threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, 4096));
  parser->add_flag("--json", options->json, "report as JSON");
  parser->footer(
      "Exit code 0 when equal bit for bit, 1 when not.\n"
      "Example:\n  halfbyte compare models/llama models/llama-nvfp4");
  return {parser, [options] { return run_compare(*options); }};
}

}  // namespace halfbyte::app
