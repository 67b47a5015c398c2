#include "halfbyte/ops/quantize/quantize.h"

#include <cmath>

#include "halfbyte/base/float_environment.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/common/quantize_target.h"
#include "halfbyte/ops/quantize/quantize_kernels.h"

namespace halfbyte::ops {

using base::CpuLevel;
using base::DType;
using base::Execution;
using base::invalid_argument;
using base::Result;
using base::Status;
using formats::PackedTensor;
using formats::RowTarget;
using formats::ScaleKind;

namespace {

// In order of preference; the reference runs where nothing else does.
constexpr LevelKernel<const QuantizeKernels*> kImplementations[] = {
#ifdef HALFBYTE_HAS_CPU_V4
    {CpuLevel::kV4, &v4::kQuantizeKernels},
#endif
#ifdef HALFBYTE_HAS_CPU_V3
    {CpuLevel::kV3, &v3::kQuantizeKernels},
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
    {CpuLevel::kNeon, &neon::kQuantizeKernels},
#endif
    {CpuLevel::kReference, &reference::kQuantizeKernels},
};

Status run_quantize(const QuantizeArgs& args, const Execution& execution) {
  // From the first line on: the checks compare floats too, and a subnormal scale is a valid one.
  const base::IeeeFloatScope ieee;
  const Result<Rows> x = resolve_float_rows("x", args.x);
  if (!x.ok()) return x.status();
  const Result<Choice> choice = choose_implementation(execution, args.x.device);
  if (!choice.ok()) return choice.status();

  OverlapCheck overlap;
  overlap.reads("x", x.value());
  Result<RowTarget> resolved =
      resolve_target(args.spec, args.given, args.out, x.value().map.rows, x.value().columns,
                     args.x.device, overlap, args.groups);
  if (!resolved.ok()) return resolved.status();
  HALFBYTE_RETURN_IF_ERROR(overlap.result());
  RowTarget& target = resolved.value();
  const bool computed = target.mode == ScaleMode::kComputed;

  if (choice.value().cuda) {
    if (computed) HALFBYTE_RETURN_IF_ERROR(check_workspace(execution));
    return cuda::quantize(x.value(), target, args.x.device, execution);
  }
  const QuantizeKernels& kernels = *kernel_of(kImplementations, choice.value().cpu_level);
  float amax = 0.0f;
  if (computed) {
    kernels.amax(x.value(), false, &amax, execution.num_threads);
    target.tensor_amax = &amax;
    target.put_computed_scale();
  }
  kernels.quantize(x.value(), target, execution.num_threads);
  return {};
}

// The fp32 scale of a packed tensor: none, one, or one a row.
Status resolve_packed_scale(const PackedTensor& packed, std::int64_t rows, base::Device device,
                            DequantizeProblem& problem, OverlapCheck& overlap) {
  const int kind = static_cast<int>(packed.scale_kind);
  if (kind < 0 || kind > 2) {
    return invalid_argument("scale_kind", "none, encode or decode", std::to_string(kind));
  }
  problem.scale_kind = packed.scale_kind;
  if (packed.scale_kind == ScaleKind::kNone) {
    return check_absent("scale", packed.scale, "scale_kind is none");
  }
  if (packed.format == Format::kMxfp4) {
    return invalid_argument(
        "scale", "no fp32 scale (mxfp4 has none)",
        packed.scale_kind == ScaleKind::kEncode ? "a global_scale" : "a decode_scale");
  }
  if (!packed.scale) return invalid_argument("scale", "a tensor", "none");
  const bool on_host = packed.scale.device.type == base::DeviceType::kCpu;
  const std::int64_t count = packed.scale.numel();
  const bool one = count == 1;
  if (!one && count != rows) {
    return invalid_argument("scale", "shape [1] or [" + std::to_string(rows) + "]",
                            base::shape_string(packed.scale));
  }
  const bool by_value = one && on_host && device.type == base::DeviceType::kCuda;
  HALFBYTE_RETURN_IF_ERROR(check_array("scale", packed.scale, DType::kF32, count,
                                       by_value ? packed.scale.device : device));
  if (by_value) {
    problem.scale_value = *packed.scale.as<const float>();
    return {};
  }
  problem.scale = packed.scale.as<const float>();
  problem.scale_stride = one ? 0 : 1;
  overlap.reads("scale", packed.scale);
  return {};
}

Status run_dequantize(const DequantizeArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;
  const PackedTensor& packed = args.packed;
  const Result<Rows> x = resolve_float_rows("x", args.x);
  if (!x.ok()) return x.status();
  const Result<Choice> choice = choose_implementation(execution, args.x.device);
  if (!choice.ok()) return choice.status();
  HALFBYTE_RETURN_IF_ERROR(check_format(packed.format));
  HALFBYTE_RETURN_IF_ERROR(check_layout("layout", packed.layout));
  if (x.value().map.rows != packed.rows || x.value().columns != packed.columns) {
    return invalid_argument(
        "x",
        std::to_string(packed.rows) + " rows of " + std::to_string(packed.columns) + " columns",
        "shape " + base::shape_string(args.x));
  }
  const int block = formats::block_elements(packed.format);
  if (packed.columns % block != 0) {
    return invalid_argument("columns", "a multiple of " + std::to_string(block),
                            std::to_string(packed.columns));
  }
  const Result<Rows> codes =
      resolve_codes(packed.codes, packed.format, packed.rows, packed.columns, args.x.device);
  if (!codes.ok()) return codes.status();

  OverlapCheck overlap;
  overlap.writes("x", x.value());
  overlap.reads("codes", codes.value());
  DequantizeProblem problem;
  problem.format = packed.format;
  problem.layout = packed.layout;
  problem.codes = packed.codes.as<const std::uint8_t>();
  problem.code_rows = codes.value().map;
  problem.x = x.value();
  if (formats::has_block_scales(packed.format)) {
    const std::int64_t bytes =
        formats::scale_bytes(packed.layout, packed.rows, packed.columns / block);
    HALFBYTE_RETURN_IF_ERROR(
        check_array("scales", packed.scales, DType::kU8, bytes, args.x.device));
    problem.scales = packed.scales.as<const std::uint8_t>();
    overlap.reads("scales", packed.scales);
  } else {
    HALFBYTE_RETURN_IF_ERROR(check_absent("scales", packed.scales, "fp8 has no block scales"));
    if (packed.layout != ScaleLayout::kLinear) {
      return invalid_argument("layout", "no scale layout (fp8 has no block scales)",
                              formats::layout_name(packed.layout));
    }
  }
  HALFBYTE_RETURN_IF_ERROR(
      resolve_packed_scale(packed, x.value().map.rows, args.x.device, problem, overlap));
  HALFBYTE_RETURN_IF_ERROR(overlap.result());

  if (choice.value().cuda) return cuda::dequantize(problem, args.x.device, execution);
  kernel_of(kImplementations, choice.value().cpu_level)->dequantize(problem, execution.num_threads);
  return {};
}

Status run_amax(const AmaxArgs& args, const Execution& execution) {
  const base::IeeeFloatScope ieee;
  const Result<Rows> x = resolve_float_rows("x", args.x);
  if (!x.ok()) return x.status();
  const Result<Choice> choice = choose_implementation(execution, args.x.device);
  if (!choice.ok()) return choice.status();
  const std::int64_t count = args.per_row ? x.value().map.rows : 1;
  HALFBYTE_RETURN_IF_ERROR(check_array("amax", args.amax, DType::kF32, count, args.x.device));
  OverlapCheck overlap;
  overlap.reads("x", x.value());
  overlap.writes("amax", args.amax);
  HALFBYTE_RETURN_IF_ERROR(overlap.result());

  float* amax = args.amax.as<float>();
  if (choice.value().cuda) {
    return cuda::amax(x.value(), args.per_row, amax, args.x.device, execution);
  }
  kernel_of(kImplementations, choice.value().cpu_level)
      ->amax(x.value(), args.per_row, amax, execution.num_threads);
  return {};
}

}  // namespace

Status quantize(const QuantizeArgs& args, const Execution& execution) {
  return base::in_operator("quantize", run_quantize(args, execution));
}
Status dequantize(const DequantizeArgs& args, const Execution& execution) {
  return base::in_operator("dequantize", run_dequantize(args, execution));
}
Status amax(const AmaxArgs& args, const Execution& execution) {
  return base::in_operator("amax", run_amax(args, execution));
}

#ifndef HALFBYTE_WITH_CUDA
// choose_implementation refuses CUDA tensors in such a build before these could be reached.
namespace cuda {
Status quantize(const Rows&, const RowTarget&, base::Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
Status dequantize(const DequantizeProblem&, base::Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
Status amax(const Rows&, bool, float*, base::Device, const Execution&) {
  return base::unsupported("no CUDA kernels in this build");
}
}  // namespace cuda
#endif

}  // namespace halfbyte::ops
