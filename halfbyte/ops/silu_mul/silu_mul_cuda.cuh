// The room's CUDA launcher, and its general kernel, one CTA a row of any length and alignment; one
// .cu a type instantiates them. The rows of a usual call take the kernels of silu_mul_tile.cuh.
//
//   gate, up -> y                              sixteen columns a thread, in registers
//               y -> memory, amax, row quantizer
#pragma once

#include "halfbyte/ops/silu_mul/silu_mul_kernels.h"
#include "halfbyte/ops/silu_mul/silu_mul_tile_launch.cuh"
#include "halfbyte/simt/launch.cuh"
#include "halfbyte/simt/row_plan.h"
#include "halfbyte/simt/row_quantizer.cuh"

namespace halfbyte::ops::cuda {

// The problem as the kernel takes it, by value: the host's RowTarget is not behind a pointer.
struct SiluMulKernelArgs {
  SiluMulProblem problem;
  formats::RowTarget target;
  bool quantizes = false;
};

// y of one row, recomputed from gate and up wherever it is asked for.
template <class T>
struct ActivatedRow {
  const T* gate_up;
  std::int64_t columns;
  int interleave;
  SiluMulRule rule;

  // `column` is a multiple of 16.
  __device__ void load(std::int64_t column, float (&y)[simt::kVectorElems]) const {
    float gate[simt::kVectorElems], up[simt::kVectorElems];
    load_gate_up(column, gate, up);
#pragma unroll
    for (int i = 0; i < simt::kVectorElems; ++i) {
      // Past the row's end y must be +0: 0 * (0 + up_bias) may be -0.
      y[i] =
          column + i < columns ? numerics::to_float(silu_mul_apply<T>(gate[i], up[i], rule)) : 0.0f;
    }
  }

 private:
  __device__ void load_gate_up(std::int64_t column, float (&gate)[simt::kVectorElems],
                               float (&up)[simt::kVectorElems]) const {
    constexpr int kHalf = simt::kVectorElems / 2;
    if (interleave == 0) {
      simt::load_elements(gate_up + column, columns - column, gate);
      simt::load_elements(gate_up + columns + column, columns - column, up);
      return;
    }
    // Both interleavings keep the gates and ups of these columns in 32 neighbours.
    const T* in = gate_up + 2 * column;
    const std::int64_t count = 2 * (columns - column);
    float low[simt::kVectorElems], high[simt::kVectorElems];
    simt::load_elements(in, count, low);
    simt::load_elements(in + simt::kVectorElems, count - simt::kVectorElems, high);
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      gate[i] = interleave == 1 ? low[2 * i] : low[i];
      up[i] = interleave == 1 ? low[2 * i + 1] : low[kHalf + i];
      gate[kHalf + i] = interleave == 1 ? high[2 * i] : high[i];
      up[kHalf + i] = interleave == 1 ? high[2 * i + 1] : high[kHalf + i];
    }
  }
};

template <class T>
__global__ void silu_mul_kernel(const SiluMulKernelArgs args) {
  __shared__ simt::CollectiveScratch scratch;
  const SiluMulProblem& problem = args.problem;
  const formats::RowTarget& target = args.target;
  const std::int64_t columns = problem.columns;
  const std::int64_t all_rows = args.quantizes ? target.padded_rows() : problem.gate_up.map.rows;
  std::uint32_t most = 0;
  if (args.quantizes && target.mode == formats::ScaleMode::kComputed && blockIdx.x == 0 &&
      threadIdx.x == 0) {
    target.put_computed_scale();
  }

  for (std::int64_t row = blockIdx.x; row < all_rows; row += gridDim.x) {
    if (row < problem.gate_up.map.rows) {
      const ActivatedRow<T> y{
          static_cast<const T*>(problem.gate_up.data) + problem.gate_up.map.offset(row), columns,
          problem.interleave, problem.rule};
      if (problem.y.data != nullptr) {
        T* out = static_cast<T*>(problem.y.data) + problem.y.map.offset(row);
        for (std::int64_t column = threadIdx.x * simt::kVectorElems; column < columns;
             column += blockDim.x * simt::kVectorElems) {
          float values[simt::kVectorElems];
          y.load(column, values);
          simt::store_elements(values, out + column, columns - column);
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
base::Status launch_silu_mul(const SiluMulKernelArgs& args, const simt::LaunchOptions& options) {
  const SiluMulProblem& problem = args.problem;
  HALFBYTE_RETURN_IF_ERROR(simt::zero_amax(problem.amax, options.stream));
  const formats::RowTarget* target = args.quantizes ? &args.target : nullptr;
  if (const simt::TilePlan plan = silu_mul_tile_plan(problem, target, options.device)) {
    return launch_silu_mul_tiles_of<T>(problem, target, plan, options);
  }
  return simt::launch_rows<silu_mul_kernel<T>>("silu_mul_kernel", problem.rows(), problem.columns,
                                               target, options.stream, args);
}

// Instantiated in silu_mul_cuda_<type>.cu.
#define HALFBYTE_SILU_MUL_LAUNCHER(prefix, T)                               \
  prefix template base::Status launch_silu_mul<T>(const SiluMulKernelArgs&, \
                                                  const simt::LaunchOptions&);

}  // namespace halfbyte::ops::cuda
