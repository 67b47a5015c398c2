#include "halfbyte/ops/gemm/gemm_silu_mul.h"

#include <string>

#include "halfbyte/base/float_environment.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_run.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_kernels.h"

namespace halfbyte::ops {

using base::Device;
using base::Execution;
using base::invalid_argument;
using base::Result;
using base::Status;
using formats::RowTarget;

namespace {

// A says where the operator runs.
Device device_of(const GemmArgs& product) {
  return product.a_packed.codes ? product.a_packed.codes.device : product.a.device;
}

// The target's shapes and options, for a query.
RowTarget shapes_of(const QuantizeSpec& spec, std::int64_t rows, std::int64_t columns,
                    std::int64_t groups) {
  RowTarget target;
  target.groups = groups;
  target.format = spec.format;
  target.mode = spec.scale;
  target.scale_rule = spec.scale_rule;
  target.mx_rule = spec.mx_rule;
  target.rows = target.scale_rows = rows;
  target.columns = columns;
  target.scales[0].layout = spec.layout;
  return target;
}

struct Resolved {
  GateUpProblem problem;
  Choice choice;
  std::size_t workspace_bytes = 0;
};

Result<Resolved> resolve(const GemmSiluMulQuantizeArgs& args, const Execution& execution,
                         GemmCheck check) {
  const bool call = check == GemmCheck::kCall;
  const Device device = device_of(args.product);
  OverlapCheck overlap;
  const Result<GemmProblem> product = resolve_gemm(args.product, check, overlap, args.dtype);
  if (!product.ok()) return product.status();
  Resolved resolved;
  GateUpProblem& problem = resolved.problem;
  problem.product = product.value();
  const GateUpColumns columns{"b.rows", "2I", problem.product.n};
  if (columns.count < 1) return invalid_argument("b.rows", "2I, I at least 1", "0");
  SiluMulProblem activation;
  HALFBYTE_RETURN_IF_ERROR(resolve_activation(columns, args.activation, activation));
  problem.interleave = activation.interleave;
  problem.rule = activation.rule;

  const Result<Choice> choice = choose_implementation(execution, device);
  if (!choice.ok()) return choice.status();
  resolved.choice = choice.value();
  if (!resolved.choice.cuda) HALFBYTE_RETURN_IF_ERROR(check_cpu_method(args.product.method));

  RowGroups groups;
  if (args.out_scale_row_offsets) {
    groups = args.product.groups;  // none: refused there
    groups.scale_row_offsets = args.out_scale_row_offsets;
  }
  if (call) {
    const Result<RowTarget> target =
        resolve_silu_mul_target(columns, problem.product.m, device, args.spec, args.given, args.out,
                                groups, overlap, "out_scale_row_offsets");
    if (!target.ok()) return target.status();
    HALFBYTE_RETURN_IF_ERROR(overlap.result());
    problem.target = target.value();
  } else {
    HALFBYTE_RETURN_IF_ERROR(check_silu_mul_spec(columns, args.spec));
    problem.target = shapes_of(args.spec, problem.product.m, problem.columns(), groups.count);
  }
  if (!resolved.choice.cuda) return resolved;
  const Result<std::size_t> bytes = cuda::gate_up_workspace_bytes(problem, device);
  if (!bytes.ok()) return bytes.status();
  resolved.workspace_bytes = bytes.value();
  return resolved;
}

Status run(const GemmSiluMulQuantizeArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;
  Result<Resolved> resolved = resolve(args, execution, GemmCheck::kCall);
  if (!resolved.ok()) return resolved.status();
  GateUpProblem& problem = resolved.value().problem;
  if (resolved.value().choice.cuda) {
    HALFBYTE_RETURN_IF_ERROR(check_gemm_workspace(execution, resolved.value().workspace_bytes));
    return cuda::launch_gate_up(problem, device_of(args.product), execution);
  }
  gate_up_on_cpu(problem, resolved.value().choice.cpu_level, execution.num_threads);
  return {};
}

}  // namespace

Status gemm_silu_mul_quantize(const GemmSiluMulQuantizeArgs& args, const Execution& execution) {
  return base::in_operator("gemm_silu_mul_quantize", run(args, execution));
}

Result<std::size_t> gemm_silu_mul_workspace_bytes(const GemmSiluMulQuantizeArgs& args,
                                                  const Execution& execution) {
  const Result<Resolved> resolved = resolve(args, execution, GemmCheck::kShapes);
  if (!resolved.ok()) return base::in_operator("gemm_silu_mul_workspace_bytes", resolved.status());
  return resolved.value().workspace_bytes;
}

#ifndef HALFBYTE_WITH_CUDA
// choose_implementation refuses CUDA tensors in such a build before these could be reached.
namespace cuda {
Result<std::size_t> gate_up_workspace_bytes(const GateUpProblem&, Device) {
  return base::unsupported("no CUDA kernels in this build");
}
Status launch_gate_up(const GateUpProblem&, Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
}  // namespace cuda
#endif

}  // namespace halfbyte::ops
