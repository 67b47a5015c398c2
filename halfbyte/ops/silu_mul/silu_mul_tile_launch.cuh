// From a problem to one of the kernels of silu_mul_tile.cuh, where they take its rows.
#pragma once

#include "halfbyte/ops/silu_mul/silu_mul_tile.cuh"
#include "halfbyte/simt/tile_launch.cuh"

namespace halfbyte::ops::cuda {

// Whether the kernels for plain problems can do it.
inline bool is_plain(const SiluMulProblem& problem, const formats::RowTarget* target) {
  const SiluMulRule& rule = problem.rule;
  return target != nullptr && simt::is_plain(*target) && problem.y.data == nullptr &&
         problem.amax == nullptr && problem.gate_up.dtype != base::DType::kF32 &&
         problem.interleave == 0 && rule.alpha == 1.0f && rule.up_bias == 0.0f &&
         rule.rounding == Rounding::kFloat32 &&
         numerics::float_bits(rule.clamp) == numerics::kInfBits;
}

inline simt::TilePlan silu_mul_tile_plan(const SiluMulProblem& problem,
                                         const formats::RowTarget* target,
                                         const simt::DeviceProperties& device) {
  const std::int64_t bytes = base::dtype_bytes(problem.gate_up.dtype);
  if (!simt::takes_tiles(problem.gate_up.data, problem.gate_up.map, bytes) ||
      (problem.y && !simt::takes_tiles(problem.y.data, problem.y.map, bytes)) ||
      problem.rows() >= std::int64_t{1} << 31 ||
      (target != nullptr && !simt::takes_tiles(*target))) {
    return {};
  }
  return simt::tile_plan({.rows = problem.rows(),
                          .columns = problem.columns,
                          .multiprocessors = device.multiprocessors,
                          .shared_bytes = simt::most_shared_bytes(),
                          .element_bytes = base::dtype_bytes(problem.gate_up.dtype),
                          .whole_rows = target != nullptr && target->scale_a_row(),
                          .plain = is_plain(problem, target),
                          .row_scales = target != nullptr && target->scale_a_row()});
}

template <class Source>
base::Status launch_silu_mul_tiles(const SiluMulProblem& problem, const formats::RowTarget* target,
                                   const simt::TilePlan& plan, const simt::LaunchOptions& options) {
  using T = typename Source::Element;
  Source source = {};
  source.gate_up = static_cast<const T*>(problem.gate_up.data);
  source.stride = simt::stride_bytes(problem.gate_up.map, sizeof(T));
  source.columns = static_cast<std::int32_t>(problem.columns);
  source.interleave = problem.interleave;
  source.rule = problem.rule;
  source.clamps = numerics::float_bits(problem.rule.clamp) != numerics::kInfBits;
  auto out = simt::tile_outputs<Source::kFormat>(problem.rows(), problem.columns, target);
  out.y = problem.y.data;
  out.y_stride = simt::stride_bytes(problem.y.map, sizeof(T));
  out.amax = problem.amax;
  return simt::launch_row_tiles(source, out, plan, options);
}

template <class T>
base::Status launch_silu_mul_tiles_of(const SiluMulProblem& problem,
                                      const formats::RowTarget* target, const simt::TilePlan& plan,
                                      const simt::LaunchOptions& options) {
  using formats::Format;
  if (target == nullptr) {
    return launch_silu_mul_tiles<SiluMulTileSource<T, false, Format::kFp8, false>>(problem, target,
                                                                                   plan, options);
  }
  return simt::visit_format(target->format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    if constexpr (sizeof(T) == 2) {
      if (plan.plain) {
        return launch_silu_mul_tiles<SiluMulTileSource<T, true, kFormat, true>>(problem, target,
                                                                                plan, options);
      }
    }
    return launch_silu_mul_tiles<SiluMulTileSource<T, true, kFormat, false>>(problem, target, plan,
                                                                             options);
  });
}

}  // namespace halfbyte::ops::cuda
