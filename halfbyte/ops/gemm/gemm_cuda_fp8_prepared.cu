// Prepared weights in E4M3: a CTA 16 rows, all of K or a part, a warp 128 columns at a time.
#include <algorithm>

#include "halfbyte/ops/gemm/gemm_cuda_fp8.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_fp8.h"
#include "halfbyte/ops/gemm/gemm_fp8_math.h"
#include "halfbyte/ops/gemm/gemm_weights_math.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kBlocksOfMultiprocessor = 4;  // by registers
constexpr int kPitch = kUnitColumns + 16;   // bytes of a row in shared memory

struct PreparedArgs {
  const std::uint8_t* prepared;
  std::int64_t k;
  ScaleValue scale;
  Fp8Rows to;
};

// One lane's part of a unit: of the rows g and g + 8 (g = lane / 4) all blocks, the columns 2t, 2t
// + 1, 2t + 8 and 2t + 9 of each (t = lane % 4).
template <bool kMxfp4>
struct UnitPart {
  uint4 codes[2];
  uint4 scales;  // NVFP4: four words. MXFP4: x, of row g, and y

  __device__ __forceinline__ void load(const std::uint8_t* unit, int lane) {
    const auto* at = reinterpret_cast<const uint4*>(unit);
    codes[0] = __ldcs(at + lane);
    codes[1] = __ldcs(at + 32 + lane);
    const std::uint8_t* from = unit + kUnitCodeBytes;
    if constexpr (kMxfp4) {
      const uint2 two = *reinterpret_cast<const uint2*>(from + lane / 4 * 8);
      scales = {two.x, two.y, 0, 0};
    } else {
      scales = *reinterpret_cast<const uint4*>(from + lane / 4 * 16);
    }
  }
};

// The larger, byte by byte, of `most` and the ranks of prepared NVFP4 scales: fp16(S * 128) >> 7.
__device__ __forceinline__ std::uint32_t max_ranks(std::uint32_t most, std::uint32_t word) {
  const std::uint32_t bytes = __funnelshift_r(word, word, 7);
  return __vmaxu4(most, bytes & __vcmpltu4(bytes, 0xF8F8F8F8u));
}

// The largest ranks of the tile's rows, to ranks[0 .. 15].
template <bool kMxfp4>
__device__ __forceinline__ void find_ranks(const PreparedArgs& args, const std::uint8_t* tile,
                                           std::int64_t units, int warp, int lane,
                                           int (&parts)[kWarps][kTileRows],
                                           int (&ranks)[kTileRows]) {
  constexpr int kUnit = unit_bytes(kMxfp4 ? Format::kMxfp4 : Format::kNvfp4);
  std::uint32_t most = 0;
  if constexpr (kMxfp4) {
    // Lanes 0 to 15: four scales of row g and of row g + 8 alternate; padding does not count.
    const std::int64_t blocks = args.k / 32;
    for (std::int64_t u = warp * 2 + lane / 16; u < units; u += kWarps * 2) {
      const std::uint32_t word = *reinterpret_cast<const std::uint32_t*>(
          tile + u * kUnit + kUnitCodeBytes + lane % 16 * 4);
      const auto valid = static_cast<int>(min(blocks - u * 4, std::int64_t{4}));
      const std::uint32_t mask = valid == 4 ? ~0u : (1u << (8 * valid)) - 1;
      const std::uint32_t no_nan = __vcmpltu4(word, 0xFFFFFFFFu);
      most = __vmaxu4(most, word & mask & no_nan);
    }
    most = __vmaxu4(most, most >> 16);
    most = max(most & 0xFF, most >> 8 & 0xFF);
    most = max(most, __shfl_xor_sync(~0u, most, 16));
    // Lane l has row l / 2, of the upper half where l is odd.
    if (lane < 16) parts[warp][lane / 2 + lane % 2 * 8] = static_cast<int>(most);
  } else {
#pragma unroll 4
    for (std::int64_t u = warp; u < units; u += kWarps) {
      most = max_ranks(most, *reinterpret_cast<const std::uint32_t*>(tile + u * kUnit +
                                                                     kUnitCodeBytes + lane * 4));
    }
    most = __vmaxu4(most, __shfl_xor_sync(~0u, most, 1));
    most = __vmaxu4(most, __shfl_xor_sync(~0u, most, 2));
    if (lane % 4 == 0) {
      parts[warp][lane / 4] = static_cast<int>(max(most & 0xFF, most >> 8 & 0xFF));
      parts[warp][lane / 4 + 8] = static_cast<int>(max(most >> 16 & 0xFF, most >> 24));
    }
  }
  __syncthreads();
  const int thread = warp * 32 + lane;
  if (thread < kTileRows) {
    int rank = 0;
#pragma unroll
    for (const auto& part : parts) rank = max(rank, part[thread]);
    if constexpr (!kMxfp4)
      rank =
          fp8_scale_rank(Format::kNvfp4, e4m3_of_prepared_scale(static_cast<std::uint8_t>(rank)));
    ranks[thread] = rank;
  }
  __syncthreads();
}

template <bool kMxfp4>
__global__ void __launch_bounds__(kThreads)
    fp8_prepared_kernel(const __grid_constant__ PreparedArgs args) {
  constexpr Format kFormat = kMxfp4 ? Format::kMxfp4 : Format::kNvfp4;
  constexpr int kUnit = unit_bytes(kFormat);
  __shared__ __align__(16) std::uint8_t staged[kWarps][kTileRows * kPitch];
  __shared__ int parts[kWarps][kTileRows], ranks[kTileRows];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const std::int64_t units = (args.k + kUnitColumns - 1) / kUnitColumns;
  const std::uint8_t* tile = args.prepared + std::int64_t{blockIdx.x} * units * kUnit;
  const std::int64_t step = std::int64_t{gridDim.y} * kWarps;
  std::int64_t unit = std::int64_t{blockIdx.y} * kWarps + warp;
  UnitPart<kMxfp4> part;
  if (unit < units) part.load(tile + unit * kUnit, lane);
  find_ranks<kMxfp4>(args, tile, units, warp, lane, parts, ranks);
  const int shifts[2] = {fp8_shift(kFormat, ranks[g]), fp8_shift(kFormat, ranks[g + 8])};
  const std::int64_t first_row = std::int64_t{blockIdx.x} * kTileRows;
  if (blockIdx.y == 0 && warp == 0 && t < 2) {
    args.to.factors[first_row + g + 8 * t] =
        numerics::mul_rn(args.scale.decode(0), fp8_factor(shifts[t]));
  }
  const __half2 powers[2] = {half2_power_of_two(kMxfp4 ? 0 : shifts[0]),
                             half2_power_of_two(kMxfp4 ? 0 : shifts[1])};
  std::uint8_t* rows = staged[warp];
  for (; unit < units; unit += step) {
    const UnitPart<kMxfp4> now = part;
    if (unit + step < units) part.load(tile + (unit + step) * kUnit, lane);
    const std::uint32_t words[8] = {now.codes[0].x, now.codes[0].y, now.codes[0].z, now.codes[0].w,
                                    now.codes[1].x, now.codes[1].y, now.codes[1].z, now.codes[1].w};
    const std::uint32_t scale_words[4] = {now.scales.x, now.scales.y, now.scales.z, now.scales.w};
#pragma unroll
    for (int block = 0; block < 8; ++block) {
      // The scales of the block times 2^shift and 2^7, twice each.
      __half2 scales[2];
      if constexpr (kMxfp4) {
#pragma unroll
        for (int up = 0; up < 2; ++up) {
          const auto scale = static_cast<int>(scale_words[up] >> (block / 2 * 8) & 0xFF);
          // Below 2^-16 every product rounds to zero.
          scales[up] = scale == formats::kE8m0Nan
                           ? half2_of_bits(0x7E007E00u)
                           : half2_power_of_two(max(scale - 127 + shifts[up], -16) + 7);
        }
      } else {
        const std::uint32_t word = scale_words[block / 2];
        const std::uint32_t pair =
            ((block & 1) != 0 ? __funnelshift_r(word, word, 8) : word) & 0x7F807F80u;
        scales[0] = __hmul2(half2_of_bits(__byte_perm(pair, 0, 0x1010)), powers[0]);
        scales[1] = __hmul2(half2_of_bits(__byte_perm(pair, 0, 0x3232)), powers[1]);
      }
      const SpreadCodes codes = spread_of_word(words[block]);
      // e2m1 * 2^-14 times S * 2^(shift + 7), then 2^7: exact in fp16.
      const auto put = [&](int up, int column, std::uint32_t half_codes) {
        const __half2 v =
            __hmul2(__hmul2(half2_of_bits(half_codes), scales[up]), __float2half2_rn(128.0f));
        *reinterpret_cast<std::uint16_t*>(rows + (g + 8 * up) * kPitch + block * 16 + column +
                                          2 * t) = static_cast<std::uint16_t>(e4m3_of_pair(v));
      };
      put(0, 0, codes.low & 0xFF00FF00u);
      put(1, 0, codes.low << 8 & 0xFF00FF00u);
      put(0, 8, codes.high & 0xFF00FF00u);
      put(1, 8, codes.high << 8 & 0xFF00FF00u);
    }
    __syncwarp();
    const std::int64_t first = unit * kUnitColumns + lane % 8 * 16;
    if (first < args.k) {  // a multiple of 16
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 8 + i * 4;
        *reinterpret_cast<uint4*>(args.to.codes + (first_row + row) * args.k + first) =
            *reinterpret_cast<const uint4*>(rows + row * kPitch + lane % 8 * 16);
      }
    }
    __syncwarp();
  }
}

}  // namespace

base::Status launch_fp8_prepared(const GemmProblem& problem, const Fp8Rows& to, int multiprocessors,
                                 void* stream) {
  const std::int64_t tiles = to.rows / kTileRows;
  if (tiles == 0) return {};
  const std::int64_t units = (problem.k + kUnitColumns - 1) / kUnitColumns;
  // Of CTAs, all at once where there are few, each of which reads all scales of its rows; two for a
  // tile rather than a second round of a few (measured on an H200).
  const std::int64_t fit = std::int64_t{kBlocksOfMultiprocessor} * multiprocessors;
  const std::int64_t wanted = tiles > fit && tiles < fit * 3 / 2 ? 2 : fit / tiles;
  const std::int64_t parts =
      std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(units / kWarps, 1));
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(parts));
  const PreparedArgs args{problem.b_prepared, problem.k, problem.b_scale, to};
  const auto kernel =
      problem.format == Format::kMxfp4 ? fp8_prepared_kernel<true> : fp8_prepared_kernel<false>;
  kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return simt::launch_status("gemm");
}

}  // namespace halfbyte::ops::cuda
