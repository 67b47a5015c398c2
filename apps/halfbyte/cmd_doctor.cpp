// halfbyte doctor: what this build has and what this machine gives it.
#include <dlfcn.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"
#include "halfbyte/base/cpu_level.h"
#include "halfbyte/base/cuda_device.h"
#include "halfbyte/numerics/version.h"

namespace halfbyte::app {
namespace {

struct Library {
  std::string name;   // "cuBLASLt"
  std::string found;  // the file that dlopen took; "" if none
  std::string error;  // of the last try
};

Library find_library(const std::string& name, const std::vector<const char*>& files) {
  Library library{name, "", ""};
  for (const char* file : files) {
    // Left open: the program ends soon, and unloading these libraries is what goes wrong.
    if (dlopen(file, RTLD_LAZY | RTLD_LOCAL) != nullptr) {
      library.found = file;
      return library;
    }
    const char* error = dlerror();
    library.error = error != nullptr ? error : "unknown";
  }
  return library;
}

// "90a" -> 90; the letters (a: this device alone, f: its family) do not change the number.
std::vector<int> compiled_numbers() {
  std::vector<int> numbers;
  std::string text = base::compiled_cuda_architectures();
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    numbers.push_back(std::atoi(text.substr(begin, end - begin).c_str()));
    begin = end + 1;
  }
  return numbers;
}

// What a device runs: its own code or that of a lower minor version, else PTX of a lower one.
enum class Coverage { kNative, kPtx, kNone };
Coverage coverage(int capability) {
  Coverage best = Coverage::kNone;
  for (const int compiled : compiled_numbers()) {
    if (compiled / 10 == capability / 10 && compiled <= capability) return Coverage::kNative;
    if (compiled == 80 && compiled < capability) best = Coverage::kPtx;  // the one built with PTX
  }
  return best;
}
const char* coverage_name(Coverage value) {
  return value == Coverage::kNative ? "native" : value == Coverage::kPtx ? "ptx" : "none";
}

struct Findings {
  std::vector<std::string> levels;
  std::string level;
  std::string level_wanted;  // HALFBYTE_CPU_LEVEL, "" if not set
  int threads = omp_get_max_threads();
  unsigned processors = std::thread::hardware_concurrency();
  std::vector<base::CudaDevice> devices;
  std::string no_cuda;  // why there are none
  std::vector<Library> libraries;
  std::vector<std::string> warnings;
};

Findings examine() {
  Findings found;
  for (const base::CpuLevel level : base::available_cpu_levels()) {
    found.levels.emplace_back(base::cpu_level_name(level));
  }
  found.level = base::cpu_level_name(base::default_cpu_level());
  if (const char* wanted = std::getenv("HALFBYTE_CPU_LEVEL")) found.level_wanted = wanted;
  if (!found.level_wanted.empty() && found.level_wanted != found.level) {
    found.warnings.push_back("HALFBYTE_CPU_LEVEL=" + found.level_wanted +
                             " is ignored: unknown, or not available here");
  }
  if (found.level == "reference") {
    found.warnings.push_back("CPU kernels run as the reference: correct and slow");
  }
  const auto devices = base::cuda_devices();
  if (devices.ok()) {
    found.devices = devices.value();
    if (found.devices.empty()) found.no_cuda = "no CUDA device";
  } else {
    found.no_cuda = devices.status().message();
  }
  for (const base::CudaDevice& device : found.devices) {
    if (coverage(device.compute_capability) != Coverage::kNone) continue;
    found.warnings.push_back(fmt::format(
        "device {} ({}, sm_{}): no kernel of this build (compiled for {}) runs there", device.index,
        device.name, device.compute_capability, base::compiled_cuda_architectures()));
  }
  found.libraries.push_back(
      find_library("cuBLASLt", {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}));
  found.libraries.push_back(find_library("NCCL", {"libnccl.so.2"}));
  return found;
}

void print_json(const Findings& found) {
  Json json = report_json();
  json["numerics"] = numerics::kNumericsVersion;
  json["cpu"] = {{"level", found.level},
                 {"levels", found.levels},
                 {"threads", found.threads},
                 {"processors", found.processors}};
  json["cuda"] = {{"built", base::built_with_cuda()},
                  {"architectures", base::compiled_cuda_architectures()},
                  {"found", !found.devices.empty()},
                  {"reason", found.no_cuda.empty() ? Json(nullptr) : Json(found.no_cuda)},
                  {"devices", Json::array()}};
  for (const base::CudaDevice& device : found.devices) {
    json["cuda"]["devices"].push_back(
        {{"index", device.index},
         {"name", device.name},
         {"compute_capability", device.compute_capability},
         {"multiprocessors", device.multiprocessors},
         {"kernels", coverage_name(coverage(device.compute_capability))}});
  }
  json["libraries"] = Json::object();
  for (const Library& library : found.libraries) {
    json["libraries"][library.name] = {
        {"found", !library.found.empty()},
        {"file", library.found.empty() ? Json(nullptr) : Json(library.found)},
        {"reason", library.found.empty() ? Json(library.error) : Json(nullptr)}};
  }
  json["warnings"] = found.warnings;
  fmt::print("{}", json_text(json));
}

void print_text(const Findings& found) {
  fmt::print("halfbyte    {}, numerics {}\n", HALFBYTE_VERSION, numerics::kNumericsVersion);
  fmt::print("CPU         level {} (available: {})\n", found.level, fmt::join(found.levels, ", "));
  fmt::print("threads     {} of {} processors\n", found.threads, found.processors);
  const std::string architectures = base::compiled_cuda_architectures();
  fmt::print("CUDA        {}\n",
             base::built_with_cuda() ? "compiled for " + architectures : "not in this build");
  if (found.devices.empty()) fmt::print("            {}\n", found.no_cuda);
  for (const base::CudaDevice& device : found.devices) {
    fmt::print("            device {}: {}, sm_{}, {} multiprocessors, kernels: {}\n", device.index,
               device.name, device.compute_capability, device.multiprocessors,
               coverage_name(coverage(device.compute_capability)));
  }
  for (const Library& library : found.libraries) {
    fmt::print(
        "{:<11} {}\n", library.name,
        library.found.empty() ? "not found (" + library.error + ")" : "found: " + library.found);
  }
  for (const std::string& warning : found.warnings) print_warning(warning);
}

}  // namespace

Command add_doctor(CLI::App& program) {
  auto json = std::make_shared<bool>(false);
  CLI::App* parser =
      program.add_subcommand("doctor", "What this build has and what this machine gives it");
  parser->add_flag("--json", *json, "report as JSON");
  parser->footer("Example:\n  halfbyte doctor --json");
  return {parser, [json] {
            const Findings found = examine();
            *json ? print_json(found) : print_text(found);
            return kExitOk;
          }};
}

}  // namespace halfbyte::app
