// Pieces of the tensor-core kernel (gemm_cuda_tensor_core.cuh): tensor copies, dequantization in
// registers, exchange within a cluster, outputs.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "halfbyte/ops/gemm/gemm_cuda_bulk.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_values.cuh"
#include "halfbyte/ops/gemm/gemm_tensor_core_plan.h"

namespace halfbyte::ops::cuda {

struct TensorCoreArgs {
  TensorCorePlan plan;
  float factor = 1.0f;  // a power of two: what the operands are scaled by, undone with a's scale
  bool programmatic = false;
  ScaleValue a_scale, b_scale;
  const float* a_decodes = nullptr;  // one a row, times the factor; nullptr: a_scale's one
  const void* bias = nullptr;
  base::DType bias_dtype = base::DType::kF32;
  void* c = nullptr;
  base::DType c_dtype = base::DType::kF32;
  base::RowMap c_rows;
  int c_inner_rows = 0;  // 0: evenly spaced
  bool pairs = false;    // two 16-bit elements of C can be stored as one word
  bool lines = false;    // eight
  int m = 0, n = 0;

  // plan.shares: sums of blocks that have not the first slices of a tile, and flags that are 1 once
  // a warp's are there.
  float4* parts = nullptr;
  std::uint32_t* flags = nullptr;

  // plan.groups > 0.
  const std::int32_t* row_offsets = nullptr;
  const std::int32_t* scale_row_offsets = nullptr;  // nullptr: A has no scales
  std::int64_t a_scale_rows = 0;
  bool a_scale_per_group = false;
  int tiles_n = 0;  // of 16 rows, of one group's weights
};

// Of C: rows first_row to end_row - 1 of A, where the tile's tokens are at most, by the rows of B
// from tile_n times the tile's rows on.
struct TensorCoreTile {
  int first_row, end_row, tile_n, group;
};

HALFBYTE_HD constexpr int tensor_core_unit_bytes(TensorCoreKind kind) {
  return unit_bytes(kind == TensorCoreKind::kMxfp4 ? Format::kMxfp4 : Format::kNvfp4);
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

__device__ __forceinline__ void tensor_load(std::uint32_t to, const CUtensorMap& map, int x, int y,
                                            std::uint32_t bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(bar)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// What the compiler is not to make anew where it is used.
template <bool kKeeps>
__device__ __forceinline__ std::uint32_t kept(std::uint32_t value) {
  if constexpr (kKeeps) asm volatile("" : "+r"(value));
  return value;
}
// To the block `rank` of the cluster, where the address is the same as here.
__device__ __forceinline__ void store_cluster16(std::uint32_t at, int rank, float4 v) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "st.shared::cluster.v4.f32 [there], {%2,%3,%4,%5};\n}" ::"r"(at),
      "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
}
__device__ __forceinline__ float4 load_sums(std::uint32_t at) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(at)
               : "memory");
  return v;
}
// Of the cluster's threads that have not ended; orders no memory but that of the tensor cores,
// which have been waited for.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::
                   : "memory");
}
// The same; what was stored in the cluster before is there.
__device__ __forceinline__ void cluster_sync_stores() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
__device__ __forceinline__ void warpgroup_sync(int which) {
  asm volatile("bar.sync %0, 128;" ::"r"(which + 2) : "memory");
}

template <bool kBf16>
__device__ __forceinline__ std::uint32_t times(std::uint32_t a, std::uint32_t b) {
  std::uint32_t r;
  if constexpr (kBf16) {
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  } else {
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  }
  return r;
}
// Its low, its high half twice.
__device__ __forceinline__ std::uint32_t twice_low(std::uint32_t pair) {
  std::uint32_t r;
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\nmov.b32 %0, {l, l};\n}" : "=r"(r) : "r"(pair));
  return r;
}
__device__ __forceinline__ std::uint32_t twice_high(std::uint32_t pair) {
  std::uint32_t r;
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\nmov.b32 %0, {h, h};\n}" : "=r"(r) : "r"(pair));
  return r;
}

// The scales of a lane's rows g and g + 8 in a unit. pair(p): of the 32 columns p, the first and
// the second 16; row g in the low half, g + 8 in the high one.
// Loaded at once, or, where registers are few, word by word.
template <TensorCoreKind kKind, bool kAtOnce>
struct UnitScales {
  std::uint32_t from;
  uint4 words;

  __device__ __forceinline__ static std::uint32_t place(std::uint32_t scales, int lane) {
    return scales + lane / 4 * (kKind == TensorCoreKind::kMxfp4 ? 8 : 16);
  }
  __device__ __forceinline__ explicit UnitScales(std::uint32_t at) : from(at) {
    if constexpr (kAtOnce && kKind == TensorCoreKind::kMxfp4) {
      const uint2 v = load_shared8(at);
      words = make_uint4(v.x, v.y, 0, 0);
    } else if constexpr (kAtOnce) {
      words = load_shared16(at);
    }
  }
  __device__ __forceinline__ std::uint32_t word(int p) const {
    if constexpr (kAtOnce) {
      return p == 0 ? words.x : p == 1 ? words.y : p == 2 ? words.z : words.w;
    } else {
      return load_shared4(from + p * 4);
    }
  }
  __device__ __forceinline__ void pair(int p, std::uint32_t& even, std::uint32_t& odd) const {
    if constexpr (kKind == TensorCoreKind::kMxfp4) {
      // bf16 of 2^(e + 126 - 64) is (byte + 62) << 7; from 2^66 on, NaN included, not finite.
      std::uint32_t two;
      if constexpr (kAtOnce) {
        two = __byte_perm(words.x, words.y, p | (p + 4) << 8) & 0x00FF00FFu;
      } else {
        two = load_shared1(from + p) | load_shared1(from + 4 + p) << 16;
      }
      even = odd = __vminu2(two * 128 + 0x1F001F00u, 0x7FFF7FFFu);
    } else {
      const std::uint32_t word = this->word(p);
      if constexpr (kKind == TensorCoreKind::kFp16) {  // fp16 of S * 2^7
        even = word & 0x7F807F80u;
        odd = __funnelshift_r(word, word, 8) & 0x7F807F80u;
      } else {  // these bits are bf16 of S * 2^-105, then S * 2^119
        constexpr std::uint32_t kTwoTo112 = 0x77807780u;
        even = word >> 3 & 0x0FF00FF0u;
        odd = __funnelshift_r(word, word, 11) & 0x0FF00FF0u;
        even = times<true>(times<true>(even, kTwoTo112), kTwoTo112);
        odd = times<true>(times<true>(odd, kTwoTo112), kTwoTo112);
      }
    }
  }
};

// A word of eight codes to the four registers of 16 columns: rows g and g + 8 of the low columns,
// then of the high ones.
template <TensorCoreKind kKind>
__device__ __forceinline__ void dequantize(std::uint32_t word, std::uint32_t scales,
                                           std::uint32_t (&to)[4]) {
  const std::uint32_t low = twice_low(scales), high = twice_high(scales);
  const std::uint32_t right = word >> 3, left = word << 7;
  constexpr std::uint32_t kHigh = 0x8E008E00u, kLow = 0x008E008Eu;
  const std::uint32_t third = xor_and(right, left, kHigh);
  const std::uint32_t fourth = xor_and(right, left, kLow);
  if constexpr (kKind == TensorCoreKind::kFp16) {  // e2m1 * 2^-14
    to[0] = times<false>(word & kHigh, low);
    to[1] = times<false>((word & kLow) << 8, high);
    to[2] = times<false>(third, low);
    to[3] = times<false>(fourth << 8, high);
  } else {  // e2m1 * 2^-126: the sign stays or moves 8 up, the magnitude 3 down or 5 up
    constexpr std::uint32_t kSigns = 0x80008000u, kRest = 0x01C001C0u, kBoth = 0x0120u;
    to[0] = times<true>((word & kSigns) | (right & kRest), low);
    to[1] = times<true>((word & kLow) * kBoth & (kSigns | kRest), high);
    to[2] = times<true>((third | third >> 3) & (kSigns | kRest), low);
    to[3] = times<true>(fourth * kBoth & (kSigns | kRest), high);
  }
}

// Of a row of C, in elements.
__device__ __forceinline__ std::int64_t tensor_core_c_offset(const TensorCoreArgs& args, int row) {
  if (args.c_inner_rows == 0) return row * args.c_rows.inner_stride;
  const unsigned outer = static_cast<unsigned>(row) / static_cast<unsigned>(args.c_inner_rows);
  return outer * args.c_rows.outer_stride +
         (row - static_cast<int>(outer) * args.c_inner_rows) * args.c_rows.inner_stride;
}

// Tiles in an order in which those that run together share rows of A and of B: tile `index` of
// tiles_m * plan.tiles_n; x: of M, y: of N.
__device__ __forceinline__ int2 tensor_core_place(const TensorCorePlan& plan, int tiles_m,
                                                  int index) {
  const int group_tiles = plan.group_m * plan.tiles_n, group = index / group_tiles;
  const int in = index - group * group_tiles, from = group * plan.group_m;
  const int width = min(plan.group_m, tiles_m - from);
  return make_int2(from + in % width, in / width);
}

// Where it stands: the compiler gathers loads of a whole tile otherwise, and spills.
__device__ __forceinline__ float load_in_order(const float* from) {
  float v;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
  return v;
}

// A warp's 16 rows of N of a tile: sums to C.
template <bool kGrouped>
struct TensorCoreOutput {
  int m = 0, n = 0, lane;  // the tile's first token, the warp's first row
  int group_end = 0;
  float a_decode, b_decode, bias[2];

  __device__ __forceinline__ explicit TensorCoreOutput(int of) : lane(of) {}
  // The first token that is not the tile's.
  __device__ __forceinline__ int end(const TensorCoreArgs& args) const {
    return kGrouped ? group_end : args.m;
  }
  // What no tile depends on.
  __device__ __forceinline__ void load_scales(const TensorCoreArgs& args) {
    a_decode = args.a_decodes == nullptr ? __fmul_rn(args.a_scale.decode(0), args.factor) : 1.0f;
    b_decode = args.b_scale.decode(0);
  }
  __device__ __forceinline__ void start(const TensorCoreArgs& args, const TensorCoreTile& tile,
                                        int first_n) {
    m = tile.first_row, n = first_n;
    if constexpr (kGrouped) group_end = tile.end_row;
#pragma unroll
    for (int up = 0; up < 2; ++up) {
      const int row = n + lane / 4 + 8 * up;
      const std::int64_t at = kGrouped ? std::int64_t{tile.group} * args.n + row : row;
      bias[up] =
          args.bias != nullptr && row < args.n ? value_at(args.bias, args.bias_dtype, at) : 0.0f;
    }
  }
  __device__ __forceinline__ float finish(const TensorCoreArgs& args, float sum, float decode,
                                          int up) const {
    const float v = __fmul_rn(__fmul_rn(sum, decode), b_decode);
    return args.bias != nullptr ? __fadd_rn(v, bias[up]) : v;
  }
  // Tokens 8 i to 8 i + 7: sums of (row g, tokens 2t and 2t + 1), then of row g + 8.
  __device__ __forceinline__ void finish4(const TensorCoreArgs& args, int i, float4 sum,
                                          float (&v)[4]) const {
    float first = a_decode, second = a_decode;
    if (args.a_decodes != nullptr) {
      const int token = m + 8 * i + 2 * (lane % 4);
      first = load_in_order(args.a_decodes + min(token, args.m - 1));
      second = load_in_order(args.a_decodes + min(token + 1, args.m - 1));
    }
    v[0] = finish(args, sum.x, first, 0), v[1] = finish(args, sum.y, second, 0);
    v[2] = finish(args, sum.z, first, 1), v[3] = finish(args, sum.w, second, 1);
  }
  __device__ __forceinline__ static std::uint32_t pack(const TensorCoreArgs& args, float x,
                                                       float y) {
    if (args.c_dtype == base::DType::kBF16) {
      const __nv_bfloat162 p = __floats2bfloat162_rn(x, y);
      return *reinterpret_cast<const std::uint32_t*>(&p);
    }
    const __half2 p = __floats2half2_rn(x, y);
    return *reinterpret_cast<const std::uint32_t*>(&p);
  }
  // Where 16 bytes of a token lie in `staged`, which four warps share.
  __device__ __forceinline__ static std::uint32_t staged_place(std::uint32_t staged, int token,
                                                               int chunk) {
    return staged + static_cast<std::uint32_t>(token * 128 + ((chunk ^ token) & 7) * 16);
  }
  // Tokens 8 i to 8 i + 15 to `staged`, there from token `to` on.
  __device__ __forceinline__ void stage16(const TensorCoreArgs& args, int i, float4 low,
                                          float4 high, std::uint32_t staged, int to) const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    std::uint32_t r[4];
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      float v[4];
      finish4(args, i + x, x == 0 ? low : high, v);
      r[2 * x] = pack(args, v[0], v[1]), r[2 * x + 1] = pack(args, v[2], v[3]);
    }
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
            staged_place(staged, to + lane / 16 * 8 + lane % 8, warp % 4 * 2 + lane / 8 % 2)),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
        : "memory");
  }
  // Whole lines of C: the tile's tokens from `first` on, which lie in `staged` from token `from`
  // on.
  template <int kCount>
  __device__ __forceinline__ void put_lines(const TensorCoreArgs& args, int first,
                                            std::uint32_t staged, int from) const {
    const int warp = static_cast<int>(threadIdx.x) / 32,
              thread = static_cast<int>(threadIdx.x) % 128;
    std::uint16_t* c = static_cast<std::uint16_t*>(args.c) + (n - warp % 4 * kTileRows);
#pragma unroll
    for (int x = 0; x < kCount / 16; ++x) {
      const int token = x * 16 + thread / 8, chunk = thread % 8, row = m + first + token;
      const uint4 v = load_shared16(staged_place(staged, from + token, chunk));
      if (row < end(args)) store_global16(c + tensor_core_c_offset(args, row) + chunk * 8, v);
    }
  }
  // All tokens of the tile.
  template <int kTokens, class FourSums>
  __device__ __forceinline__ void put_staged(const TensorCoreArgs& args, const FourSums& four_sums,
                                             std::uint32_t staged) const {
    constexpr int kRound = kTokens < kTensorCoreStagedTokens ? kTokens : kTensorCoreStagedTokens;
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
#pragma unroll
    for (int round = 0; round < kTokens / kRound; ++round) {
      if (m + round * kRound >= end(args)) return;
#pragma unroll
      for (int half = 0; half < kRound / 16; ++half) {
        const int i = round * (kRound / 8) + half * 2;
        stage16(args, i, four_sums(i), four_sums(i + 1), staged, half * 16);
      }
      warpgroup_sync(warpgroup);
      put_lines<kRound>(args, round * kRound, staged, 0);
      warpgroup_sync(warpgroup);
    }
  }
  __device__ __forceinline__ void put(const TensorCoreArgs& args, int i, float4 sum) const {
    const int g = lane / 4, t = lane % 4, token = m + 8 * i + 2 * t;
    if (m + 8 * i >= end(args)) return;
    float v[4];
    finish4(args, i, sum, v);
    if (args.c_dtype == base::DType::kF32) {
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        float* c = static_cast<float*>(args.c) + tensor_core_c_offset(args, token + x) + n + g;
        if (token + x < end(args) && n + g < args.n) c[0] = v[x];
        if (token + x < end(args) && n + g + 8 < args.n) c[8] = v[x + 2];
      }
      return;
    }
    std::uint32_t pairs[2];
#pragma unroll
    for (int up = 0; up < 2; ++up) {
      pairs[up] = pack(args, v[2 * up], v[2 * up + 1]);
      // Rows of N become neighbours: the lane has token g, rows 2t and 2t + 1.
      asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pairs[up]));
    }
    const int row = m + 8 * i + g;
    if (row >= end(args)) return;
    std::uint16_t* c =
        static_cast<std::uint16_t*>(args.c) + tensor_core_c_offset(args, row) + n + 2 * t;
    if (args.pairs && n + 16 <= args.n) {
      *reinterpret_cast<std::uint32_t*>(c) = pairs[0];
      *reinterpret_cast<std::uint32_t*>(c + 8) = pairs[1];
      return;
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int column = x / 2 * 8 + x % 2;
      if (n + 2 * t + column < args.n)
        c[column] = static_cast<std::uint16_t>(pairs[x / 2] >> (x % 2 * 16));
    }
  }
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace halfbyte::ops::cuda
