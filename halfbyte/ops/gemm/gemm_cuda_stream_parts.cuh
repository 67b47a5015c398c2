// Pieces of the stream kernel (gemm_cuda_stream.cuh): copies of weights, the product of one unit of
// weights with A's fragments.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "halfbyte/ops/gemm/gemm_cuda_fragments.cuh"
#include "halfbyte/ops/gemm/gemm_stream_layout.h"

namespace halfbyte::ops::cuda {

enum class StreamKind { kNvfp4W4A4, kNvfp4W4A16, kMxfp4W4A4, kMxfp4W4A16 };

HALFBYTE_HD constexpr Format format_of(StreamKind kind) {
  return kind == StreamKind::kNvfp4W4A4 || kind == StreamKind::kNvfp4W4A16 ? Format::kNvfp4
                                                                           : Format::kMxfp4;
}
HALFBYTE_HD constexpr bool is_quantized(StreamKind kind) {
  return kind == StreamKind::kNvfp4W4A4 || kind == StreamKind::kMxfp4W4A4;
}
HALFBYTE_HD constexpr bool is_nvfp4(StreamKind kind) { return format_of(kind) == Format::kNvfp4; }

#if __CUDA_ARCH__ >= 800

// 16 bytes that are read once, past the L1.
__device__ __forceinline__ void copy_async16(std::uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All but the newest kPending groups of copies are there.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ float2 load_shared_floats(std::uint32_t at) {
  const uint2 v = load_shared8(at);
  return make_float2(__uint_as_float(v.x), __uint_as_float(v.y));
}

// 16 x 16 times 16 x 8, plus c. Rows lane / 4 and + 8, columns 2 * (lane % 4) and + 1.
__device__ __forceinline__ float4 product(const std::uint32_t (&a)[4], std::uint32_t b0,
                                          std::uint32_t b1, float4 c) {
  float4 d;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c.x), "f"(c.y), "f"(c.z),
        "f"(c.w));
  return d;
}

// A word of codes as fp16 of e2m1 * 2^-14.
__device__ __forceinline__ void make_codes(std::uint32_t w, std::uint32_t (&a)[4]) {
  const std::uint32_t right = w >> 3, left = w << 7;
  a[0] = w & 0x8E008E00u;
  a[1] = (w & 0x008E008Eu) << 8;
  a[2] = xor_and(right, left, 0x8E008E00u);
  a[3] = xor_and(right, left, 0x008E008Eu) << 8;
}

// A lane's codes of the unit at `at`.
__device__ __forceinline__ void load_codes(std::uint32_t at, int lane, std::uint32_t (&codes)[8]) {
  const uint4 first = load_shared16(at + lane * 16), second = load_shared16(at + 512 + lane * 16);
  codes[0] = first.x, codes[1] = first.y, codes[2] = first.z, codes[3] = first.w;
  codes[4] = second.x, codes[5] = second.y, codes[6] = second.z, codes[7] = second.w;
}

// A warp's registers of one unit: what a lane needs of it.
template <Format kFormat>
struct StreamUnit {
  std::uint32_t codes[8];
  std::uint32_t scales[kFormat == Format::kNvfp4 ? 4 : 2];

  // at: the unit in shared memory.
  __device__ __forceinline__ void load(std::uint32_t at, int lane) {
    load_codes(at, lane, codes);
    if constexpr (kFormat == Format::kNvfp4) {
      const uint4 words = load_shared16(at + kUnitCodeBytes + lane / 4 * 16);
      scales[0] = words.x, scales[1] = words.y, scales[2] = words.z, scales[3] = words.w;
    } else {
      const uint2 words = load_shared8(at + kUnitCodeBytes + lane / 4 * 8);
      scales[0] = words.x, scales[1] = words.y;
    }
  }
};

// Where a lane's pieces of A lie: the fragments of slice s and pair p of blocks (s * 4 + p) *
// pair_bytes on.
template <int kTiles>
struct StreamActivations {
  std::uint32_t fragments[kTiles];
  std::uint32_t pair_bytes;  // rows * kStreamPairBytes
  std::uint32_t factors;
};

// MXFP4 scales of 2^114 and more, NaN too, in two factors: 2^14 times the scale has no float.
__device__ __forceinline__ bool any_large(std::uint32_t bytes) {
  return (((bytes & 0x7F7F7F7Fu) + 0x0F0F0F0Fu) & bytes & 0x80808080u) != 0;
}
__device__ __forceinline__ float2 large_scale(std::uint32_t byte) {
  if (byte < 241) return make_float2(1.0f, __uint_as_float((byte + 14) << 23));
  if (byte == 255) return make_float2(1.0f, __uint_as_float(0x7FFFFFFFu));
  return make_float2(__uint_as_float(254u << 23), __uint_as_float((byte + 14 - 127) << 23));
}

// Both slices of a pair, NVFP4: sums of 16 rows of B with each of A's tiles, in 2^-14.
template <int kTiles>
__device__ __forceinline__ void multiply_nvfp4(const StreamUnit<Format::kNvfp4> (&units)[2],
                                               const StreamActivations<kTiles>& a,
                                               const std::uint32_t (&first_pair)[2],
                                               float4 (&acc)[2][kTiles]) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    uint4 x[2][kTiles];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        x[u][i] = load_shared16(a.fragments[i] + first_pair[u] + pair * a.pair_bytes);
      }
    }
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        std::uint32_t w[4];
        make_codes(units[u].codes[2 * pair + odd], w);
        // S * 128 of rows g and g + 8, as fp16.
        const std::uint32_t word = units[u].scales[pair];
        const std::uint32_t s = (odd != 0 ? __funnelshift_r(word, word, 8) : word) & 0x7F807F80u;
        const float low = low_half(s), high = high_half(s);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          const float4 d =
              product(w, odd != 0 ? x[u][i].z : x[u][i].x, odd != 0 ? x[u][i].w : x[u][i].y,
                      make_float4(0.0f, 0.0f, 0.0f, 0.0f));
          acc[u][i].x = __fmaf_rn(d.x, low, acc[u][i].x);
          acc[u][i].y = __fmaf_rn(d.y, low, acc[u][i].y);
          acc[u][i].z = __fmaf_rn(d.z, high, acc[u][i].z);
          acc[u][i].w = __fmaf_rn(d.w, high, acc[u][i].w);
        }
      }
    }
  }
}

// MXFP4. W4A4: a term is d * 2^14 * S_a * S_b, rounded once: S_a first, which is exact. `blocks` of
// the slice are there; adding a +0 for one that is not could lose the sign of a -0.
template <bool kQuantized, bool kLarge, int kTiles>
__device__ __forceinline__ void multiply_mxfp4(const StreamUnit<Format::kMxfp4>& unit,
                                               const StreamActivations<kTiles>& a,
                                               std::uint32_t slice, std::uint32_t first_pair,
                                               int blocks, float4 (&acc)[kTiles]) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    if (block >= blocks) break;
    std::uint32_t first[4], second[4];
    make_codes(unit.codes[2 * block], first);
    make_codes(unit.codes[2 * block + 1], second);
    const std::uint32_t bytes[2] = {unit.scales[0] >> (8 * block) & 0xFFu,
                                    unit.scales[1] >> (8 * block) & 0xFFu};
    float2 low, high;
    if (kLarge) {
      low = large_scale(bytes[0]), high = large_scale(bytes[1]);
    } else {
      low.y = __uint_as_float((bytes[0] + 14) << 23);
      high.y = __uint_as_float((bytes[1] + 14) << 23);
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const uint4 x = load_shared16(a.fragments[i] + first_pair + block * a.pair_bytes);
      float4 d = product(first, x.x, x.y, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
      d = product(second, x.z, x.w, d);
      if constexpr (kQuantized) {
        const float2 s = load_shared_floats(a.factors + ((slice * 4 + block) * kTiles + i) * 32);
        d = make_float4(__fmul_rn(d.x, s.x), __fmul_rn(d.y, s.y), __fmul_rn(d.z, s.x),
                        __fmul_rn(d.w, s.y));
      }
      if (kLarge) {
        d = make_float4(__fmul_rn(d.x, low.x), __fmul_rn(d.y, low.x), __fmul_rn(d.z, high.x),
                        __fmul_rn(d.w, high.x));
      }
      if constexpr (kQuantized) {
        acc[i] = add4(acc[i], make_float4(__fmul_rn(d.x, low.y), __fmul_rn(d.y, low.y),
                                          __fmul_rn(d.z, high.y), __fmul_rn(d.w, high.y)));
      } else {
        acc[i].x = __fmaf_rn(d.x, low.y, acc[i].x);
        acc[i].y = __fmaf_rn(d.y, low.y, acc[i].y);
        acc[i].z = __fmaf_rn(d.z, high.y, acc[i].z);
        acc[i].w = __fmaf_rn(d.w, high.y, acc[i].w);
      }
    }
  }
}

// The sums of two slices: 16 rows of B, all of A's tiles. Slices are those of the round; blocks:
// of MXFP4 in the second one.
template <StreamKind kKind, int kTiles>
__device__ __forceinline__ void multiply(const StreamUnit<format_of(kKind)> (&units)[2],
                                         const StreamActivations<kTiles>& a, const int (&slices)[2],
                                         const std::uint32_t (&first_pair)[2],
                                         const int (&blocks)[2], float4 (&acc)[2][kTiles]) {
#pragma unroll
  for (int u = 0; u < 2; ++u) {
#pragma unroll
    for (float4& sum : acc[u]) sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  if constexpr (is_nvfp4(kKind)) {
    multiply_nvfp4<kTiles>(units, a, first_pair, acc);
  } else {
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const bool large = any_large(units[u].scales[0]) || any_large(units[u].scales[1]);
      if (__any_sync(0xFFFFFFFFu, large)) {
        multiply_mxfp4<is_quantized(kKind), true, kTiles>(units[u], a, slices[u], first_pair[u],
                                                          blocks[u], acc[u]);
      } else {
        multiply_mxfp4<is_quantized(kKind), false, kTiles>(units[u], a, slices[u], first_pair[u],
                                                           blocks[u], acc[u]);
      }
    }
  }
  if constexpr (!is_quantized(kKind)) {
#pragma unroll
    for (int u = 0; u < 2; ++u) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const float2 s = load_shared_floats(a.factors + (slices[u] * kTiles + i) * 32);
        float4& sum = acc[u][i];
        sum = make_float4(__fmul_rn(sum.x, s.x), __fmul_rn(sum.y, s.y), __fmul_rn(sum.z, s.x),
                          __fmul_rn(sum.w, s.y));
      }
    }
  }
}

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
