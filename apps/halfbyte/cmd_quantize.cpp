// halfbyte quantize IN OUT: a checkpoint to its NVFP4 or MXFP4 counterpart.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/halfbyte/checkpoint_output.h"
#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/quantize_checkpoint.h"

namespace halfbyte::app {
namespace {

using checkpoint::QuantizedLayer;
using checkpoint::QuantizeReport;

constexpr std::size_t kWorst = 10;

struct Options {
  std::string in, out;
  std::string format = "nvfp4";
  std::string convention;
  std::vector<std::string> ignore, include;
  std::string activation_amax;
  std::string report;
  int threads = 0;
  bool force = false;
  bool json = false;
};

Json layer_json(const QuantizedLayer& layer) {
  Json json = {{"tensor", layer.tensor},
               {"shape", {layer.rows, layer.columns}},
               {"global_scale", layer.scale.encode},
               {"decode_scale", layer.scale.decode}};
  if (layer.input_scale) {
    json["input_global_scale"] = layer.input_scale->encode;
    json["input_decode_scale"] = layer.input_scale->decode;
  }
  json["sqnr_db"] = number_or_null(layer.error.sqnr_db());
  json["max_abs_error"] = layer.error.max_abs;
  json["zero_code_share"] = layer.error.zero_share();
  json["saturated_scale_share"] = layer.error.saturated_share();
  json["bytes_before"] = layer.bytes_before;
  json["bytes_after"] = layer.bytes_after;
  return json;
}

Json json_of(const QuantizeReport& report, const Options& options, const Meter& meter) {
  Json json = report_json();
  json["input"] = options.in;
  json["output"] = options.out;
  json["format"] = formats::format_name(report.format);
  json["convention"] = checkpoint::convention_name(report.convention);
  json["activations"] = report.activations;
  json["layers"] = Json::array();
  for (const QuantizedLayer& layer : report.layers) json["layers"].push_back(layer_json(layer));
  json["excluded"] = Json::array();
  for (const auto& layer : report.excluded) {
    json["excluded"].push_back({{"module", layer.module}, {"reason", layer.reason}});
  }
  json["notes"] = report.notes;
  json["tensors_kept"] = report.tensors_kept;
  json["mean_sqnr_db"] = number_or_null(report.mean_sqnr_db());
  json["bytes_before"] = report.bytes_before;
  json["bytes_after"] = report.bytes_after;
  meter.add_to(json, report.bytes_before);
  return json;
}

void print_worst(const QuantizeReport& report) {
  std::vector<const QuantizedLayer*> layers;
  for (const QuantizedLayer& layer : report.layers) layers.push_back(&layer);
  std::stable_sort(layers.begin(), layers.end(), [](const auto* a, const auto* b) {
    return a->error.sqnr_db() < b->error.sqnr_db();
  });
  if (layers.size() > kWorst) {
    fmt::print("the {} of {} layers that lose most:\n", kWorst, layers.size());
    layers.resize(kWorst);
  }
  Table table({"tensor", "shape", "SQNR dB", "max abs error", "zero codes", "saturated scales"});
  for (const QuantizedLayer* layer : layers) {
    table.add({layer->tensor, fmt::format("{}x{}", layer->rows, layer->columns),
               sqnr_text(layer->error.sqnr_db()), fmt::format("{:.3e}", layer->error.max_abs),
               fmt::format("{:.2f} %", 100 * layer->error.zero_share()),
               fmt::format("{:.3f} %", 100 * layer->error.saturated_share())});
  }
  table.print(stdout);
}

void print_text(const QuantizeReport& report, const std::string& out, const Meter& meter) {
  print_worst(report);
  constexpr std::size_t kShown = 20;
  for (std::size_t i = 0; i < std::min(kShown, report.excluded.size()); ++i) {
    fmt::print("left as it was: {} ({})\n", report.excluded[i].module, report.excluded[i].reason);
  }
  if (report.excluded.size() > kShown) {
    fmt::print("left as they were: {} more\n", report.excluded.size() - kShown);
  }
  const double before = static_cast<double>(report.bytes_before);
  fmt::print("\n{}: {} layers to {} ({}, {}), {} tensors carried over\n", out, report.layers.size(),
             formats::format_name(report.format), checkpoint::convention_name(report.convention),
             report.activations ? "weights and activations" : "weight-only", report.tensors_kept);
  fmt::print("mean SQNR {} dB, {} -> {} ({:.2f}x smaller), {}\n", sqnr_text(report.mean_sqnr_db()),
             bytes_text(report.bytes_before), bytes_text(report.bytes_after),
             before / static_cast<double>(report.bytes_after), meter.text(report.bytes_before));
}

int run_quantize(const Options& options) {
  checkpoint::QuantizeOptions library;
  library.format = options.format == "nvfp4" ? formats::Format::kNvfp4 : formats::Format::kMxfp4;
  library.convention = checkpoint::convention_from_name(options.convention);
  library.patterns = {options.ignore, options.include};
  library.num_threads = options.threads;
  library.overwrite = options.force;
  if (!options.activation_amax.empty()) {
    auto amax = checkpoint::read_activation_amax(options.activation_amax);
    if (!amax.ok()) return print_error(amax.status());
    library.activation_amax = std::move(amax).value();
  }
  const Meter meter;
  base::Result<QuantizeReport> report = [&] {
    ProgressBar bar("quantize");
    library.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
    return checkpoint::quantize_checkpoint(options.in, options.out, library);
  }();
  if (!report.ok()) return print_error(report.status());
  for (const std::string& note : report.value().notes) print_warning(note);
  const Json json = json_of(report.value(), options, meter);
  if (options.json) {
    fmt::print("{}", json_text(json));
  } else {
    print_text(report.value(), options.out, meter);
  }
  if (options.report.empty()) return kExitOk;
  const base::Status written = write_text_file(options.report, json_text(json));
  return written.ok() ? int{kExitOk} : int{print_error(written)};
}

}  // namespace

Command add_quantize(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "quantize", "A safetensors file or a Hugging Face folder to NVFP4 or MXFP4");
  parser->add_option("IN", options->in, "safetensors file, or folder, sharded or not")->required();
  parser->add_option("OUT", options->out, "what to write: a file or a folder, like IN")->required();
  parser->add_option("--format", options->format, "nvfp4 (default) or mxfp4")
      ->check(CLI::IsMember({"nvfp4", "mxfp4"}));
  parser
      ->add_option("--convention", options->convention,
                   "names and scales as modelopt (default for nvfp4), compressed-tensors (default "
                   "for mxfp4) or gpt-oss (mxfp4 experts)")
      ->check(CLI::IsMember({"modelopt", "compressed-tensors", "gpt-oss"}));
  parser->add_option("--ignore", options->ignore,
                     "layers to leave as they are: shell patterns over module or tensor names");
  parser->add_option("--include", options->include,
                     "layers to quantize though they are left out by default: lm_head, ..");
  parser->add_option("--activation-amax", options->activation_amax,
                     "JSON or safetensors, module name to the largest magnitude of its input: "
                     "activations are quantized too (nvfp4)");
  parser->add_option("--report", options->report,
                     "write the figures of every layer to this file, as JSON");
  parser->add_option("-j,--threads", options->threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, 4096));
  parser->add_flag("--force", options->force, "replace OUT if it exists");
  parser->add_flag("--json", options->json, "report as JSON");
  parser->footer(
      "Embeddings, lm_head, norms and routers are not quantized unless --include names them.\n"
      "A picture of a report: python3 halfbyte/checkpoint/plot_report.py REPORT.json OUT.png\n"
      "Example:\n"
      "  halfbyte quantize models/llama models/llama-nvfp4 --ignore '*.down_proj'");
  return {parser, [options] { return run_quantize(*options); }};
}

}  // namespace halfbyte::app
