// prepare_weights and unprepare_weights on the device: a thread a word, or a byte, of the result.
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kThreads = 256;

struct PlainWeights {
  const PrepareProblem& problem;
  Format format;
  std::int64_t rows, columns;

  __device__ explicit PlainWeights(const PrepareProblem& of)
      : problem(of), format(of.format), rows(of.rows), columns(of.columns) {}
  __device__ std::uint8_t code(std::int64_t n, std::int64_t k) const {
    return formats::e2m1_unpack(problem.codes[problem.code_rows.offset(n) + k / 2],
                                static_cast<int>(k % 2));
  }
  __device__ std::uint8_t scale(std::int64_t n, std::int64_t block) const {
    return problem.scales[formats::scale_offset(problem.layout, n, block,
                                                columns / formats::block_elements(format))];
  }
};

// A block a unit: a thread a word of codes, the first 32 also one of scales.
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const __grid_constant__ PrepareProblem problem) {
  const PlainWeights weights(problem);
  const std::int64_t slices = (problem.columns + kUnitColumns - 1) / kUnitColumns;
  const std::int64_t units = (problem.rows + kTileRows - 1) / kTileRows * slices;
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const std::int64_t tile = index / slices, slice = index % slices;
    std::uint8_t* unit =
        problem.prepared + unit_offset(problem.format, problem.columns, tile, slice);
    prepare_codes(weights, tile, slice, thread / 32, thread % 4, thread / 4 % 8, unit);
    if (thread < 32) prepare_scales(weights, tile, slice, thread / 4, thread % 4, unit);
  }
}

__global__ void __launch_bounds__(kThreads)
    unprepare_codes_kernel(const __grid_constant__ PrepareProblem problem) {
  const std::int64_t bytes = problem.columns / 2;
  const std::int64_t threads = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < problem.rows * bytes;
       i += threads) {
    const std::int64_t n = i / bytes, byte = i % bytes;
    const PreparedRow row(problem.prepared, problem.format, problem.columns, n);
    problem.codes[problem.code_rows.offset(n) + byte] =
        formats::e2m1_pack(row.code(2 * byte), row.code(2 * byte + 1));
  }
}

// Every byte of the scale array; padding is zero.
__global__ void __launch_bounds__(kThreads)
    unprepare_scales_kernel(const __grid_constant__ PrepareProblem problem) {
  const std::int64_t blocks = problem.columns / formats::block_elements(problem.format);
  const std::int64_t bytes = formats::scale_bytes(problem.layout, problem.rows, blocks);
  const std::int64_t threads = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < bytes;
       i += threads) {
    const formats::ScalePosition at = formats::scale_position(problem.layout, i, blocks);
    std::uint8_t scale = 0;
    if (at.row < problem.rows && at.column < blocks) {
      scale =
          PreparedRow(problem.prepared, problem.format, problem.columns, at.row).scale(at.column);
    }
    problem.scales[i] = scale;
  }
}

unsigned grid_for(std::int64_t blocks) {
  constexpr std::int64_t kMaxBlocks = 1 << 20;
  return static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, kMaxBlocks));
}

}  // namespace

base::Status prepare_weights(const PrepareProblem& problem, base::Device device, void* stream) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  if (problem.rows == 0 || problem.columns == 0) return {};
  const std::int64_t units = (problem.rows + kTileRows - 1) / kTileRows *
                             ((problem.columns + kUnitColumns - 1) / kUnitColumns);
  prepare_kernel<<<grid_for(units), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problem);
  return simt::launch_status("prepare_weights");
}

base::Status unprepare_weights(const PrepareProblem& problem, base::Device device, void* stream) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  if (problem.rows == 0 || problem.columns == 0) return {};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const std::int64_t blocks = problem.columns / formats::block_elements(problem.format);
  const std::int64_t scale_bytes = formats::scale_bytes(problem.layout, problem.rows, blocks);
  unprepare_codes_kernel<<<grid_for((problem.rows * problem.columns / 2 + kThreads - 1) / kThreads),
                           kThreads, 0, cuda_stream>>>(problem);
  unprepare_scales_kernel<<<grid_for((scale_bytes + kThreads - 1) / kThreads), kThreads, 0,
                            cuda_stream>>>(problem);
  return simt::launch_status("unprepare_weights");
}

}  // namespace halfbyte::ops::cuda
