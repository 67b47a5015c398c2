// From a problem to one of the kernels of rmsnorm_tile.cuh, where they take its rows.
#pragma once

#include "halfbyte/ops/rmsnorm/rmsnorm_tile.cuh"
#include "halfbyte/simt/tile_launch.cuh"

namespace halfbyte::ops::cuda {

// Whether the kernels for plain problems can do it.
inline bool is_plain(const NormProblem& problem, const formats::RowTarget* target) {
  const bool one_result = target == nullptr ? problem.y.data != nullptr
                                            : problem.y.data == nullptr && simt::is_plain(*target);
  return one_result && problem.amax == nullptr && !problem.weight_bias &&
         problem.x.dtype != base::DType::kF32 && problem.weight_dtype == problem.x.dtype &&
         problem.rounding == Rounding::kFloat32;
}

inline simt::TilePlan rmsnorm_tile_plan(const NormProblem& problem,
                                        const formats::RowTarget* target,
                                        const simt::DeviceProperties& device) {
  const auto fits = [&](const Rows& rows) {
    return rows.data == nullptr ||
           simt::takes_tiles(rows.data, rows.map, base::dtype_bytes(rows.dtype));
  };
  if (!fits(problem.x) || !fits(problem.residual) || !fits(problem.y) ||
      reinterpret_cast<std::uintptr_t>(problem.weight) % 16 != 0 ||
      problem.rows() >= std::int64_t{1} << 31 ||
      (target != nullptr && !simt::takes_tiles(*target))) {
    return {};
  }
  return simt::tile_plan({.rows = problem.rows(),
                          .columns = problem.columns(),
                          .multiprocessors = device.multiprocessors,
                          .shared_bytes = simt::most_shared_bytes(),
                          .element_bytes = base::dtype_bytes(problem.x.dtype),
                          .updates_rows = static_cast<bool>(problem.residual),
                          .plain = is_plain(problem, target),
                          .quantizes = target != nullptr,
                          .row_scales = target != nullptr && target->scale_a_row(),
                          .clusters = simt::has_cluster_code()});
}

template <class Source>
base::Status launch_rmsnorm_tiles(const NormProblem& problem, const formats::RowTarget* target,
                                  const simt::TilePlan& plan, const simt::LaunchOptions& options) {
  using T = typename Source::Element;
  Source source = {};
  source.x = static_cast<const T*>(problem.x.data);
  source.x_stride = simt::stride_bytes(problem.x.map, sizeof(T));
  source.residual = static_cast<T*>(problem.residual.data);
  source.residual_stride = simt::stride_bytes(problem.residual.map, sizeof(T));
  source.weight = problem.weight;
  source.weight_is_fp32 = problem.weight_dtype == base::DType::kF32;
  source.weight_bias = problem.weight_bias;
  source.constants_first = options.constant_weights && options.programmatic;
  source.rounding = problem.rounding;
  source.eps = problem.eps;
  source.columns = static_cast<float>(problem.columns());
  source.columns_reciprocal = 1.0f / source.columns;
  auto out = simt::tile_outputs<Source::kFormat>(problem.rows(), problem.columns(), target);
  out.y = problem.y.data;
  out.y_stride = simt::stride_bytes(problem.y.map, sizeof(T));
  out.amax = problem.amax;
  return simt::launch_row_tiles(source, out, plan, options);
}

template <class T, bool kResidual, formats::Format F>
base::Status launch_rmsnorm_tiles(const NormProblem& problem, const formats::RowTarget& target,
                                  const simt::TilePlan& plan, const simt::LaunchOptions& options) {
  if constexpr (sizeof(T) == 2) {
    if (plan.plain) {
      return launch_rmsnorm_tiles<NormTileSource<T, kResidual, true, F, true>>(problem, &target,
                                                                               plan, options);
    }
  }
  return launch_rmsnorm_tiles<NormTileSource<T, kResidual, true, F, false>>(problem, &target, plan,
                                                                            options);
}

template <class T, bool kResidual>
base::Status launch_rmsnorm_tiles(const NormProblem& problem, const formats::RowTarget* target,
                                  const simt::TilePlan& plan, const simt::LaunchOptions& options) {
  using formats::Format;
  if (target == nullptr) {
    if constexpr (sizeof(T) == 2) {
      if (plan.plain) {
        return launch_rmsnorm_tiles<NormTileSource<T, kResidual, false, Format::kFp8, true>>(
            problem, target, plan, options);
      }
    }
    return launch_rmsnorm_tiles<NormTileSource<T, kResidual, false, Format::kFp8, false>>(
        problem, target, plan, options);
  }
  return simt::visit_format(target->format, [&](auto format) {
    return launch_rmsnorm_tiles<T, kResidual, decltype(format)::value>(problem, *target, plan,
                                                                       options);
  });
}

}  // namespace halfbyte::ops::cuda
