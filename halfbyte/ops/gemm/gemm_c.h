// What the C functions of this room share. Internal.
#pragma once

#include "halfbyte/ops/common/c_abi.h"
#include "halfbyte/ops/gemm/gemm.h"

namespace halfbyte::ops::c_abi {

base::Status read_gemm(const halfbyte_gemm_args& from, GemmArgs& to);

// The body of a C function that asks how much workspace a call needs: kQuery answers.
template <auto kQuery, class CArgs, class Args>
halfbyte_status workspace_query(const char* name, const CArgs* args,
                                const halfbyte_execution* execution, std::uint64_t* bytes,
                                base::Status (*read)(const CArgs&, Args&)) {
  if (bytes == nullptr) {
    set_error_message(std::string(name) + ": bytes: expected a pointer, got NULL");
    return HALFBYTE_INVALID_ARGUMENT;
  }
  static thread_local std::size_t answer = 0;  // what call() has no way to hand over
  const halfbyte_status status = call<CArgs, Args>(
      name, args, execution, read, [](const Args& converted, const base::Execution& how) {
        const base::Result<std::size_t> found = kQuery(converted, how);
        if (found.ok()) answer = found.value();
        return found.status();
      });
  if (status == HALFBYTE_OK) *bytes = answer;
  return status;
}

}  // namespace halfbyte::ops::c_abi
