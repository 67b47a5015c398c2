// halfbyte quantize IN OUT: a checkpoint to its NVFP4 or MXFP4 counterpart.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/quantize_checkpoint.h"

namespace halfbyte::app {
namespace {

using checkpoint::QuantizedLayer;
using checkpoint::QuantizeReport;

struct Options {
  std::string in, out;
  std::string format = "nvfp4";
  std::string convention;
  std::vector<std::string> ignore;
  int threads = 0;
  bool force = false;
  bool json = false;
};

std::string sqnr_text(double sqnr_db) {
  return std::isfinite(sqnr_db) ? fmt::format("{:.2f}", sqnr_db) : "exact";
}

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

void print_json(const QuantizeReport& report, double seconds) {
  Json json = report_json();
  json["format"] = formats::format_name(report.format);
  json["convention"] = checkpoint::convention_name(report.convention);
  json["layers"] = Json::array();
  for (const QuantizedLayer& layer : report.layers) {
    json["layers"].push_back({{"tensor", layer.tensor},
                              {"shape", {layer.rows, layer.columns}},
                              {"global_scale", layer.scale.encode},
                              {"decode_scale", layer.scale.decode},
                              {"sqnr_db", number_or_null(layer.error.sqnr_db())},
                              {"max_abs_error", layer.error.max_abs},
                              {"zero_code_share", layer.error.zero_share()}});
  }
  json["excluded"] = Json::array();
  for (const auto& layer : report.excluded) {
    json["excluded"].push_back({{"module", layer.module}, {"reason", layer.reason}});
  }
  json["notes"] = report.notes;
  json["tensors_kept"] = report.tensors_kept;
  json["mean_sqnr_db"] = number_or_null(report.mean_sqnr_db());
  json["bytes_before"] = report.bytes_before;
  json["bytes_after"] = report.bytes_after;
  json["seconds"] = seconds;
  json["input_mb_per_s"] = static_cast<double>(report.bytes_before) / 1e6 / seconds;
  fmt::print("{}", json_text(json));
}

void print_text(const QuantizeReport& report, const std::string& out, double seconds) {
  Table table({"tensor", "shape", "SQNR dB", "max abs error", "zero codes"});
  for (const QuantizedLayer& layer : report.layers) {
    table.add({layer.tensor, fmt::format("{}x{}", layer.rows, layer.columns),
               sqnr_text(layer.error.sqnr_db()), fmt::format("{:.3e}", layer.error.max_abs),
               fmt::format("{:.2f} %", 100 * layer.error.zero_share())});
  }
  table.print(stdout);
  for (const auto& layer : report.excluded) {
    fmt::print("left as it was: {} ({})\n", layer.module, layer.reason);
  }
  const double before = static_cast<double>(report.bytes_before);
  fmt::print("\n{}: {} layers to {} ({}), {} tensors carried over\n", out, report.layers.size(),
             formats::format_name(report.format), checkpoint::convention_name(report.convention),
             report.tensors_kept);
  fmt::print("mean SQNR {} dB, {} -> {} ({:.2f}x smaller), {:.2f} s, {:.0f} MB/s\n",
             sqnr_text(report.mean_sqnr_db()), bytes_text(report.bytes_before),
             bytes_text(report.bytes_after), before / static_cast<double>(report.bytes_after),
             seconds, before / 1e6 / seconds);
}

int run_quantize(const Options& options) {
  checkpoint::QuantizeOptions library;
  library.format = options.format == "nvfp4" ? formats::Format::kNvfp4 : formats::Format::kMxfp4;
  library.convention = checkpoint::convention_from_name(options.convention);
  library.ignore = options.ignore;
  library.num_threads = options.threads;
  library.overwrite = options.force;

  const auto start = std::chrono::steady_clock::now();
  base::Result<QuantizeReport> report = [&] {
    ProgressBar bar("quantize");
    library.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
    return checkpoint::quantize_checkpoint(options.in, options.out, library);
  }();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (!report.ok()) return print_error(report.status());
  for (const std::string& note : report.value().notes) print_warning(note);
  if (options.json) {
    print_json(report.value(), seconds.count());
  } else {
    print_text(report.value(), options.out, seconds.count());
  }
  return kExitOk;
}

}  // namespace

Command add_quantize(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "quantize", "A safetensors file or a Hugging Face folder to NVFP4 or MXFP4, weight-only");
  parser->add_option("IN", options->in, "safetensors file, or folder with one model.safetensors")
      ->required();
  parser->add_option("OUT", options->out, "what to write: a file or a folder, like IN")->required();
  parser->add_option("--format", options->format, "nvfp4 (default) or mxfp4")
      ->check(CLI::IsMember({"nvfp4", "mxfp4"}));
  parser
      ->add_option("--convention", options->convention,
                   "names and scales as modelopt (default for nvfp4) or compressed-tensors")
      ->check(CLI::IsMember({"modelopt", "compressed-tensors"}));
  parser->add_option("--ignore", options->ignore,
                     "layers to leave as they are: shell patterns over module or tensor names");
  parser->add_option("-j,--threads", options->threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, 4096));
  parser->add_flag("--force", options->force, "replace OUT if it exists");
  parser->add_flag("--json", options->json, "report as JSON");
  parser->footer(
      "Embeddings, lm_head, norms and routers are never quantized.\nExample:\n"
      "  halfbyte quantize models/llama models/llama-nvfp4 --ignore '*.down_proj'");
  return {parser, [options] { return run_quantize(*options); }};
}

}  // namespace halfbyte::app
