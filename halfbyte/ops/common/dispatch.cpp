#include "halfbyte/ops/common/dispatch.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "halfbyte/base/cuda_device.h"

namespace halfbyte::ops {

using base::Backend;
using base::invalid_argument;

base::Result<Choice> choose_implementation(const base::Execution& execution, base::Device device) {
  if (execution.num_threads < 0) {
    return invalid_argument("num_threads", "0 (all) or more",
                            std::to_string(execution.num_threads));
  }
  if (device.type == base::DeviceType::kCuda) {
    if (execution.backend != Backend::kAuto && execution.backend != Backend::kCuda) {
      return invalid_argument("backend", "auto or cuda for tensors on " + base::to_string(device),
                              execution.backend == Backend::kCpu ? "cpu" : "reference");
    }
    if (!base::built_with_cuda()) {
      return base::unsupported("x is on " + base::to_string(device) +
                               ", and this build of halfbyte has no CUDA kernels");
    }
    return Choice{.cuda = true};
  }
  if (execution.backend == Backend::kCuda) {
    return invalid_argument("backend", "auto, cpu or reference for tensors on the cpu", "cuda");
  }
  if (execution.backend == Backend::kReference) return Choice{};

  const base::CpuLevel level = execution.cpu_level.value_or(base::default_cpu_level());
  const std::vector<base::CpuLevel>& levels = base::available_cpu_levels();
  if (std::find(levels.begin(), levels.end(), level) == levels.end()) {
    std::string names;
    for (const base::CpuLevel each : levels) {
      names += (names.empty() ? "" : ", ") + std::string(base::cpu_level_name(each));
    }
    return invalid_argument("cpu_level", "one of " + names,
                            std::string(base::cpu_level_name(level)));
  }
  return Choice{.cpu_level = level};
}

base::Status check_workspace(const base::Execution& execution) {
  if (execution.workspace == nullptr || execution.workspace_bytes < base::kComputedWorkspaceBytes) {
    return invalid_argument("workspace",
                            std::to_string(base::kComputedWorkspaceBytes) +
                                " bytes of device memory for scale = computed",
                            execution.workspace == nullptr
                                ? "none"
                                : std::to_string(execution.workspace_bytes) + " bytes");
  }
  if (reinterpret_cast<std::uintptr_t>(execution.workspace) % 4 != 0) {
    return invalid_argument("workspace", "a pointer aligned to 4 bytes", "one that is not");
  }
  return {};
}

}  // namespace halfbyte::ops
