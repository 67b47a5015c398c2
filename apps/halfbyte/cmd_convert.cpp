// halfbyte convert IN OUT --convention X: codes and block scales untouched.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "apps/halfbyte/checkpoint_output.h"
#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/checkpoint/convert_checkpoint.h"

namespace halfbyte::app {
namespace {

struct Options {
  std::string in, out, convention;
  int threads = 0;
  bool force = false;
  bool json = false;
};

int run_convert(const Options& options) {
  checkpoint::ConvertOptions library;
  library.convention = *checkpoint::convention_from_name(options.convention);
  library.num_threads = options.threads;
  library.overwrite = options.force;
  const Meter meter;
  const auto report = [&] {
    ProgressBar bar("convert");
    library.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
    return checkpoint::convert_checkpoint(options.in, options.out, library);
  }();
  if (!report.ok()) return print_error(report.status());
  const checkpoint::ConvertReport& done = report.value();
  for (const std::string& note : done.notes) print_warning(note);
  if (options.json) {
    Json json = report_json();
    json["convention"] = options.convention;
    json["weights"] = done.weights;
    json["tensors_kept"] = done.tensors_kept;
    json["scales"] = done.scales;
    json["irreversible_scales"] = done.irreversible_scales;
    json["notes"] = done.notes;
    json["bytes"] = done.bytes;
    meter.add_to(json, done.bytes);
    fmt::print("{}", json_text(json));
    return kExitOk;
  }
  fmt::print("{}: {} weights to {}, {} tensors carried over, {}\n", options.out, done.weights,
             options.convention, done.tensors_kept, meter.text(done.bytes));
  fmt::print("{} fp32 scales became their reciprocals, of which {} lose their last bit\n",
             done.scales, done.irreversible_scales);
  return kExitOk;
}

}  // namespace

Command add_convert(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "convert", "An NVFP4 checkpoint to the other convention, codes and block scales untouched");
  parser->add_option("IN", options->in, "quantized file or folder")->required();
  parser->add_option("OUT", options->out, "what to write: a file or a folder, like IN")->required();
  parser->add_option("--convention", options->convention, "modelopt or compressed-tensors")
      ->required()
      ->check(CLI::IsMember({"modelopt", "compressed-tensors"}));
  parser->add_option("-j,--threads", options->threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, 4096));
  parser->add_flag("--force", options->force, "replace OUT if it exists");
  parser->add_flag("--json", options->json, "report as JSON");
  parser->footer(
      "Example:\n  halfbyte convert models/llama-nvfp4 models/llama-ct --convention "
      "compressed-tensors");
  return {parser, [options] { return run_convert(*options); }};
}

}  // namespace halfbyte::app
