// FP4 rows as checkpoints and quantizers write them, any scale layout, in E4M3: a CTA a row.
#include <algorithm>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_cuda_fp8.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_fp8.h"
#include "halfbyte/ops/gemm/gemm_fp8_math.h"
#include "halfbyte/ops/gemm/gemm_weights_math.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 32;  // columns a thread takes at once

struct RowsArgs {
  std::int64_t rows, k;
  const std::uint8_t* codes;
  base::RowMap code_rows;
  bool aligned;  // 16 bytes of codes at a time
  const std::uint8_t* scales;
  ScaleLayout layout;
  ScaleValue scale;
  Fp8Rows to;
};

__device__ __forceinline__ uint4 load_codes(const RowsArgs& args, const std::uint8_t* row,
                                            std::int64_t chunk) {
  const std::uint8_t* from = row + chunk * (kChunk / 2);
  if (args.aligned && chunk * kChunk + kChunk <= args.k)
    return __ldcs(reinterpret_cast<const uint4*>(from));
  // K is a multiple of 16: the last chunk may be half of one.
  const bool whole = chunk * kChunk + kChunk <= args.k;
  return {load_word(from), load_word(from + 4), whole ? load_word(from + 8) : 0,
          whole ? load_word(from + 12) : 0};
}

// E4M3 of the eight magnitudes of E2M1 times one block's scale, and that scale's sign.
struct BlockTable {
  std::uint32_t low, high, signs;

  template <bool kMxfp4>
  static __device__ __forceinline__ BlockTable of(std::uint8_t scale, int shift) {
    __half2 s;
    if constexpr (kMxfp4) {
      // Below 2^-14 every product rounds to zero.
      s = half2_power_of_two(max(scale - 127 + shift, -14));
      if (scale == formats::kE8m0Nan) s = half2_of_bits(0x7E007E00u);
    } else {
      const __half h(__nv_cvt_fp8_to_halfraw(scale & 0x7F, __NV_E4M3));
      s = __hmul2(__half2half2(h), half2_power_of_two(shift));
    }
    const auto pair = [&](std::uint32_t values) {
      return e4m3_of_pair(__hmul2(half2_of_bits(values), s));
    };
    BlockTable table;
    table.low = pair(0x38000000u) | pair(0x3E003C00u) << 16;   // 0, 0.5, 1, 1.5
    table.high = pair(0x42004000u) | pair(0x46004400u) << 16;  // 2, 3, 4, 6
    table.signs = !kMxfp4 && (scale & 0x80) != 0 ? 0x80808080u : 0;
    return table;
  }
  // Eight codes, in order.
  __device__ __forceinline__ uint2 look_up(std::uint32_t codes) const {
    const std::uint32_t even = (codes << 4 & 0x80808080u) ^ signs;
    const std::uint32_t odd = (codes & 0x80808080u) ^ signs;
    return {__byte_perm(low, high, codes & 0x7777u) | __byte_perm(even, odd, 0x5140),
            __byte_perm(low, high, codes >> 16 & 0x7777u) | __byte_perm(even, odd, 0x7362)};
  }
};

template <bool kMxfp4>
__global__ void __launch_bounds__(kThreads) fp8_rows_kernel(const __grid_constant__ RowsArgs args) {
  constexpr Format kFormat = kMxfp4 ? Format::kMxfp4 : Format::kNvfp4;
  constexpr int kBlock = kMxfp4 ? 32 : 16;
  __shared__ int ranks[kThreads / 32];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t row = blockIdx.x, chunks = (args.k + kChunk - 1) / kChunk;
  std::uint8_t* to = args.to.codes + row * args.k;
  if (row >= args.rows) {
    for (std::int64_t i = thread; i < args.k / 16; i += kThreads)
      reinterpret_cast<uint4*>(to)[i] = uint4{};
    if (thread == 0) args.to.factors[row] = 0.0f;
    return;
  }
  const std::uint8_t* codes = args.codes + args.code_rows.offset(row);
  const std::int64_t blocks = args.k / kBlock;
  const std::uint8_t* scales = args.scales + formats::scale_row_offset(args.layout, row, blocks);
  const auto scale_of = [&](std::int64_t block) {
    return scales[formats::scale_column_offset(args.layout, block)];
  };
  uint4 next = thread < chunks ? load_codes(args, codes, thread) : uint4{};
  int rank = 0;
  for (std::int64_t block = thread; block < blocks; block += kThreads) {
    rank = max(rank, fp8_scale_rank(kFormat, scale_of(block)));
  }
  rank = __reduce_max_sync(~0u, rank);
  if (thread % 32 == 0) ranks[thread / 32] = rank;
  __syncthreads();
#pragma unroll
  for (const int other : ranks) rank = max(rank, other);
  const int shift = fp8_shift(kFormat, rank);
  if (thread == 0)
    args.to.factors[row] = numerics::mul_rn(args.scale.decode(row), fp8_factor(shift));
  for (std::int64_t chunk = thread; chunk < chunks; chunk += kThreads) {
    const uint4 word = next;
    if (chunk + kThreads < chunks) next = load_codes(args, codes, chunk + kThreads);
    const std::int64_t block = chunk * (kChunk / kBlock);
    const BlockTable first = BlockTable::of<kMxfp4>(scale_of(block), shift);
    const uint2 a = first.look_up(word.x), b = first.look_up(word.y);
    auto* out = reinterpret_cast<uint4*>(to + chunk * kChunk);
    out[0] = {a.x, a.y, b.x, b.y};
    if (chunk * kChunk + kChunk > args.k) break;
    const BlockTable second = kMxfp4 ? first : BlockTable::of<kMxfp4>(scale_of(block + 1), shift);
    const uint2 c = second.look_up(word.z), d = second.look_up(word.w);
    out[1] = {c.x, c.y, d.x, d.y};
  }
}

base::Status launch(Format format, const RowsArgs& args, void* stream) {
  if (args.to.rows == 0) return {};
  const auto kernel = format == Format::kMxfp4 ? fp8_rows_kernel<true> : fp8_rows_kernel<false>;
  kernel<<<static_cast<unsigned>(args.to.rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      args);
  return simt::launch_status("gemm");
}

bool aligned(const std::uint8_t* codes, const base::RowMap& rows) {
  return reinterpret_cast<std::uintptr_t>(codes) % 16 == 0 && rows.inner_stride % 16 == 0 &&
         rows.outer_stride % 16 == 0;
}

}  // namespace

base::Status launch_fp8_weights(const GemmProblem& problem, const Fp8Rows& to, int multiprocessors,
                                void* stream) {
  if (problem.form == WeightForm::kPrepared)
    return launch_fp8_prepared(problem, to, multiprocessors, stream);
  ScaleValue one = problem.b_scale;
  one.stride = 0;
  const RowsArgs args{problem.n,
                      problem.k,
                      problem.b_codes,
                      problem.b_rows,
                      aligned(problem.b_codes, problem.b_rows),
                      problem.b_scales,
                      problem.b_layout,
                      one,
                      to};
  return launch(problem.format, args, stream);
}

base::Status launch_fp8_activations(const GemmProblem& problem, const Fp8Rows& to, void* stream) {
  if (!problem.quantized) return launch_fp8_values(problem, to, stream);
  const RowsArgs args{problem.m,
                      problem.k,
                      problem.a_codes,
                      problem.a_rows,
                      aligned(problem.a_codes, problem.a_rows),
                      problem.a_scales,
                      problem.a_layout,
                      problem.a_scale,
                      to};
  return launch(problem.format, args, stream);
}

}  // namespace halfbyte::ops::cuda
