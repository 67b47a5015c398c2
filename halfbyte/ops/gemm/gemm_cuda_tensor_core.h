// The tensor-core path of CUDA products, as gemm_cuda.cu calls it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/ops/gemm/gemm_tensor_core_plan.h"

namespace halfbyte::ops::cuda {

// What no_tensor_core accepted, `plan` from plan_tensor_core; the workspace has
// tensor_core_workspace_bytes.
base::Status launch_tensor_core(const GemmProblem& problem, const TensorCorePlan& plan,
                                void* stream, void* workspace);
std::size_t tensor_core_workspace_bytes(const GemmProblem& problem, const TensorCorePlan& plan);

// A is read where it is: 16 bits, rows at equal distances, 16-byte aligned.
bool tensor_core_reads_in_place(const GemmProblem& problem);
// What undoes the scaling of the operands: a power of two.
float tensor_core_factor(const GemmProblem& problem);
// The decode scales of A's rows, times the factor, in the workspace, behind A: where A has one a
// row.
bool tensor_core_has_decodes(const GemmProblem& problem);
float* tensor_core_decodes(const GemmProblem& problem, void* workspace);
// Of a plan that shares: what tensor_core_part_bytes and tensor_core_flags count.
void* tensor_core_parts(const GemmProblem& problem, void* workspace);
std::uint32_t* tensor_core_flags_at(const GemmProblem& problem, const TensorCorePlan& plan,
                                    void* workspace);
// A to M x K of what the kernel multiplies, dense (rows of no group are not written), and
// tensor_core_decodes; the flags become 0. Nothing of it, but for the flags, where A is read in
// place.
base::Status launch_tensor_core_rows(const GemmProblem& problem, const TensorCorePlan& plan,
                                     void* stream, void* workspace);

}  // namespace halfbyte::ops::cuda
