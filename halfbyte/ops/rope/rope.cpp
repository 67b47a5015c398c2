#include "halfbyte/ops/rope/rope.h"

#include "halfbyte/base/float_environment.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/rope/rope_kernels.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops {

using base::CpuLevel;
using base::DType;
using base::Execution;
using base::invalid_argument;
using base::Result;
using base::Status;

namespace {

// In order of preference; the reference runs where nothing else does.
constexpr LevelKernel<RopeKernel> kImplementations[] = {
#ifdef HALFBYTE_HAS_CPU_V4
    {CpuLevel::kV4, v4::rope},
#endif
#ifdef HALFBYTE_HAS_CPU_V3
    {CpuLevel::kV3, v3::rope},
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
    {CpuLevel::kNeon, neon::rope},
#endif
    {CpuLevel::kReference, reference::rope},
};

// The same elements in the same places: what "in place" means.
bool same_view(const TensorView& a, const TensorView& b) {
  bool same = a.data == b.data && a.dtype == b.dtype && a.device == b.device && a.ndim == b.ndim;
  for (int i = 0; same && i < a.ndim; ++i) {
    same = a.shape[i] == b.shape[i] && (a.shape[i] <= 1 || a.strides[i] == b.strides[i]);
  }
  return same;
}

RopeRows rope_rows(const TensorView& view) { return {view.data, view.strides[0], view.strides[1]}; }

// x and y: [M, heads, D] of one type.
Status resolve_tensors(const RopeArgs& args, RopeProblem& problem, OverlapCheck& overlap) {
  const Result<Rows> x = resolve_float_rows("x", args.x);
  if (!x.ok()) return x.status();
  if (args.x.ndim != 3) {
    return invalid_argument("x", "shape [M, heads, D]", base::shape_string(args.x));
  }
  if (!args.y) return invalid_argument("y", "a tensor", "none");
  HALFBYTE_RETURN_IF_ERROR(check_dtype("y", args.y, args.x.dtype));
  HALFBYTE_RETURN_IF_ERROR(check_shape("y", args.y, args.x));
  HALFBYTE_RETURN_IF_ERROR(check_device("y", args.y, args.x.device));
  const Result<Rows> y = resolve_rows("y", args.y);
  if (!y.ok()) return y.status();
  problem.in_place = same_view(args.x, args.y);
  if (!problem.in_place) overlap.reads("x", x.value());
  overlap.writes("y", y.value());

  problem.dtype = args.x.dtype;
  problem.tokens = args.x.shape[0];
  problem.heads = args.x.shape[1];
  problem.head_dim = args.x.shape[2];
  problem.x = rope_rows(args.x);
  problem.y = rope_rows(args.y);
  return {};
}

Status resolve_options(const RopeArgs& args, RopeProblem& problem) {
  if (args.style != RopeStyle::kNeox && args.style != RopeStyle::kGptj) {
    return invalid_argument("style", "neox or gptj", std::to_string(static_cast<int>(args.style)));
  }
  const std::int64_t head_dim = problem.head_dim;
  const std::int64_t rope_dim = args.rope_dim == 0 ? head_dim : args.rope_dim;
  if (rope_dim < 2 || rope_dim > head_dim || rope_dim % 2 != 0) {
    return invalid_argument(
        "rope_dim", "an even number from 2 to D = " + std::to_string(head_dim),
        std::to_string(rope_dim) + (args.rope_dim == 0 ? " (D, as none is given)" : ""));
  }
  if (args.rope_offset < 0 || args.rope_offset > head_dim - rope_dim) {
    return invalid_argument("rope_offset",
                            "0 to " + std::to_string(head_dim - rope_dim) + " (D - rope_dim)",
                            std::to_string(args.rope_offset));
  }
  problem.style = args.style;
  problem.rope_dim = rope_dim;
  problem.rope_offset = args.rope_offset;
  problem.inverse = args.inverse;
  return {};
}

// One of the two tables; its row stride to `stride`.
Status resolve_table(const char* argument, const TensorView& table, const RopeArgs& args,
                     const RopeProblem& problem, OverlapCheck& overlap, const float*& data,
                     std::int64_t& stride) {
  if (!table) return invalid_argument(argument, "a tensor", "none");
  HALFBYTE_RETURN_IF_ERROR(check_dtype(argument, table, DType::kF32));
  if (table.ndim != 2 || table.shape[1] != problem.rope_dim / 2) {
    return invalid_argument(
        argument, "shape [P, " + std::to_string(problem.rope_dim / 2) + "] (rope_dim / 2)",
        base::shape_string(table));
  }
  const Result<Rows> rows = resolve_rows(argument, table);
  if (!rows.ok()) return rows.status();
  HALFBYTE_RETURN_IF_ERROR(check_device(argument, table, args.x.device));
  overlap.reads(argument, rows.value());
  data = table.as<const float>();
  stride = table.strides[0];
  return {};
}

Status resolve_tables(const RopeArgs& args, RopeProblem& problem, OverlapCheck& overlap) {
  HALFBYTE_RETURN_IF_ERROR(
      resolve_table("cos", args.cos, args, problem, overlap, problem.cos, problem.cos_stride));
  HALFBYTE_RETURN_IF_ERROR(
      resolve_table("sin", args.sin, args, problem, overlap, problem.sin, problem.sin_stride));
  HALFBYTE_RETURN_IF_ERROR(check_shape("sin", args.sin, args.cos));
  problem.table_rows = args.cos.shape[0];

  if (!args.positions) return invalid_argument("positions", "a tensor", "none");
  const DType dtype = args.positions.dtype;
  if (dtype != DType::kI32 && dtype != DType::kI64) {
    return invalid_argument("positions", "i32 or i64", std::string(base::dtype_name(dtype)));
  }
  if (args.positions.ndim != 1 || args.positions.shape[0] != problem.tokens) {
    return invalid_argument("positions", "shape [" + std::to_string(problem.tokens) + "]",
                            base::shape_string(args.positions));
  }
  HALFBYTE_RETURN_IF_ERROR(
      check_array("positions", args.positions, dtype, problem.tokens, args.x.device));
  overlap.reads("positions", args.positions);
  problem.positions = args.positions.data;
  problem.wide_positions = dtype == DType::kI64;
  return {};
}

// On the CPU alone: device memory is not read from the host.
Status check_positions(const RopeProblem& problem) {
  for (std::int64_t token = 0; token < problem.tokens; ++token) {
    const std::int64_t position = problem.position(token);
    if (position >= 0 && position < problem.table_rows) continue;
    return invalid_argument("positions",
                            "values from 0 to " + std::to_string(problem.table_rows - 1) +
                                " (the tables have " + std::to_string(problem.table_rows) +
                                " rows)",
                            std::to_string(position) + " at index " + std::to_string(token));
  }
  return {};
}

Status run_rope(const RopeArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;
  OverlapCheck overlap;
  RopeProblem problem;
  HALFBYTE_RETURN_IF_ERROR(resolve_tensors(args, problem, overlap));
  const Result<Choice> choice = choose_implementation(execution, args.x.device);
  if (!choice.ok()) return choice.status();
  HALFBYTE_RETURN_IF_ERROR(resolve_options(args, problem));
  HALFBYTE_RETURN_IF_ERROR(resolve_tables(args, problem, overlap));
  HALFBYTE_RETURN_IF_ERROR(overlap.result());

  if (choice.value().cuda) return cuda::rope(problem, args.x.device, execution);
  HALFBYTE_RETURN_IF_ERROR(check_positions(problem));
  problem.streaming =
      !problem.in_place && args.x.numel() * base::dtype_bytes(args.x.dtype) >= simd::kStreamBytes;
  kernel_of(kImplementations, choice.value().cpu_level)(problem, execution.num_threads);
  return {};
}

}  // namespace

Status rope(const RopeArgs& args, const Execution& execution) {
  return base::in_operator("rope", run_rope(args, execution));
}

#ifndef HALFBYTE_WITH_CUDA
// choose_implementation refuses CUDA tensors in such a build before this could be reached.
namespace cuda {
Status rope(const RopeProblem&, base::Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
}  // namespace cuda
#endif

}  // namespace halfbyte::ops
