// halfbyte dequantize IN OUT: a quantized checkpoint back to floats.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "apps/halfbyte/checkpoint_output.h"
#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/dequantize_checkpoint.h"

namespace halfbyte::app {
namespace {

struct Options {
  std::string in, out;
  std::string dtype = "bf16";
  int threads = 0;
  bool force = false;
  bool json = false;
};

int run_dequantize(const Options& options) {
  checkpoint::DequantizeOptions library;
  library.dtype = options.dtype == "fp16"   ? base::DType::kF16
                  : options.dtype == "fp32" ? base::DType::kF32
                                            : base::DType::kBF16;
  library.num_threads = options.threads;
  library.overwrite = options.force;
  const Meter meter;
  const auto report = [&] {
    ProgressBar bar("dequantize");
    library.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
    return checkpoint::dequantize_checkpoint(options.in, options.out, library);
  }();
  if (!report.ok()) return print_error(report.status());
  const checkpoint::DequantizeReport& done = report.value();
  for (const std::string& note : done.notes) print_warning(note);
  if (options.json) {
    Json json = report_json();
    json["dtype"] = options.dtype;
    json["weights"] = done.weights;
    json["tensors_kept"] = done.tensors_kept;
    json["notes"] = done.notes;
    json["bytes_before"] = done.bytes_before;
    json["bytes_after"] = done.bytes_after;
    meter.add_to(json, done.bytes_after);
    fmt::print("{}", json_text(json));
    return kExitOk;
  }
  fmt::print("{}: {} weights to {}, {} tensors carried over\n", options.out, done.weights,
             options.dtype, done.tensors_kept);
  fmt::print("{} -> {}, {}\n", bytes_text(done.bytes_before), bytes_text(done.bytes_after),
             meter.text(done.bytes_after));
  return kExitOk;
}

}  // namespace

Command add_dequantize(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "dequantize", "An NVFP4, MXFP4 or FP8 file or folder back to floats that transformers loads");
  parser->add_option("IN", options->in, "safetensors file, or folder, sharded or not")->required();
  parser->add_option("OUT", options->out, "what to write: a file or a folder, like IN")->required();
  parser->add_option("--dtype", options->dtype, "of the weights: bf16 (default), fp16 or fp32")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}));
  parser->add_option("-j,--threads", options->threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, 4096));
  parser->add_flag("--force", options->force, "replace OUT if it exists");
  parser->add_flag("--json", options->json, "report as JSON");
  parser->footer("Example:\n  halfbyte dequantize models/llama-nvfp4 models/llama-back");
  return {parser, [options] { return run_dequantize(*options); }};
}

}  // namespace halfbyte::app
