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

constexpr int kPiece = 16;  // columns a thread takes at once: 16 bytes out, side by side in a warp

struct RowsArgs {
  std::int64_t rows, k;
  const std::uint8_t* codes;
  base::RowMap code_rows;
  const std::uint8_t* scales;
  ScaleLayout layout;
  ScaleValue scale;
  Fp8Rows to;
};

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

// One row, its pieces in turn. kAligned: 8 bytes of codes at a time. That is no question at run
// time, as both answers would write to one register, and no load be asked for before the last came.
template <bool kMxfp4, bool kAligned>
struct RowReader {
  static constexpr Format kFormat = kMxfp4 ? Format::kMxfp4 : Format::kNvfp4;

  const RowsArgs& args;
  const std::uint8_t* codes;
  const std::uint8_t* scales;
  std::uint8_t* to;

  __device__ RowReader(const RowsArgs& of, std::int64_t row)
      : args(of),
        codes(of.codes + of.code_rows.offset(row)),
        scales(of.scales + formats::scale_row_offset(of.layout, row, of.k / (kMxfp4 ? 32 : 16))),
        to(of.to.codes + row * of.k) {}

  __device__ __forceinline__ uint2 codes_of(int piece) const {
    const std::uint8_t* from = codes + std::int64_t{piece} * (kPiece / 2);
    if constexpr (kAligned) return __ldcs(reinterpret_cast<const uint2*>(from));
    return {load_word(from), load_word(from + 4)};
  }
  __device__ __forceinline__ std::uint32_t scale_of(int piece) const {
    return scales[formats::scale_column_offset<int>(args.layout, kMxfp4 ? piece / 2 : piece)];
  }
  __device__ __forceinline__ void put(int piece, uint2 words, std::uint32_t scale,
                                      int shift) const {
    const BlockTable table = BlockTable::of<kMxfp4>(static_cast<std::uint8_t>(scale), shift);
    const uint2 a = table.look_up(words.x), b = table.look_up(words.y);
    reinterpret_cast<uint4*>(to)[piece] = {a.x, a.y, b.x, b.y};
  }
};

// A thread holds kHeld pieces; those of a longer row are read twice.
template <bool kMxfp4, bool kAligned, int kThreads, int kHeld>
__global__ void __launch_bounds__(kThreads) fp8_rows_kernel(const __grid_constant__ RowsArgs args) {
  using Reader = RowReader<kMxfp4, kAligned>;
  const auto rank_of = [](std::uint32_t scale) {
    return fp8_scale_rank(Reader::kFormat, static_cast<std::uint8_t>(scale));
  };
  __shared__ int ranks[kThreads / 32];
  const int thread = static_cast<int>(threadIdx.x);
  const int pieces = static_cast<int>(args.k / kPiece);
  const std::int64_t row = blockIdx.x;
  if (row >= args.rows) {
    auto* to = reinterpret_cast<uint4*>(args.to.codes + row * args.k);
    for (int piece = thread; piece < pieces; piece += kThreads) to[piece] = uint4{};
    if (thread == 0) args.to.factors[row] = 0.0f;
    return;
  }
  const Reader reader(args, row);
  uint2 words[kHeld];
  std::uint32_t scales[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int piece = thread + i * kThreads;
    words[i] = piece < pieces ? reader.codes_of(piece) : uint2{};
    scales[i] = piece < pieces ? reader.scale_of(piece) : 0;
  }
  int rank = 0;
#pragma unroll
  for (const std::uint32_t scale : scales) rank = max(rank, rank_of(scale));
  for (int piece = thread + kHeld * kThreads; piece < pieces; piece += kThreads) {
    rank = max(rank, rank_of(reader.scale_of(piece)));
  }
  rank = __reduce_max_sync(~0u, rank);
  if (thread % 32 == 0) ranks[thread / 32] = rank;
  __syncthreads();
#pragma unroll
  for (const int other : ranks) rank = max(rank, other);
  const int shift = fp8_shift(Reader::kFormat, rank);
  if (thread == 0)
    args.to.factors[row] = numerics::mul_rn(args.scale.decode(row), fp8_factor(shift));
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int piece = thread + i * kThreads;
    if (piece < pieces) reader.put(piece, words[i], scales[i], shift);
  }
  for (int piece = thread + kHeld * kThreads; piece < pieces; piece += kThreads)
    reader.put(piece, reader.codes_of(piece), reader.scale_of(piece), shift);
}

template <bool kMxfp4, bool kAligned, int kThreads, int kHeld>
base::Status launch_kernel(const RowsArgs& args, void* stream) {
  fp8_rows_kernel<kMxfp4, kAligned, kThreads, kHeld>
      <<<static_cast<unsigned>(args.to.rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          args);
  return simt::launch_status("gemm");
}

template <bool kMxfp4>
base::Status launch_format(const RowsArgs& args, void* stream) {
  const std::int64_t pieces = args.k / kPiece;
  const bool aligned = reinterpret_cast<std::uintptr_t>(args.codes) % 8 == 0 &&
                       args.code_rows.inner_stride % 8 == 0 && args.code_rows.outer_stride % 8 == 0;
  if (!aligned) return launch_kernel<kMxfp4, false, 128, 2>(args, stream);
  if (pieces <= 128 * 2) return launch_kernel<kMxfp4, true, 128, 2>(args, stream);
  if (pieces <= 128 * 4) return launch_kernel<kMxfp4, true, 128, 4>(args, stream);
  if (pieces <= 256 * 4) return launch_kernel<kMxfp4, true, 256, 4>(args, stream);
  return launch_kernel<kMxfp4, true, 256, 8>(args, stream);
}

base::Status launch(Format format, const RowsArgs& args, void* stream) {
  if (args.to.rows == 0) return {};
  return format == Format::kMxfp4 ? launch_format<true>(args, stream)
                                  : launch_format<false>(args, stream);
}

}  // namespace

base::Status launch_fp8_weights(const GemmProblem& problem, const Fp8Rows& to, int multiprocessors,
                                void* stream) {
  if (problem.form == WeightForm::kPrepared)
    return launch_fp8_prepared(problem, to, multiprocessors, stream);
  ScaleValue one = problem.b_scale;
  one.stride = 0;
  const RowsArgs args{
      problem.n, problem.k, problem.b_codes, problem.b_rows, problem.b_scales, problem.b_layout,
      one,       to};
  return launch(problem.format, args, stream);
}

base::Status launch_fp8_activations(const GemmProblem& problem, const Fp8Rows& to, void* stream) {
  if (!problem.quantized) return launch_fp8_values(problem, to, stream);
  const RowsArgs args{problem.m,        problem.k,        problem.a_codes, problem.a_rows,
                      problem.a_scales, problem.a_layout, problem.a_scale, to};
  return launch(problem.format, args, stream);
}

}  // namespace halfbyte::ops::cuda
