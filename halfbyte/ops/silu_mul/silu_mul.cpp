#include "halfbyte/ops/silu_mul/silu_mul.h"

#include <cmath>
#include <string>

#include "halfbyte/base/float_environment.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/silu_mul/silu_mul_epilogue.h"

namespace halfbyte::ops {

using base::CpuLevel;
using base::Execution;
using base::invalid_argument;
using base::Result;
using base::Status;
using formats::RowTarget;

namespace {

// In order of preference; the reference runs where nothing else does.
constexpr LevelKernel<SiluMulKernel> kImplementations[] = {
#ifdef HALFBYTE_HAS_CPU_V4
    {CpuLevel::kV4, v4::silu_mul_rows},
#endif
#ifdef HALFBYTE_HAS_CPU_V3
    {CpuLevel::kV3, v3::silu_mul_rows},
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
    {CpuLevel::kNeon, neon::silu_mul_rows},
#endif
    {CpuLevel::kReference, reference::silu_mul_rows},
};

Status check_finite(const char* argument, float value) {
  if (std::isfinite(value)) return {};
  return invalid_argument(argument, "a finite value", std::to_string(value));
}

Result<SiluMulRule> resolve_rule(const Activation& args) {
  SiluMulRule rule;
  if (args.clamp) {
    if (!std::isfinite(*args.clamp) || !(*args.clamp > 0.0f)) {
      return invalid_argument("clamp", "a finite value > 0", std::to_string(*args.clamp));
    }
    rule.clamp = *args.clamp;
  }
  HALFBYTE_RETURN_IF_ERROR(check_finite("alpha", args.alpha));
  HALFBYTE_RETURN_IF_ERROR(check_finite("up_bias", args.up_bias));
  if (args.rounding != Rounding::kFloat32 && args.rounding != Rounding::kHuggingFace) {
    return invalid_argument("rounding", "float32 or huggingface",
                            std::to_string(static_cast<int>(args.rounding)));
  }
  rule.alpha = args.alpha;
  rule.up_bias = args.up_bias;
  rule.rounding = args.rounding;
  return rule;
}

// I must be a multiple of `of`.
Status check_columns(const GateUpColumns& gate_up, std::int64_t of, const std::string& why) {
  if (gate_up.count % (2 * of) == 0) return {};
  return invalid_argument(
      gate_up.argument,
      gate_up.what + (of == 1 ? std::string(", an even one")
                              : ", I a multiple of " + std::to_string(of) + why),
      std::to_string(gate_up.count));
}

GateUpColumns columns_of(const SiluMulProblem& problem) {
  return {"gate_up", "a last dimension 2I", problem.gate_up.columns};
}

// Checks what both operators take.
Result<SiluMulProblem> resolve_input(const TensorView& input, const Activation& args,
                                     OverlapCheck& overlap) {
  const Result<Rows> gate_up = resolve_float_rows("gate_up", input);
  if (!gate_up.ok()) return gate_up.status();
  overlap.reads("gate_up", gate_up.value());
  SiluMulProblem problem;
  problem.gate_up = gate_up.value();
  HALFBYTE_RETURN_IF_ERROR(resolve_activation(columns_of(problem), args, problem));
  return problem;
}

Status resolve_y(const TensorView& y, const TensorView& gate_up, SiluMulProblem& problem,
                 OverlapCheck& overlap) {
  const Result<Rows> rows = resolve_rows("y", y);
  if (!rows.ok()) return rows.status();
  HALFBYTE_RETURN_IF_ERROR(check_dtype("y", y, gate_up.dtype));
  TensorView expected = gate_up;
  expected.shape[static_cast<std::size_t>(expected.ndim - 1)] = problem.columns;
  HALFBYTE_RETURN_IF_ERROR(check_shape("y", y, expected));
  HALFBYTE_RETURN_IF_ERROR(check_device("y", y, gate_up.device));
  problem.y = rows.value();
  overlap.writes("y", rows.value());
  return {};
}

Status run_silu_mul(const SiluMulArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;  // the checks compare floats too
  OverlapCheck overlap;
  const TensorView& gate_up = args.gate_up;
  Result<SiluMulProblem> problem = resolve_input(gate_up, args.activation, overlap);
  if (!problem.ok()) return problem.status();
  const Result<Choice> choice = choose_implementation(execution, gate_up.device);
  if (!choice.ok()) return choice.status();
  HALFBYTE_RETURN_IF_ERROR(resolve_y(args.y, gate_up, problem.value(), overlap));
  HALFBYTE_RETURN_IF_ERROR(overlap.result());

  if (choice.value().cuda) {
    return cuda::silu_mul_rows(problem.value(), gate_up.device, execution);
  }
  silu_mul_kernel(choice.value().cpu_level)(problem.value(), execution.num_threads);
  return {};
}

Status run_silu_mul_quantize(const SiluMulQuantizeArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;  // the checks compare floats too
  OverlapCheck overlap;
  const base::Device device = args.gate_up.device;
  Result<SiluMulProblem> resolved = resolve_input(args.gate_up, args.activation, overlap);
  if (!resolved.ok()) return resolved.status();
  SiluMulProblem& problem = resolved.value();
  const Result<Choice> choice = choose_implementation(execution, device);
  if (!choice.ok()) return choice.status();
  Result<RowTarget> target =
      resolve_silu_mul_target(columns_of(problem), problem.rows(), device, args.spec, args.given,
                              args.out, args.groups, overlap);
  if (!target.ok()) return target.status();
  HALFBYTE_RETURN_IF_ERROR(overlap.result());
  problem.target = &target.value();
  const bool computed = args.spec.scale == ScaleMode::kComputed;

  if (choice.value().cuda) {
    if (computed) HALFBYTE_RETURN_IF_ERROR(check_workspace(execution));
    return cuda::silu_mul_quantize(problem, target.value(),
                                   static_cast<float*>(execution.workspace), device, execution);
  }
  const SiluMulKernel kernel = silu_mul_kernel(choice.value().cpu_level);
  float amax = 0.0f;
  if (computed) {
    kernel(computed_first_pass(problem, &amax), execution.num_threads);
    target.value().tensor_amax = &amax;
    target.value().put_computed_scale();
  }
  kernel(problem, execution.num_threads);
  return {};
}

}  // namespace

Status resolve_activation(const GateUpColumns& gate_up, const Activation& args,
                          SiluMulProblem& problem) {
  if (args.interleave != 0 && args.interleave != 1 && args.interleave != 8) {
    return invalid_argument("interleave", "0 (halves), 1 or 8", std::to_string(args.interleave));
  }
  problem.interleave = args.interleave;
  HALFBYTE_RETURN_IF_ERROR(check_columns(gate_up, 1, ""));
  if (args.interleave == 8) {
    HALFBYTE_RETURN_IF_ERROR(check_columns(gate_up, 8, " (interleave = 8)"));
  }
  problem.columns = gate_up.count / 2;
  const Result<SiluMulRule> rule = resolve_rule(args);
  if (!rule.ok()) return rule.status();
  problem.rule = rule.value();
  return {};
}

Status check_silu_mul_spec(const GateUpColumns& gate_up, const QuantizeSpec& spec) {
  if (spec.scale_rule == ScaleRule::kTe) {
    return invalid_argument("scale_rule", "kernel (te is for quantize alone)", "te");
  }
  HALFBYTE_RETURN_IF_ERROR(check_format(spec.format));
  return check_columns(gate_up, formats::block_elements(spec.format),
                       " (" + std::string(formats::format_name(spec.format)) + " blocks)");
}

Result<RowTarget> resolve_silu_mul_target(const GateUpColumns& gate_up, std::int64_t rows,
                                          base::Device device, const QuantizeSpec& spec,
                                          const GivenScale& given, const QuantizeOutputs& out,
                                          const RowGroups& groups, OverlapCheck& overlap,
                                          const char* scale_row_offsets) {
  HALFBYTE_RETURN_IF_ERROR(check_silu_mul_spec(gate_up, spec));
  return resolve_target(spec, given, out, rows, gate_up.count / 2, device, overlap, groups,
                        scale_row_offsets);
}

SiluMulKernel silu_mul_kernel(CpuLevel level) { return kernel_of(kImplementations, level); }

namespace cuda {
Status silu_mul_quantize(const SiluMulProblem& problem, RowTarget& target, float* amax,
                         base::Device device, const Execution& execution) {
  if (target.mode == ScaleMode::kComputed) {
    HALFBYTE_RETURN_IF_ERROR(silu_mul_rows(computed_first_pass(problem, amax), device, execution));
    target.tensor_amax = amax;
  }
  return silu_mul_rows(problem, device, execution);
}
}  // namespace cuda

Status silu_mul(const SiluMulArgs& args, const Execution& execution) {
  return base::in_operator("silu_mul", run_silu_mul(args, execution));
}
Status silu_mul_quantize(const SiluMulQuantizeArgs& args, const Execution& execution) {
  return base::in_operator("silu_mul_quantize", run_silu_mul_quantize(args, execution));
}

#ifndef HALFBYTE_WITH_CUDA
// choose_implementation refuses CUDA tensors in such a build before this could be reached.
namespace cuda {
Status silu_mul_rows(const SiluMulProblem&, base::Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
}  // namespace cuda
#endif

}  // namespace halfbyte::ops
