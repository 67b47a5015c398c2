// Large products: weights and activations as bf16 (fp16 where A is), exact, in the workspace, then
// cuBLASLt. Bounded, as its sums have their own order.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_finish.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_values.cuh"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::size_t kAlphaBytes = kGemmWorkspaceAlignment;

unsigned grid_for(std::int64_t blocks) {
  constexpr std::int64_t kMost = 1 << 16;
  return static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, kMost));
}

// Prepared NVFP4 to N x K of T: a block a unit, 16 rows of 128 columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    dequantize_prepared_kernel(const std::uint8_t* prepared, std::int64_t n, std::int64_t k,
                               std::uint16_t* to) {
  __shared__ __align__(16) std::uint32_t tile[kTileRows][kUnitColumns / 2 + 4];
  constexpr bool kHalf = sizeof(T) == 2 && std::is_same_v<T, __half2>;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, block = thread / 32;
  const int g = lane / 4, t = lane % 4;
  const std::int64_t slices = (k + kUnitColumns - 1) / kUnitColumns;
  const std::int64_t units = (n + kTileRows - 1) / kTileRows * slices;
  for (std::int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const std::uint8_t* unit = prepared + index * unit_bytes(Format::kNvfp4);
    const std::uint32_t word =
        *reinterpret_cast<const std::uint32_t*>(unit + word_offset(g, t, block));
    const std::uint32_t scales =
        *reinterpret_cast<const std::uint32_t*>(unit + scale_word_offset(g, block / 2));
    const std::uint32_t pair =
        ((block & 1) != 0 ? __funnelshift_r(scales, scales, 8) : scales) & 0x7F807F80u;
    const SpreadCodes codes = spread_of_word(word);
    const auto put = [&](int row, int column, std::uint32_t half_codes, std::uint32_t scale) {
      // e2m1 * 2^-14 times S * 2^7, then 2^7: exact in fp16, as e2m1 * S < 2^12.
      __half2 v = __hmul2(*reinterpret_cast<const __half2*>(&half_codes),
                          *reinterpret_cast<const __half2*>(&scale));
      v = __hmul2(v, __float2half2_rn(128.0f));
      std::uint32_t bits = *reinterpret_cast<const std::uint32_t*>(&v);
      if constexpr (!kHalf) {
        const float2 f = __half22float2(v);
        const __nv_bfloat162 b = __floats2bfloat162_rn(f.x, f.y);
        bits = *reinterpret_cast<const std::uint32_t*>(&b);
      }
      tile[row][column / 2] = bits;
    };
    const std::uint32_t low = __byte_perm(pair, 0, 0x1010), high = __byte_perm(pair, 0, 0x3232);
    const int column = block * 16 + 2 * t;
    put(g, column, codes.low & 0xFF00FF00u, low);
    put(g + 8, column, codes.low << 8 & 0xFF00FF00u, high);
    put(g, column + 8, codes.high & 0xFF00FF00u, low);
    put(g + 8, column + 8, codes.high << 8 & 0xFF00FF00u, high);
    __syncthreads();
    const std::int64_t row = index / slices * kTileRows + thread / 16;
    const std::int64_t first = index % slices * kUnitColumns + thread % 16 * 8;
    if (row < n && first < k) {  // K is a multiple of 16: eight columns at a time
      *reinterpret_cast<uint4*>(to + row * k + first) =
          *reinterpret_cast<const uint4*>(&tile[thread / 16][thread % 16 * 4]);
    }
    __syncthreads();
  }
}

// Any weights, an element a thread.
__global__ void __launch_bounds__(kThreads)
    dequantize_any_kernel(const __grid_constant__ GemmProblem problem, base::DType type, void* to) {
  const std::int64_t threads = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
       i < problem.n * problem.k; i += threads) {
    const std::int64_t n = i / problem.k, k = i % problem.k;
    const DeviceWeightRow row(problem, 0, n);
    const std::uint8_t scale = row.scale(k / problem.block());
    const float s = problem.format == Format::kNvfp4 ? formats::e4m3_to_float(scale)
                                                     : formats::e8m0_to_float(scale);
    put_value(to, type, i, numerics::mul_rn(formats::e2m1_to_float(row.code(k)), s));
  }
}

// Quantized activations to M x K of bf16: a thread eight columns.
__global__ void __launch_bounds__(kThreads)
    dequantize_rows_kernel(const __grid_constant__ GemmProblem problem, __nv_bfloat16* to) {
  const std::int64_t pieces = problem.k / 8, total = problem.m * pieces;
  const std::int64_t threads = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < total;
       i += threads) {
    const std::int64_t row = i / pieces, piece = i % pieces;
    const std::uint8_t* codes = problem.a_codes + problem.a_rows.offset(row) + piece * 4;
    const std::uint8_t scale = problem.a_scales[formats::scale_offset(
        problem.a_layout, row, piece * 8 / problem.block(), problem.blocks())];
    const float s = problem.format == Format::kNvfp4 ? formats::e4m3_to_float(scale)
                                                     : formats::e8m0_to_float(scale);
    __nv_bfloat16 values[8];
#pragma unroll
    for (int x = 0; x < 8; ++x) {
      const float v = formats::e2m1_to_float(formats::e2m1_unpack(codes[x / 2], x % 2));
      values[x] = __float2bfloat16_rn(numerics::mul_rn(v, s));
    }
    *reinterpret_cast<uint4*>(to + row * problem.k + piece * 8) =
        *reinterpret_cast<const uint4*>(values);
  }
}

// A that is not quantized, dense: a thread an element.
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(const __grid_constant__ GemmProblem problem, std::uint16_t* to) {
  const std::int64_t threads = std::int64_t{gridDim.x} * kThreads;
  const auto* x = static_cast<const std::uint16_t*>(problem.x);
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
       i < problem.m * problem.k; i += threads) {
    to[i] = x[problem.x_rows.offset(i / problem.k) + i % problem.k];
  }
}

// cuBLASLt writes C itself: one factor for all, no bias, evenly spaced rows. Known from shapes.
bool writes_directly(const GemmProblem& problem) {
  const bool one_factor = !problem.quantized || problem.a_scale.stride == 0;
  return one_factor && problem.bias == nullptr &&
         problem.c_rows.inner_rows == problem.c_rows.rows &&
         problem.c_rows.inner_stride >= problem.n && problem.c_rows.inner_stride % 8 == 0;
}

struct Offsets {
  std::size_t lt = 0, alpha = 0, weights = 0, rows = 0, sums = 0, total = 0;
};
Offsets offsets_of(const GemmProblem& problem) {
  const auto padded = [](std::int64_t bytes) {
    return (static_cast<std::size_t>(bytes) + kGemmWorkspaceAlignment - 1) /
           kGemmWorkspaceAlignment * kGemmWorkspaceAlignment;
  };
  Offsets at;
  at.alpha = cublaslt::kWorkspaceBytes;
  at.weights = at.alpha + kAlphaBytes;
  at.rows = at.weights + padded(problem.n * problem.k * 2);
  at.sums = at.rows + padded(problem.m * problem.k * 2);
  at.total = at.sums + padded(problem.m * problem.n * 4);  // whether needed or not: see gemm.h
  return at;
}

}  // namespace

std::size_t dequantize_workspace_bytes(const GemmProblem& problem) {
  return offsets_of(problem).total;
}

base::Status launch_dequantize(const GemmProblem& problem, void* stream, void* workspace) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const Offsets at = offsets_of(problem);
  auto* base = static_cast<std::byte*>(workspace);
  const bool half = !problem.quantized && problem.x_dtype == base::DType::kF16;
  const base::DType type = half ? base::DType::kF16 : base::DType::kBF16;
  if (problem.format == Format::kNvfp4 && problem.form == WeightForm::kPrepared) {
    const std::int64_t units =
        prepared_weight_bytes(problem.format, problem.n, problem.k) / unit_bytes(problem.format);
    auto* to = reinterpret_cast<std::uint16_t*>(base + at.weights);
    const auto kernel =
        half ? dequantize_prepared_kernel<__half2> : dequantize_prepared_kernel<__nv_bfloat162>;
    kernel<<<grid_for(units), kThreads, 0, cuda_stream>>>(problem.b_prepared, problem.n, problem.k,
                                                          to);
  } else {
    dequantize_any_kernel<<<grid_for(problem.n * problem.k / kThreads + 1), kThreads, 0,
                            cuda_stream>>>(problem, type, base + at.weights);
  }
  if (problem.quantized) {
    dequantize_rows_kernel<<<grid_for(problem.m * problem.k / 8 / kThreads + 1), kThreads, 0,
                             cuda_stream>>>(problem,
                                            reinterpret_cast<__nv_bfloat16*>(base + at.rows));
  } else {
    copy_rows_kernel<<<grid_for(problem.m * problem.k / kThreads + 1), kThreads, 0, cuda_stream>>>(
        problem, reinterpret_cast<std::uint16_t*>(base + at.rows));
  }
  HALFBYTE_RETURN_IF_ERROR(simt::launch_status("gemm"));
  const bool direct = writes_directly(problem);
  auto* alpha = reinterpret_cast<float*>(base + at.alpha);
  HALFBYTE_RETURN_IF_ERROR(launch_alpha(problem, direct, alpha, stream));
  cublaslt::Matmul product;
  product.m = problem.m, product.n = problem.n, product.k = problem.k;
  product.stride = direct ? problem.c_rows.inner_stride : problem.n;
  product.input = half ? cublaslt::Input::kF16 : cublaslt::Input::kBF16;
  product.output = direct ? problem.c_dtype : base::DType::kF32;
  product.a = base + at.rows;
  product.b = base + at.weights;
  product.d = direct ? problem.c : base + at.sums;
  product.alpha = alpha;
  product.workspace = base + at.lt;
  HALFBYTE_RETURN_IF_ERROR(cublaslt::matmul(product, stream));
  if (direct) return {};
  FinishArgs finish;
  finish.sums = reinterpret_cast<const float*>(base + at.sums);
  finish.stride = problem.n;
  finish.rows = problem.m;
  return launch_finish(problem, finish, stream);
}

}  // namespace halfbyte::ops::cuda
