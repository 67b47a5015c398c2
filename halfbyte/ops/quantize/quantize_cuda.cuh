// The room's CUDA kernels, one CTA a row of any length, and their launchers; one .cu a type
// instantiates them.
//
//   x [row] -> 16 elements a thread -> simt/row_quantizer.cuh -> codes, scales, padding
#pragma once

#include "halfbyte/ops/quantize/quantize_kernels.h"
#include "halfbyte/simt/launch.cuh"
#include "halfbyte/simt/row_plan.h"
#include "halfbyte/simt/row_quantizer.cuh"

namespace halfbyte::ops::cuda {

template <class T>
struct MemoryRow {
  const T* row;
  std::int64_t columns;

  __device__ void load(std::int64_t column, float (&y)[simt::kVectorElems]) const {
    simt::load_elements(row + column, columns - column, y);
  }
};

template <class T>
__device__ MemoryRow<T> memory_row(const Rows& x, std::int64_t row) {
  return {static_cast<const T*>(x.data) + x.map.offset(row), x.columns};
}

template <class T>
__global__ void quantize_kernel(const Rows x, const formats::RowTarget target) {
  __shared__ simt::CollectiveScratch scratch;
  if (target.mode == formats::ScaleMode::kComputed && blockIdx.x == 0 && threadIdx.x == 0) {
    target.put_computed_scale();
  }
  for (std::int64_t row = blockIdx.x; row < target.padded_rows(); row += gridDim.x) {
    if (row < target.rows) simt::quantize_row(target, row, memory_row<T>(x, row), scratch);
    target.pad_row(row, threadIdx.x, blockDim.x);
  }
}

template <class T>
__global__ void amax_kernel(const Rows x, bool per_row, float* amax) {
  __shared__ simt::CollectiveScratch scratch;
  std::uint32_t most = 0;
  for (std::int64_t row = blockIdx.x; row < x.map.rows; row += gridDim.x) {
    const float of_row = simt::row_amax(memory_row<T>(x, row), x.columns, scratch);
    if (per_row && threadIdx.x == 0) amax[row] = of_row;
    most = max(most, numerics::float_bits(of_row));
  }
  // The bits of magnitudes order as the magnitudes do, NaN above all.
  if (!per_row && threadIdx.x == 0) atomicMax(reinterpret_cast<unsigned*>(amax), most);
}

template <class T>
__global__ void dequantize_kernel(const DequantizeProblem problem) {
  const int block = formats::block_elements(problem.format);
  const std::int64_t columns = problem.x.columns;
  for (std::int64_t row = blockIdx.x; row < problem.x.map.rows; row += gridDim.x) {
    T* x = static_cast<T*>(problem.x.data) + problem.x.map.offset(row);
    const std::uint8_t* codes = problem.codes + problem.code_rows.offset(row);
    const float decode = problem.decode_scale(row);
    for (std::int64_t first = threadIdx.x * simt::kVectorElems; first < columns;
         first += blockDim.x * simt::kVectorElems) {
      float values[simt::kVectorElems];
      std::uint8_t scale = 0;
      if (problem.format != formats::Format::kFp8) {
        scale =
            problem
                .scales[formats::scale_offset(problem.layout, row, first / block, columns / block)];
      }
#pragma unroll
      for (int i = 0; i < simt::kVectorElems; ++i) {
        const std::int64_t column = first + i;
        if (column >= columns) break;
        if (problem.format == formats::Format::kFp8) {
          values[i] = formats::fp8_decode(codes[column], decode);
        } else {
          const std::uint8_t code = formats::e2m1_unpack(codes[column / 2], i % 2);
          values[i] = problem.format == formats::Format::kNvfp4
                          ? formats::nvfp4_decode(code, scale, decode)
                          : formats::mxfp4_decode(code, scale);
        }
      }
      simt::store_elements(values, x + first, columns - first);
    }
  }
}

template <class T>
base::Status launch_quantize(const Rows& x, const formats::RowTarget& target, cudaStream_t stream) {
  simt::RowPlan plan = simt::row_plan(target.padded_rows(), x.columns);
  // With no rows there is still a scale to report.
  if (target.mode == formats::ScaleMode::kComputed) plan.ctas = std::max(plan.ctas, 1);
  if (plan.ctas == 0) return {};
  quantize_kernel<T><<<plan.ctas, plan.threads, 0, stream>>>(x, target);
  return simt::launch_status("quantize_kernel");
}

template <class T>
base::Status launch_amax(const Rows& x, bool per_row, float* amax, cudaStream_t stream) {
  if (!per_row) {
    HALFBYTE_RETURN_IF_ERROR(
        simt::cuda_status("cudaMemsetAsync", cudaMemsetAsync(amax, 0, sizeof(float), stream)));
  }
  const simt::RowPlan plan = simt::row_plan(x.map.rows, x.columns);
  if (plan.ctas == 0) return {};
  amax_kernel<T><<<plan.ctas, plan.threads, 0, stream>>>(x, per_row, amax);
  return simt::launch_status("amax_kernel");
}

template <class T>
base::Status launch_dequantize(const DequantizeProblem& problem, cudaStream_t stream) {
  const simt::RowPlan plan = simt::row_plan(problem.x.map.rows, problem.x.columns);
  if (plan.ctas == 0) return {};
  dequantize_kernel<T><<<plan.ctas, plan.threads, 0, stream>>>(problem);
  return simt::launch_status("dequantize_kernel");
}

// Instantiated in quantize_cuda_<type>.cu.
#define HALFBYTE_QUANTIZE_LAUNCHERS(prefix, T)                                            \
  prefix template base::Status launch_quantize<T>(const Rows&, const formats::RowTarget&, \
                                                  cudaStream_t);                          \
  prefix template base::Status launch_amax<T>(const Rows&, bool, float*, cudaStream_t);   \
  prefix template base::Status launch_dequantize<T>(const DequantizeProblem&, cudaStream_t);

}  // namespace halfbyte::ops::cuda
