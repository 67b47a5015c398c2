// Every problem of this room in the order of its contract: a warp an element of C, its lanes slices
// of K. The kernel for what has no fast one, and the one to compare those with.
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_values.cuh"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ float add_quantized(const GemmProblem& problem, const std::uint8_t* codes,
                               std::int64_t scale_row, const DeviceWeightRow& weights,
                               std::int64_t block, float acc) {
  const int columns = problem.block();
  int dot = 0;
  for (int i = 0; i < columns; ++i) {
    const std::int64_t k = block * columns + i;
    dot += e2m1_doubled(formats::e2m1_unpack(codes[k / 2], i % 2)) * e2m1_doubled(weights.code(k));
  }
  const std::uint8_t scale =
      problem.a_scales[formats::scale_offset(problem.a_layout, scale_row, block, problem.blocks())];
  return add_block(problem.format, acc, dot, scale, weights.scale(block));
}

// block_dot_16bit, reading as it goes.
__device__ float add_values(const GemmProblem& problem, std::int64_t x_offset,
                            const DeviceWeightRow& weights, std::int64_t block, float acc) {
  const int columns = problem.block();
  float sums[2] = {0.0f, 0.0f};
  for (int i = 0; i < columns; ++i) {
    const std::int64_t k = block * columns + i;
    const float x = value_at(problem.x, problem.x_dtype, x_offset + k);
    const float w = formats::e2m1_to_float(weights.code(k));
    sums[i % 2] = i < 2 ? numerics::mul_rn(x, w) : numerics::fma_rn(x, w, sums[i % 2]);
  }
  return add_block_16bit(problem.format, acc, numerics::add_rn(sums[0], sums[1]),
                         weights.scale(block));
}

__global__ void __launch_bounds__(kThreads)
    any_kernel(const __grid_constant__ GemmProblem problem) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t warps = std::int64_t{gridDim.x} * (kThreads / 32);
  const std::int64_t first = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const std::int64_t blocks = problem.blocks();
  const int width = slice_blocks(problem.format);
  const std::int64_t slices = (blocks + width - 1) / width;
  for (std::int64_t element = first; element < problem.m * problem.n; element += warps) {
    const std::int64_t row = element / problem.n, n = element % problem.n;
    std::int64_t group = problem.group_of_row(row), scale_row = row;
    if (group >= 0 && problem.quantized) scale_row = problem.a_scale_row(row, group);
    const std::int64_t at = problem.c_rows.offset(row) + n;
    if (group < 0 || scale_row < 0) {
      if (lane == 0) put_value(problem.c, problem.c_dtype, at, 0.0f);
      continue;
    }
    const DeviceWeightRow weights(problem, group, n);
    const std::uint8_t* codes =
        problem.quantized ? problem.a_codes + problem.a_rows.offset(row) : nullptr;
    const std::int64_t x_offset = problem.quantized ? 0 : problem.x_rows.offset(row);
    numerics::TreeSum sum;  // of chunks of 32 slices
    for (std::int64_t chunk = 0; chunk < slices; chunk += 32) {
      float acc = 0.0f;
      const std::int64_t begin = (chunk + lane) * width;
      for (std::int64_t block = begin; block < begin + width && block < blocks; ++block) {
        acc = problem.quantized ? add_quantized(problem, codes, scale_row, weights, block, acc)
                                : add_values(problem, x_offset, weights, block, acc);
      }
      for (int step = 1; step < 32; step *= 2) {
        const float other = __shfl_xor_sync(kAllLanes, acc, step);
        // No +0 for what is not there: a single -0 (a value that underflowed) stays one.
        if (chunk + ((lane ^ step) & -step) < slices) acc = numerics::add_rn(acc, other);
      }
      sum.add(acc);
    }
    if (lane != 0) continue;
    const float scaled =
        scale_sum(sum.total(), problem.quantized ? problem.a_decode(row, group) : 1.0f,
                  problem.b_scale.decode(group));
    const std::int64_t bias_at = group * problem.n + n;
    put_value(problem.c, problem.c_dtype, at,
              problem.bias == nullptr
                  ? scaled
                  : numerics::add_rn(scaled, value_at(problem.bias, problem.bias_dtype, bias_at)));
  }
}

}  // namespace

base::Status launch_any(const GemmProblem& problem, void* stream) {
  constexpr std::int64_t kMaxBlocks = 1 << 20;
  const std::int64_t blocks = (problem.m * problem.n + kThreads / 32 - 1) / (kThreads / 32);
  any_kernel<<<static_cast<unsigned>(std::min(blocks, kMaxBlocks)), kThreads, 0,
               static_cast<cudaStream_t>(stream)>>>(problem);
  return simt::launch_status("gemm");
}

}  // namespace halfbyte::ops::cuda
