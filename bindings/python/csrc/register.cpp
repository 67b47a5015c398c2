// What the package calls once, when it is imported and has defined the operators.
#include <array>
#include <exception>
#include <string>

#include "arguments.h"
#include "operators.h"
#include "torch_abi.h"

namespace halfbyte::bindings {
namespace {

using torch_abi::torch;

// The libraries live as long as the process: torch holds pointers to the kernels.
const char* register_operators() {
  if (const char* missing = torch_abi::load()) return missing;
  for (const char* key : {"CPU", "CUDA"}) {
    torch_abi::LibraryHandle library = nullptr;
    if (torch().aoti_torch_library_init_impl("halfbyte", key, __FILE__, __LINE__, &library) != 0) {
      return "a library for the operators' kernels";
    }
    for (const auto& operators : {gemm_operators(), gemm_silu_mul_operators(), quantize_operators(),
                                  rmsnorm_operators(), silu_mul_operators(), rope_operators()}) {
      for (const Operator& op : operators) {
        if (torch().torch_library_impl(library, op.name, op.kernel, torch_abi::kAbiVersion) != 0) {
          return op.name;
        }
      }
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace halfbyte::bindings

// Registers the kernels of all operators, which must be defined; null, or what failed.
extern "C" __attribute__((visibility("default"))) const char* halfbyte_torch_register() {
  try {
    static const char* const result = halfbyte::bindings::register_operators();
    return result;
  } catch (const std::exception&) {
    return "an exception";
  }
}

// A halfbyte_status: of the last operator that failed on this thread.
extern "C" __attribute__((visibility("default"))) int halfbyte_torch_last_status() {
  return halfbyte::bindings::last_status();
}
