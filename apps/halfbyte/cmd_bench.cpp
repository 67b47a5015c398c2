// halfbyte bench OP: time against the unfused path and the streaming floor.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "apps/halfbyte/bench_gemm.h"
#include "apps/halfbyte/bench_model.h"
#include "apps/halfbyte/bench_report.h"
#include "apps/halfbyte/bench_run.h"
#include "apps/halfbyte/bench_shapes.h"
#include "apps/halfbyte/bench_table.h"
#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/base/cpu_level.h"

namespace halfbyte::app {
namespace {

using base::Backend;
using base::DType;
using base::Result;
using base::Status;
using formats::Format;
using formats::ScaleLayout;
using formats::ScaleMode;

constexpr const char* kDefaultShapes = "1x4096,16x4096,128x4096,1024x4096,1024x8192";
constexpr const char* kDefaultProducts = "1x4096x4096,4x4096x4096,16x4096x4096";

// The command line's words.
struct Options {
  std::string op, shapes, model, json, cpu_level;
  std::string backend = "auto", dtype = "bf16", format = "nvfp4", layout = "linear";
  std::string activations = "fp4", weights, plan = "auto";
  std::string second_layout, scale = "tensor", per = "tensor", style = "neox";
  bool residual = false, normed = false, quick = false, explain = false;
  int threads = 0, head_dim = 0, interleave = 0;
  std::vector<CLI::Option*> of_operators;  // those that not every operator takes
};

ScaleLayout layout_of(const std::string& name) {
  for (const ScaleLayout layout : {ScaleLayout::k128x4, ScaleLayout::k8x4}) {
    if (name == formats::layout_name(layout)) return layout;
  }
  return ScaleLayout::kLinear;
}

// The words have been checked by the parser.
BenchOptions bench_options(const Options& words) {
  BenchOptions options;
  for (const Format format : {Format::kNvfp4, Format::kMxfp4, Format::kFp8}) {
    if (words.format == formats::format_name(format)) options.spec.format = format;
  }
  for (const ScaleMode mode : {ScaleMode::kTensor, ScaleMode::kRow, ScaleMode::kComputed}) {
    if (words.scale == formats::scale_mode_name(mode)) options.spec.scale = mode;
  }
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (words.dtype == base::dtype_name(dtype)) options.dtype = dtype;
  }
  options.spec.layout = layout_of(words.layout);
  if (!words.second_layout.empty()) options.spec.second_layout = layout_of(words.second_layout);
  options.residual = words.residual;
  options.activations16 = words.activations == "16bit";
  if (!words.weights.empty()) {
    options.weights =
        words.weights == "plain" ? ops::WeightForm::kPlain : ops::WeightForm::kPrepared;
  }
  options.plan = bench_plan(words.plan);
  options.normed = words.normed;
  options.per_row = words.per == "row";
  options.interleave = words.interleave;
  options.head_dim = words.head_dim;
  options.gptj = words.style == "gptj";
  options.backend = words.backend == "ref"    ? Backend::kReference
                    : words.backend == "cpu"  ? Backend::kCpu
                    : words.backend == "cuda" ? Backend::kCuda
                                              : Backend::kAuto;
  options.num_threads = words.threads;
  options.quick = words.quick;
  options.cpu_level = base::cpu_level_from_name(words.cpu_level);
  return options;
}

// What the parser cannot know: which options the operator takes, what this machine has.
Status check_words(const BenchOperator& op, const Options& words) {
  for (const CLI::Option* option : words.of_operators) {
    if (option->count() > 0 && !op.takes(option->get_name())) {
      return base::invalid_argument(
          option->get_name(), "an operator that takes it (see bench --help)", std::string(op.name));
    }
  }
  if (words.backend == "cuda") {
    if (const Status cuda = require_cuda(); !cuda.ok()) {
      return {cuda.code(), "--backend cuda: " + cuda.message()};
    }
  }
  if (words.cpu_level.empty()) return {};
  if (words.backend == "cuda" || words.backend == "ref") {
    return base::invalid_argument("--cpu-level", "--backend auto or cpu", words.backend);
  }
  std::string names;
  for (const base::CpuLevel level : base::available_cpu_levels()) {
    const std::string name(base::cpu_level_name(level));
    if (name == words.cpu_level) return {};
    names += (names.empty() ? "" : ", ") + name;
  }
  return base::invalid_argument("--cpu-level", "one of " + names, "'" + words.cpu_level + "'");
}

Result<std::vector<BenchShape>> shapes_of(const Options& words, const BenchOperator& op) {
  const std::string text = !words.shapes.empty() ? words.shapes
                           : op.product          ? kDefaultProducts
                                                 : kDefaultShapes;
  return parse_shapes(text, op.name, op.product);
}

Status measure_shapes(const Options& words, Bench& bench, BenchReport& report) {
  const Result<std::vector<BenchShape>> shapes = shapes_of(words, *report.op);
  if (!shapes.ok()) return shapes.status();
  ProgressBar bar("bench");
  const auto total = static_cast<std::int64_t>(shapes.value().size());
  for (const BenchShape shape : shapes.value()) {
    bar.update(static_cast<std::int64_t>(report.rows.size()), total);
    const Result<BenchTiming> timing = bench.measure(shape);
    if (!timing.ok()) return timing.status();
    report.rows.push_back(
        {shape.name(), shape, report.options.dtype, words.residual, timing.value()});
  }
  return {};
}

// --explain: what would be timed, a line a shape.
ExitCode explain(const Options& words) {
  const BenchOperator* op = find_bench_operator(words.op);
  const auto lines = [&]() -> Status {
    HALFBYTE_RETURN_IF_ERROR(check_words(*op, words));
    const Result<std::vector<BenchShape>> shapes = shapes_of(words, *op);
    if (!shapes.ok()) return shapes.status();
    for (const BenchShape shape : shapes.value()) {
      const Result<std::string> text = explain_product(bench_options(words), shape);
      if (!text.ok()) return text.status();
      fmt::print("{}: {}\n", shape.name(), text.value());
    }
    return {};
  };
  const Status status = lines();
  return status.ok() ? kExitOk : print_error(status);
}

Status measure_model(const Options& words, Bench& bench, const ModelNorms& model,
                     BenchReport& report) {
  report.model = words.model;
  ProgressBar bar("bench");
  const auto total = static_cast<std::int64_t>(model.norms.size());
  for (const ModelNorm& norm : model.norms) {
    bar.update(static_cast<std::int64_t>(report.rows.size()), total);
    const base::TensorView& x = norm.x.view();
    const BenchShape shape{x.shape[0], x.shape[1], 0};
    const Result<BenchTiming> timing = bench.measure(shape, &norm);
    if (!timing.ok()) return {timing.status().code(), norm.name + ": " + timing.status().message()};
    report.rows.push_back({norm.name, shape, x.dtype, norm.residual.view().given, timing.value()});
  }
  return {};
}

Status measure(const Options& words, BenchReport& report) {
  report.op = find_bench_operator(words.op);
  if (report.op == nullptr) {
    return base::invalid_argument("OP", "one of " + bench_operator_names(), "'" + words.op + "'");
  }
  HALFBYTE_RETURN_IF_ERROR(check_words(*report.op, words));
  report.options = bench_options(words);
  Result<ModelNorms> model{ModelNorms()};
  if (!words.model.empty()) {
    model = load_model_norms(words.model);
    if (!model.ok()) return model.status();
    report.options.eps = model.value().eps;
  }
  Result<Bench> bench = Bench::create(*report.op, report.options);
  if (!bench.ok()) return bench.status();
  return words.model.empty() ? measure_shapes(words, bench.value(), report)
                             : measure_model(words, bench.value(), model.value(), report);
}

ExitCode run(const Options& words) {
  if (words.explain && find_bench_operator(words.op) != nullptr) return explain(words);
  BenchReport report;
  if (const Status status = measure(words, report); !status.ok()) return print_error(status);
  if (words.json == "-") {
    fmt::print("{}", json_text(report.json()));
  } else {
    report.print();
    if (!words.json.empty()) {
      const Status written = write_text_file(words.json, json_text(report.json()));
      if (!written.ok()) return print_error(written);
    }
  }
  // These plans are bounded, and CUDA's alone: their rows may say NO.
  const bool bounded = report.options.plan != ops::GemmMethod::kAuto &&
                       report.options.plan != ops::GemmMethod::kExact;
  return report.bits_equal() || bounded
             ? kExitOk
             : print_error(kExitData, "results differ from the unfused path or the reference");
}

void add_operator_options(CLI::App& parser, Options& words) {
  const auto one_of = [](const std::vector<std::string>& values) { return CLI::IsMember(values); };
  CLI::Option* residual =
      parser.add_flag("--residual", words.residual, "add a residual before the norm");
  CLI::Option* model =
      parser.add_option("--model", words.model,
                        "a model folder: its norms, on what they saw (activations.safetensors)");
  model->excludes("--shapes")->excludes("--residual")->excludes("--dtype");
  words.of_operators = {
      residual,
      model,
      parser.add_flag("--normed", words.normed, "give the normalised tensor too"),
      parser.add_option("--format", words.format, "nvfp4 (default), mxfp4 or fp8")
          ->check(one_of({"nvfp4", "mxfp4", "fp8"})),
      parser.add_option("--layout", words.layout, "of the scales: linear (default), 128x4 or 8x4")
          ->check(one_of({"linear", "128x4", "8x4"})),
      parser
          .add_option("--second-layout", words.second_layout,
                      "the scales once more in another layout")
          ->check(one_of({"linear", "128x4", "8x4"})),
      parser.add_option("--scale", words.scale, "tensor (default: given), row or computed")
          ->check(one_of({"tensor", "row", "computed"})),
      parser.add_option("--per", words.per, "tensor (default) or row")
          ->check(one_of({"tensor", "row"})),
      parser
          .add_option("--head-dim", words.head_dim,
                      "columns of a head (default: 128 or 64, what divides H)")
          ->check(CLI::Range(1, 1 << 20)),
      parser.add_option("--style", words.style, "of pairs: neox (default) or gptj")
          ->check(one_of({"neox", "gptj"})),
      parser
          .add_option("--interleave", words.interleave,
                      "of gate and up: 0 (default: halves), 1 or 8")
          ->check(one_of({"0", "1", "8"})),
      parser.add_option("--activations", words.activations, "fp4 (default) or 16bit, of --dtype")
          ->check(one_of({"fp4", "16bit"})),
      parser
          .add_option("--weights", words.weights,
                      "plain or prepared (default: plain on the CPU, prepared on CUDA)")
          ->check(one_of({"plain", "prepared"})),
      parser.add_option("--plan", words.plan, "auto (default), exact, tensor_core, dequantize, ..")
          ->check(one_of({"auto", "exact", "tensor_core", "dequantize", "fp8", "block_scaled"})),
      parser.add_flag("--explain", words.explain,
                      "which kernel a product would take, and why; nothing is timed")};
}

}  // namespace

Command add_bench(CLI::App& program) {
  auto words = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "bench", "Time an operator against the unfused path and the streaming floor");
  parser->add_option("OP", words->op, bench_operator_names())->required();
  parser
      ->add_option("--shapes", words->shapes,
                   fmt::format("MxH,.., a set ({}) or a JSON file (default {}); MxNxK for products "
                               "(default {})",
                               shape_set_names(), kDefaultShapes, kDefaultProducts))
      ->check([](const std::string& text) {
        return text.empty() ? std::string("--shapes: expected MxH,.., got nothing") : std::string();
      });
  parser->add_option("--dtype", words->dtype, "bf16 (default), fp16 or fp32")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}));
  parser->add_option("--backend", words->backend, "auto (default: the CPU), ref, cpu or cuda")
      ->check(CLI::IsMember({"auto", "ref", "cpu", "cuda"}));
  parser->add_option("--cpu-level", words->cpu_level,
                     "reference, v3 (AVX2), v4 (AVX-512) or neon; default: the best here");
  parser->add_option("-j,--threads", words->threads, "CPU threads, the floor's too; 0: all")
      ->check(CLI::Range(0, 4096));
  parser->add_flag("--quick", words->quick, "CUDA: fewer and shorter replays, for many shapes");
  parser->add_option("--json", words->json, "also write the figures to a file; - for stdout only");
  add_operator_options(*parser, *words);
  parser->footer(
      "Medians on cold buffers; floor: the same bytes moved without arithmetic; ratio: operator "
      "over floor.\n" +
      bench_operators_help() +
      "Example:\n  halfbyte bench rmsnorm_quantize --shapes 16x4096,1024x4096 --residual");
  return {parser, [words] { return run(*words); }};
}

}  // namespace halfbyte::app
