// halfbyte op NAME: one operator on the tensors of a safetensors file.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/op_run.h"
#include "apps/halfbyte/op_table.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/safetensors_writer.h"

namespace halfbyte::app {
namespace {

using base::Backend;
using base::Result;
using base::Status;

struct Options {
  std::string name, in, out;
  std::vector<std::string> set;
  std::string backend = "auto";
  bool json = false;
};

Result<const OpInfo*> choose_operator(const std::string& name) {
  if (const OpInfo* info = find_operator(name)) return info;
  return base::invalid_argument("NAME", "one of " + operator_names(), "'" + name + "'");
}

// The file's tensors must be the operator's inputs: all that it needs, none that it does not take.
Status check_inputs(const OpInfo& op, const io::SafetensorsFile& file) {
  std::string names;
  for (const OpInput& input : op.inputs) {
    names += (names.empty() ? "" : ", ") + std::string(input.name);
    if (input.required && file.find(input.name) == nullptr) {
      return base::invalid_argument(file.path(), "a tensor '" + std::string(input.name) + "'",
                                    "none of this name");
    }
  }
  for (const io::SafetensorsEntry& entry : file.entries()) {
    const bool known = std::any_of(op.inputs.begin(), op.inputs.end(),
                                   [&](const OpInput& input) { return input.name == entry.name; });
    if (!known) {
      return base::invalid_argument(
          file.path(), "only tensors that " + std::string(op.name) + " takes (" + names + ")",
          "'" + entry.name + "'");
    }
  }
  return {};
}

// A single fp32 scale stays on the host, where its value is checked; all else goes to the device.
bool is_host_scalar(const io::SafetensorsEntry& entry) {
  return entry.name.ends_with("_scale") && entry.size_bytes() == sizeof(float);
}

Status load_inputs(const io::SafetensorsFile& file, OpCall& call) {
  for (const io::SafetensorsEntry& entry : file.entries()) {
    Result<OwnedTensor> tensor =
        OwnedTensor::copy_of(entry, is_host_scalar(entry) ? kHost : call.device());
    if (!tensor.ok()) return tensor.status();
    call.add_input(entry.name, std::move(tensor).value());
  }
  return {};
}

Result<base::Execution> make_execution(const std::string& backend, OwnedTensor& workspace) {
  base::Execution execution;
  if (backend == "ref") execution.backend = Backend::kReference;
  if (backend == "cpu") execution.backend = Backend::kCpu;
  if (backend == "cuda") {
    execution.backend = Backend::kCuda;
    if (const Status cuda = require_cuda(); !cuda.ok()) {
      return Status(cuda.code(), "--backend cuda: " + cuda.message());
    }
    const std::int64_t shape[] = {base::kComputedWorkspaceBytes};
    Result<OwnedTensor> scratch = OwnedTensor::create(base::DType::kU8, shape, kCudaDevice);
    if (!scratch.ok()) return scratch.status();
    workspace = std::move(scratch).value();
    execution.workspace = workspace.view().data;
    execution.workspace_bytes = workspace.size_bytes();
  }
  return execution;
}

Status write_outputs(const std::string& path, OpCall& call) {
  std::vector<OwnedTensor> on_host;
  std::vector<io::NamedTensor> tensors;
  for (const std::string& name : call.output_order()) {
    Result<OwnedTensor> copy = call.outputs().at(name).to_host();
    if (!copy.ok()) return copy.status();
    on_host.push_back(std::move(copy).value());
    tensors.push_back({name, on_host.back().view()});
  }
  // Wide elements first: every tensor is then aligned in the file.
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return base::dtype_bytes(a.view.dtype) > base::dtype_bytes(b.view.dtype);
  });
  return io::write_safetensors(path, tensors);
}

void print_report(const Options& options, OpCall& call) {
  Json json = report_json();
  json["op"] = options.name;
  json["backend"] = options.backend;
  json["out"] = options.out;
  json["outputs"] = Json::array();
  Table table({"output", "type", "shape"});
  for (const std::string& name : call.output_order()) {
    const base::TensorView& view = call.outputs().at(name).view();
    const std::vector<std::int64_t> shape(view.shape.begin(), view.shape.begin() + view.ndim);
    table.add({name, std::string(base::dtype_name(view.dtype)), base::shape_string(view)});
    json["outputs"].push_back(
        {{"name", name}, {"dtype", base::dtype_name(view.dtype)}, {"shape", shape}});
  }
  if (options.json) {
    fmt::print("{}", json_text(json));
  } else {
    table.print(stdout);
  }
}

Status run(const Options& options) {
  const Result<const OpInfo*> op = choose_operator(options.name);
  if (!op.ok()) return op.status();
  Result<Settings> settings = Settings::parse(*op.value(), options.set);
  if (!settings.ok()) return settings.status();
  std::error_code error;
  if (std::filesystem::equivalent(options.in, options.out, error)) {
    return base::invalid_argument("--out", "another file than --in", options.out);
  }
  OwnedTensor workspace;
  const Result<base::Execution> execution = make_execution(options.backend, workspace);
  if (!execution.ok()) return execution.status();
  const Result<io::SafetensorsFile> file = io::SafetensorsFile::open(options.in);
  if (!file.ok()) return file.status();
  HALFBYTE_RETURN_IF_ERROR(check_inputs(*op.value(), file.value()));

  const bool cuda = options.backend == "cuda";
  OpCall call(std::move(settings).value(), execution.value(), cuda ? kCudaDevice : kHost);
  HALFBYTE_RETURN_IF_ERROR(load_inputs(file.value(), call));
  HALFBYTE_RETURN_IF_ERROR(op.value()->run(call));
  if (cuda) HALFBYTE_RETURN_IF_ERROR(device_synchronize());
  HALFBYTE_RETURN_IF_ERROR(write_outputs(options.out, call));
  print_report(options, call);
  return {};
}

}  // namespace

Command add_op(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* parser =
      program.add_subcommand("op", "One operator on the tensors of a safetensors file");
  parser->add_option("NAME", options->name, operator_names())->required();
  parser->add_option("--in", options->in, "safetensors file that holds the inputs, by name")
      ->required();
  parser->add_option("--out", options->out, "safetensors file to write")->required();
  parser->add_option("--set", options->set, "key=value, any number of them");
  parser->add_option("--backend", options->backend, "auto (default: the CPU), ref, cpu or cuda")
      ->check(CLI::IsMember({"auto", "ref", "cpu", "cuda"}));
  parser->add_flag("--json", options->json, "list the outputs as JSON");
  parser->footer(
      operators_help() +
      "Example:\n  halfbyte op rmsnorm_quantize --in norm.safetensors --out q.safetensors "
      "--set layout=128x4 scale=row");
  return {parser, [options] {
            const Status status = run(*options);
            return status.ok() ? kExitOk : print_error(status);
          }};
}

}  // namespace halfbyte::app
