#include "torch_abi.h"

#include <dlfcn.h>

namespace halfbyte::torch_abi {
namespace {

Functions functions;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): set by load()

// The library if this process has it already; torch has loaded its own by path.
void* loaded(const char* name) { return dlopen(name, RTLD_LAZY | RTLD_NOLOAD); }

template <class Function>
bool look_up(void* library, const char* name, Function*& to) {
  to = reinterpret_cast<Function*>(dlsym(library, name));
  return to != nullptr;
}

}  // namespace

const Functions& torch() { return functions; }

const char* load() {
  void* cpu = loaded("libtorch_cpu.so");
  if (cpu == nullptr) return "libtorch_cpu.so (import torch first)";
#define HALFBYTE_LOOK_UP(result, name, parameters) \
  if (!look_up(cpu, #name, functions.name)) return #name;
  HALFBYTE_TORCH_FUNCTIONS(HALFBYTE_LOOK_UP)
#undef HALFBYTE_LOOK_UP
  (void)look_up(cpu, "torch_delete_stable_ivalue", functions.torch_delete_stable_ivalue);
  void* cuda = loaded("libtorch_cuda.so");
  if (cuda != nullptr) {
#define HALFBYTE_LOOK_UP(result, name, parameters) \
  if (!look_up(cuda, #name, functions.name)) return #name;
    HALFBYTE_TORCH_CUDA_FUNCTIONS(HALFBYTE_LOOK_UP)
#undef HALFBYTE_LOOK_UP
  }
  return nullptr;
}

}  // namespace halfbyte::torch_abi
