// Which kernels make a gate-up product on a CUDA device, and why: a pure function of shapes, types,
// options and the device's properties, as gemm_plan is.
#pragma once

#include <cstddef>
#include <string>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_plan.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_kernels.h"

namespace halfbyte::ops {

// kComposed: the product into the workspace by its own plan, then the activation's kernel. kStream:
// the stream kernel with both behind it (gemm_cuda_stream_gate_up.cuh).
enum class GateUpKernelKind { kComposed, kStream };

struct GateUpPlan {
  GateUpKernelKind kind = GateUpKernelKind::kComposed;
  GemmPlan product;
  StreamPlan stream;
  std::string why;
};

// Errors: gemm_plan's.
base::Result<GateUpPlan> gate_up_plan(const GateUpProblem& problem, const GemmDevice& device);

std::string to_string(const GateUpPlan& plan);

// Where things lie in the workspace: the product's own workspace first. Bytes. A query has no
// pointers to plan by, so its answer is this one whatever the plan.
struct ComposedWorkspace {
  std::size_t amax = 0;  // 4 bytes, of scale = computed
  std::size_t gate_up = 0;
  std::size_t total = 0;
};
ComposedWorkspace composed_workspace(const GateUpProblem& problem, std::size_t product_bytes);

}  // namespace halfbyte::ops
