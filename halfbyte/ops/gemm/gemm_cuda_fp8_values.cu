// bf16 and fp16 rows in E4M3, by the rule of `quantize` with format=fp8, scale=row: a CTA a row.
#include "halfbyte/formats/fp8.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_cuda_fp8.h"
#include "halfbyte/simt/collectives.cuh"
#include "halfbyte/simt/fast_codecs.cuh"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kPiece = 8;  // values a thread takes at once

struct ValuesArgs {
  std::int64_t rows, k;
  const std::uint16_t* x;
  base::RowMap x_rows;
  bool aligned;
  Fp8Rows to;
};

__device__ __forceinline__ uint4 load_piece(const ValuesArgs& args, const std::uint16_t* x,
                                            std::int64_t piece) {
  const std::uint16_t* from = x + piece * kPiece;
  if (args.aligned) return *reinterpret_cast<const uint4*>(from);
  const auto pair = [from](int i) {
    return static_cast<std::uint32_t>(from[i]) | static_cast<std::uint32_t>(from[i + 1]) << 16;
  };
  return {pair(0), pair(2), pair(4), pair(6)};
}

template <class T>
__device__ __forceinline__ float value_of(const uint4& piece, int i) {
  const std::uint32_t word = i < 2 ? piece.x : i < 4 ? piece.y : i < 6 ? piece.z : piece.w;
  return numerics::to_float(T{static_cast<std::uint16_t>(i % 2 == 0 ? word : word >> 16)});
}

// A thread holds kHeld pieces; those of a longer row are read twice.
template <class T, int kThreads, int kHeld>
__global__ void __launch_bounds__(kThreads)
    fp8_values_kernel(const __grid_constant__ ValuesArgs args) {
  __shared__ simt::CollectiveScratch scratch;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t row = blockIdx.x, pieces = args.k / kPiece;
  const std::uint16_t* x = args.x + args.x_rows.offset(row);
  uint4 held[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const std::int64_t piece = thread + std::int64_t{i} * kThreads;
    held[i] = piece < pieces ? load_piece(args, x, piece) : uint4{};
  }
  std::uint32_t most = 0;  // magnitudes as bits: a NaN is the largest
  const auto take = [&most](const uint4& piece) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) most = max(most, numerics::abs_bits(value_of<T>(piece, i)));
  };
#pragma unroll
  for (const uint4& piece : held) take(piece);
  for (std::int64_t piece = thread + kHeld * kThreads; piece < pieces; piece += kThreads)
    take(load_piece(args, x, piece));
  const formats::Fp8Scale scale =
      formats::fp8_scale_from_amax(numerics::bits_float(simt::block_max(most, scratch)));
  if (thread == 0) args.to.factors[row] = scale.decode;
  std::uint8_t* to = args.to.codes + row * args.k;
  const auto put = [&](const uint4& piece, std::int64_t index) {
    const auto pair = [&](int i) {
      return simt::e4m3_pair(numerics::mul_rn(value_of<T>(piece, i), scale.encode),
                             numerics::mul_rn(value_of<T>(piece, i + 1), scale.encode));
    };
    *reinterpret_cast<uint2*>(to + index * kPiece) = {pair(0) | pair(2) << 16, pair(4) | pair(6)
                                                                                             << 16};
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const std::int64_t piece = thread + std::int64_t{i} * kThreads;
    if (piece < pieces) put(held[i], piece);
  }
  for (std::int64_t piece = thread + kHeld * kThreads; piece < pieces; piece += kThreads)
    put(load_piece(args, x, piece), piece);
}

template <class T, int kThreads, int kHeld>
base::Status launch_kernel(const ValuesArgs& args, void* stream) {
  fp8_values_kernel<T, kThreads, kHeld>
      <<<static_cast<unsigned>(args.rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return simt::launch_status("gemm");
}

template <class T>
base::Status launch(const ValuesArgs& args, void* stream) {
  const std::int64_t pieces = args.k / kPiece;
  if (pieces <= 256 * 2) return launch_kernel<T, 256, 2>(args, stream);
  if (pieces <= 256 * 4) return launch_kernel<T, 256, 4>(args, stream);
  if (pieces <= 256 * 8) return launch_kernel<T, 256, 8>(args, stream);
  return launch_kernel<T, 512, 8>(args, stream);
}

}  // namespace

base::Status launch_fp8_values(const GemmProblem& problem, const Fp8Rows& to, void* stream) {
  if (problem.m == 0) return {};
  const bool aligned = reinterpret_cast<std::uintptr_t>(problem.x) % 16 == 0 &&
                       problem.x_rows.inner_stride % 8 == 0 && problem.x_rows.outer_stride % 8 == 0;
  const ValuesArgs args{problem.m,      problem.k, static_cast<const std::uint16_t*>(problem.x),
                        problem.x_rows, aligned,   to};
  return problem.x_dtype == base::DType::kBF16 ? launch<numerics::Bf16>(args, stream)
                                               : launch<numerics::Fp16>(args, stream);
}

}  // namespace halfbyte::ops::cuda
