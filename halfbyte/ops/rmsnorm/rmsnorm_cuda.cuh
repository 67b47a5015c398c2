// The room's CUDA launcher, and its general kernel, one CTA a row of any length and alignment; one
// .cu a type instantiates them. The rows of a usual call take the kernels of rmsnorm_tile.cuh.
//
//   x, residual -> h -> leaf sums -> tree -> rstd          first walk over the row
//   h, weight   -> y -> normed, amax, row quantizer        again from memory: h is the residual
//                                                          just written, or x
#pragma once

#include "halfbyte/ops/rmsnorm/rmsnorm_kernels.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_tile_launch.cuh"
#include "halfbyte/simt/launch.cuh"
#include "halfbyte/simt/row_plan.h"
#include "halfbyte/simt/row_quantizer.cuh"

namespace halfbyte::ops::cuda {

// The problem as the kernel takes it, by value: the host's RowTarget is not behind a pointer.
struct NormKernelArgs {
  NormProblem problem;
  formats::RowTarget target;
  bool quantizes = false;
};

// y of one row, recomputed from h wherever it is asked for.
template <class T>
struct NormedRow {
  const T* h;
  const void* weight;
  bool weight_is_fp32;
  bool weight_bias;
  Rounding rounding;
  float rstd;
  std::int64_t columns;

  __device__ void load(std::int64_t column, float (&y)[simt::kVectorElems]) const {
    const std::int64_t count = columns - column;
    float w[simt::kVectorElems];
    simt::load_elements(h + column, count, y);
    if (weight_is_fp32) {
      simt::load_elements(static_cast<const float*>(weight) + column, count, w);
    } else {
      simt::load_elements(static_cast<const T*>(weight) + column, count, w);
    }
#pragma unroll
    for (int i = 0; i < simt::kVectorElems; ++i) {
      // Past the row's end h = w = +0 here, and y must be too: rstd may be Inf.
      y[i] = i < count ? numerics::to_float(rmsnorm_apply<T>(
                             y[i], rstd, rmsnorm_weight(w[i], weight_bias), rounding))
                       : 0.0f;
    }
  }
};

// The sum of squares of a row's h; writes h to the residual.
template <class T>
__device__ float read_row(const T* x, T* residual, std::int64_t columns,
                          simt::CollectiveScratch& scratch) {
  const std::int64_t leaves = (columns + numerics::kLeafElements - 1) / numerics::kLeafElements;
  return simt::canonical_row_sum(leaves, scratch, [&](std::int64_t leaf) {
    const std::int64_t column = leaf * numerics::kLeafElements;
    float h[numerics::kLeafElements];
    simt::load_elements(x + column, columns - column, h);
    if (residual != nullptr) {
      float r[numerics::kLeafElements];
      simt::load_elements(residual + column, columns - column, r);
#pragma unroll
      for (int i = 0; i < numerics::kLeafElements; ++i) h[i] = rmsnorm_add<T>(h[i], r[i]);
      simt::store_elements(h, residual + column, columns - column);
    }
    return numerics::leaf_sum_of_squares(h);
  });
}

template <class T>
__global__ void rmsnorm_kernel(const NormKernelArgs args) {
  __shared__ simt::CollectiveScratch scratch;
  const NormProblem& problem = args.problem;
  const formats::RowTarget& target = args.target;
  const std::int64_t columns = problem.x.columns;
  const std::int64_t all_rows = args.quantizes ? target.padded_rows() : problem.x.map.rows;
  std::uint32_t most = 0;
  if (args.quantizes && target.mode == formats::ScaleMode::kComputed && blockIdx.x == 0 &&
      threadIdx.x == 0) {
    target.put_computed_scale();
  }

  for (std::int64_t row = blockIdx.x; row < all_rows; row += gridDim.x) {
    if (row < problem.x.map.rows) {
      const T* x = static_cast<const T*>(problem.x.data) + problem.x.map.offset(row);
      T* residual = problem.residual.data == nullptr
                        ? nullptr
                        : static_cast<T*>(problem.residual.data) + problem.residual.map.offset(row);
      const float sum = read_row(x, residual, columns, scratch);
      const NormedRow<T> y{residual != nullptr ? residual : x,
                           problem.weight,
                           problem.weight_dtype == base::DType::kF32,
                           problem.weight_bias,
                           problem.rounding,
                           rmsnorm_rstd(sum, columns, problem.eps),
                           columns};
      if (problem.y.data != nullptr) {
        T* normed = static_cast<T*>(problem.y.data) + problem.y.map.offset(row);
        for (std::int64_t column = threadIdx.x * simt::kVectorElems; column < columns;
             column += blockDim.x * simt::kVectorElems) {
          float values[simt::kVectorElems];
          y.load(column, values);
          simt::store_elements(values, normed + column, columns - column);
        }
      }
      if (problem.amax != nullptr) {
        most = max(most, numerics::float_bits(simt::row_amax(y, columns, scratch)));
      }
      if (args.quantizes) simt::quantize_row(target, row, y, scratch);
    }
    if (args.quantizes) target.pad_row(row, threadIdx.x, blockDim.x);
  }
  if (problem.amax != nullptr && threadIdx.x == 0) {
    atomicMax(reinterpret_cast<unsigned*>(problem.amax), most);
  }
}

template <class T>
base::Status launch_rmsnorm(const NormKernelArgs& args, const simt::LaunchOptions& options) {
  const NormProblem& problem = args.problem;
  HALFBYTE_RETURN_IF_ERROR(simt::zero_amax(problem.amax, options.stream));
  const formats::RowTarget* target = args.quantizes ? &args.target : nullptr;
  if (const simt::TilePlan plan = rmsnorm_tile_plan(problem, target, options.device)) {
    return problem.residual ? launch_rmsnorm_tiles<T, true>(problem, target, plan, options)
                            : launch_rmsnorm_tiles<T, false>(problem, target, plan, options);
  }
  return simt::launch_rows<rmsnorm_kernel<T>>("rmsnorm_kernel", problem.rows(), problem.columns(),
                                              target, options.stream, args);
}

// Instantiated in rmsnorm_cuda_<type>.cu.
#define HALFBYTE_RMSNORM_LAUNCHER(prefix, T) \
  prefix template base::Status launch_rmsnorm<T>(const NormKernelArgs&, const simt::LaunchOptions&);

}  // namespace halfbyte::ops::cuda
