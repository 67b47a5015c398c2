// The room's CUDA launchers, and its general kernels, one CTA a row of any length and alignment;
// one .cu a type instantiates them. The rows of a usual call take the kernels of quantize_tile.cuh
// and dequantize_tile.cuh.
//
//   x [row] -> 16 elements a thread -> simt/row_quantizer.cuh -> codes, scales, padding
#pragma once

#include "halfbyte/ops/quantize/dequantize_tile.cuh"
#include "halfbyte/ops/quantize/quantize_kernels.h"
#include "halfbyte/ops/quantize/quantize_tile.cuh"
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
base::Status launch_quantize(const Rows& x, const formats::RowTarget& target,
                             const simt::LaunchOptions& options) {
  if (const simt::TilePlan plan = quantize_tile_plan(x, &target, options.device)) {
    return launch_quantize_tiles<T>(x, target, plan, options);
  }
  return simt::launch_rows<quantize_kernel<T>>("quantize_kernel", x.map.rows, x.columns, &target,
                                               options.stream, x, target);
}

template <class T>
base::Status launch_amax(const Rows& x, bool per_row, float* amax,
                         const simt::LaunchOptions& options) {
  if (!per_row) HALFBYTE_RETURN_IF_ERROR(simt::zero_amax(amax, options.stream));
  const simt::TilePlan plan = quantize_tile_plan(x, nullptr, options.device);
  if (!per_row && plan) {
    using Source = QuantizeTileSource<T, false, formats::Format::kFp8, false>;
    return launch_quantize_tiles<Source>(x, nullptr, amax, plan, options);
  }
  return simt::launch_rows<amax_kernel<T>>("amax_kernel", x.map.rows, x.columns, nullptr,
                                           options.stream, x, per_row, amax);
}

template <class T>
base::Status launch_dequantize(const DequantizeProblem& problem,
                               const simt::LaunchOptions& options) {
  if (takes_dequantize_tiles(problem)) return launch_dequantize_tiles<T>(problem, options);
  return simt::launch_rows<dequantize_kernel<T>>(
      "dequantize_kernel", problem.x.map.rows, problem.x.columns, nullptr, options.stream, problem);
}

// Instantiated in quantize_cuda_<type>.cu.
#define HALFBYTE_QUANTIZE_LAUNCHERS(prefix, T)                                            \
  prefix template base::Status launch_quantize<T>(const Rows&, const formats::RowTarget&, \
                                                  const simt::LaunchOptions&);            \
  prefix template base::Status launch_amax<T>(const Rows&, bool, float*,                  \
                                              const simt::LaunchOptions&);                \
  prefix template base::Status launch_dequantize<T>(const DequantizeProblem&,             \
                                                    const simt::LaunchOptions&);

}  // namespace halfbyte::ops::cuda
