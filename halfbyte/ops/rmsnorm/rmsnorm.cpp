#include "halfbyte/ops/rmsnorm/rmsnorm.h"

#include <cmath>

#include "halfbyte/base/float_environment.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/common/quantize_target.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_kernels.h"

namespace halfbyte::ops {

using base::CpuLevel;
using base::Execution;
using base::invalid_argument;
using base::Result;
using base::Status;
using formats::RowTarget;

namespace {

// In order of preference; the reference runs where nothing else does.
constexpr LevelKernel<NormKernel> kImplementations[] = {
#ifdef HALFBYTE_HAS_CPU_V4
    {CpuLevel::kV4, v4::rmsnorm_rows},
#endif
#ifdef HALFBYTE_HAS_CPU_V3
    {CpuLevel::kV3, v3::rmsnorm_rows},
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
    {CpuLevel::kNeon, neon::rmsnorm_rows},
#endif
    {CpuLevel::kReference, reference::rmsnorm_rows},
};

// Checks what every form of the operator takes.
Result<NormProblem> resolve_norm(const NormArgs& args, OverlapCheck& overlap) {
  const Result<Rows> x = resolve_float_rows("x", args.x);
  if (!x.ok()) return x.status();
  overlap.reads("x", x.value());

  NormProblem problem;
  problem.x = x.value();
  if (!args.weight) return invalid_argument("weight", "a tensor", "none");
  if (args.weight.dtype != args.x.dtype && args.weight.dtype != base::DType::kF32) {
    return invalid_argument("weight",
                            std::string(base::dtype_name(args.x.dtype)) + " (as x) or fp32",
                            std::string(base::dtype_name(args.weight.dtype)));
  }
  if (args.weight.ndim != 1 || args.weight.shape[0] != problem.columns()) {
    return invalid_argument("weight", "shape [" + std::to_string(problem.columns()) + "]",
                            base::shape_string(args.weight));
  }
  HALFBYTE_RETURN_IF_ERROR(
      check_array("weight", args.weight, args.weight.dtype, problem.columns(), args.x.device));
  overlap.reads("weight", args.weight);
  problem.weight = args.weight.data;
  problem.weight_dtype = args.weight.dtype;

  if (args.residual) {
    const Result<Rows> residual = resolve_rows("residual", args.residual);
    if (!residual.ok()) return residual.status();
    HALFBYTE_RETURN_IF_ERROR(check_dtype("residual", args.residual, args.x.dtype));
    HALFBYTE_RETURN_IF_ERROR(check_shape("residual", args.residual, args.x));
    HALFBYTE_RETURN_IF_ERROR(check_device("residual", args.residual, args.x.device));
    problem.residual = residual.value();
    overlap.writes("residual", residual.value());
  }
  if (!std::isfinite(args.eps) || args.eps < 0.0f) {
    return invalid_argument("eps", "a finite value >= 0", std::to_string(args.eps));
  }
  if (args.rounding != Rounding::kFloat32 && args.rounding != Rounding::kHuggingFace) {
    return invalid_argument("rounding", "float32 or huggingface",
                            std::to_string(static_cast<int>(args.rounding)));
  }
  problem.eps = args.eps;
  problem.rounding = args.rounding;
  problem.weight_bias = args.weight_bias;
  return problem;
}

// The normalised output, of the type and shape of x.
Status resolve_normed(const char* argument, const TensorView& normed, const TensorView& x,
                      NormProblem& problem, OverlapCheck& overlap) {
  const Result<Rows> rows = resolve_rows(argument, normed);
  if (!rows.ok()) return rows.status();
  HALFBYTE_RETURN_IF_ERROR(check_dtype(argument, normed, x.dtype));
  HALFBYTE_RETURN_IF_ERROR(check_shape(argument, normed, x));
  HALFBYTE_RETURN_IF_ERROR(check_device(argument, normed, x.device));
  problem.y = rows.value();
  overlap.writes(argument, rows.value());
  return {};
}

Status run_rmsnorm(const RmsNormArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;  // the checks compare floats too
  OverlapCheck overlap;
  Result<NormProblem> problem = resolve_norm(args.norm, overlap);
  if (!problem.ok()) return problem.status();
  const Result<Choice> choice = choose_implementation(execution, args.norm.x.device);
  if (!choice.ok()) return choice.status();
  HALFBYTE_RETURN_IF_ERROR(resolve_normed("y", args.y, args.norm.x, problem.value(), overlap));
  HALFBYTE_RETURN_IF_ERROR(overlap.result());

  if (choice.value().cuda) {
    return cuda::rmsnorm_rows(problem.value(), args.norm.x.device, execution);
  }
  kernel_of(kImplementations, choice.value().cpu_level)(problem.value(), execution.num_threads);
  return {};
}

Status run_computed_on_cuda(const NormProblem& problem, RowTarget& target, base::Device device,
                            const Execution& execution) {
  HALFBYTE_RETURN_IF_ERROR(check_workspace(execution));
  float* amax = static_cast<float*>(execution.workspace);
  HALFBYTE_RETURN_IF_ERROR(
      cuda::rmsnorm_rows(computed_first_pass(problem, amax), device, execution));
  target.tensor_amax = amax;
  return cuda::rmsnorm_rows(computed_second_pass(problem), device, execution);
}

Status run_rmsnorm_quantize(const RmsNormQuantizeArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;  // the checks compare floats too
  OverlapCheck overlap;
  Result<NormProblem> resolved = resolve_norm(args.norm, overlap);
  if (!resolved.ok()) return resolved.status();
  NormProblem& problem = resolved.value();
  const Result<Choice> choice = choose_implementation(execution, args.norm.x.device);
  if (!choice.ok()) return choice.status();
  if (args.normed) {
    HALFBYTE_RETURN_IF_ERROR(resolve_normed("normed", args.normed, args.norm.x, problem, overlap));
  }
  if (args.spec.scale_rule == ScaleRule::kTe) {
    return invalid_argument("scale_rule", "kernel (te is for quantize alone)", "te");
  }
  Result<RowTarget> target = resolve_target(args.spec, args.given, args.out, problem.rows(),
                                            problem.columns(), args.norm.x.device, overlap);
  if (!target.ok()) return target.status();
  HALFBYTE_RETURN_IF_ERROR(overlap.result());
  problem.target = &target.value();
  const bool computed = args.spec.scale == ScaleMode::kComputed;

  if (choice.value().cuda) {
    if (computed) {
      return run_computed_on_cuda(problem, target.value(), args.norm.x.device, execution);
    }
    return cuda::rmsnorm_rows(problem, args.norm.x.device, execution);
  }
  const NormKernel kernel = kernel_of(kImplementations, choice.value().cpu_level);
  if (!computed) {
    kernel(problem, execution.num_threads);
    return {};
  }
  float amax = 0.0f;
  kernel(computed_first_pass(problem, &amax), execution.num_threads);
  target.value().tensor_amax = &amax;
  target.value().put_computed_scale();
  kernel(computed_second_pass(problem), execution.num_threads);
  return {};
}

}  // namespace

Status rmsnorm(const RmsNormArgs& args, const Execution& execution) {
  return base::in_operator("rmsnorm", run_rmsnorm(args, execution));
}
Status rmsnorm_quantize(const RmsNormQuantizeArgs& args, const Execution& execution) {
  return base::in_operator("rmsnorm_quantize", run_rmsnorm_quantize(args, execution));
}

#ifndef HALFBYTE_WITH_CUDA
// choose_implementation refuses CUDA tensors in such a build before this could be reached.
namespace cuda {
Status rmsnorm_rows(const NormProblem&, base::Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
}  // namespace cuda
#endif

}  // namespace halfbyte::ops
