// The CUDA kernels of this room, as gemm_cuda.cu chooses among them.
#pragma once

#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/ops/gemm/gemm_plan.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_kernels.h"

namespace halfbyte::ops::cuda {

// What plans ask of a device.
base::Result<GemmDevice> gemm_device(base::Device device);

// Every problem, in the order of the contract, a warp an element of C: correct, not fast.
base::Status launch_any(const GemmProblem& problem, void* stream);

// What plan_decode accepted, `plan` its answer.
base::Status launch_decode(const GemmProblem& problem, const DecodePlan& plan, void* stream);

// What plan_stream accepted, `plan` its answer, as stream_plan_of leaves it.
base::Status launch_stream(const GemmProblem& problem, const StreamPlan& plan,
                           const base::Execution& execution, int device);

// What plan_gate_up_stream accepted, if is_regular_stream; nothing of gate_up goes to memory.
base::Status launch_gate_up_stream(const GateUpProblem& problem, const StreamPlan& plan,
                                   const base::Execution& execution, int device);

// Through cuBLASLt; the workspace has dequantize_workspace_bytes.
base::Status launch_dequantize(const GemmProblem& problem, void* stream, void* workspace);
std::size_t dequantize_workspace_bytes(const GemmProblem& problem);

// Operands in E4M3, then cuBLASLt; the workspace has fp8_workspace_bytes.
base::Status launch_fp8(const GemmProblem& problem, const GemmDevice& device, void* stream,
                        void* workspace);
std::size_t fp8_workspace_bytes(const GemmProblem& problem);

// NVFP4 as it is, through cuBLASLt; what no_block_scaled accepted. The workspace has
// block_scaled_workspace_bytes.
base::Status launch_block_scaled(const GemmProblem& problem, void* stream, void* workspace);
std::size_t block_scaled_workspace_bytes(const GemmProblem& problem);

}  // namespace halfbyte::ops::cuda
