// Pieces of the decode kernel (gemm_cuda_decode.cuh): fragments of activations and weights, sums,
// outputs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_cuda_bulk.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_values.cuh"
#include "halfbyte/ops/gemm/gemm_decode_layout.h"

namespace halfbyte::ops::cuda {

inline constexpr int kUnitBytes = unit_bytes(Format::kNvfp4);

// Rows first_row to first_row + rows of the problem.
struct DecodeArgs {
  DecodePlan plan;
  const std::uint8_t* weights;
  const std::uint8_t* a_codes;
  std::int64_t a_stride;  // bytes
  const std::uint8_t* a_scales;
  ScaleLayout a_layout;
  ScaleValue a_scale, b_scale;
  const void* bias;
  base::DType bias_dtype;
  void* c;
  base::DType c_dtype;
  base::RowMap c_rows;
  std::int64_t first_row, n, k;
  int rows;
  bool aligned;  // A's slices can be copied 16 bytes of codes, 8 of linear scales at a time
};

#if __CUDA_ARCH__ >= 900

// a * low half of b, twice; a * its high half.
__device__ __forceinline__ std::uint32_t times_low(std::uint32_t a, std::uint32_t b) {
  std::uint32_t r;
  asm("{\n.reg .b16 l, h;\n.reg .b32 p;\nmov.b32 {l, h}, %2;\nmov.b32 p, {l, l};\n"
      "mul.rn.f16x2 %0, %1, p;\n}"
      : "=r"(r)
      : "r"(a), "r"(b));
  return r;
}
__device__ __forceinline__ std::uint32_t times_high(std::uint32_t a, std::uint32_t b) {
  std::uint32_t r;
  asm("{\n.reg .b16 l, h;\n.reg .b32 p;\nmov.b32 {l, h}, %2;\nmov.b32 p, {h, h};\n"
      "mul.rn.f16x2 %0, %1, p;\n}"
      : "=r"(r)
      : "r"(a), "r"(b));
  return r;
}
__device__ __forceinline__ void fma_if(float& acc, float a, float b, bool on) {
  asm("{\n.reg .pred p;\nsetp.ne.s32 p, %3, 0;\n@p fma.rn.f32 %0, %1, %2, %0;\n}"
      : "+f"(acc)
      : "f"(a), "f"(b), "r"(static_cast<int>(on)));
}
// 16 x 16 times 16 x 8, from +0. Rows lane / 4 and + 8, columns 2 * (lane % 4) and + 1.
__device__ __forceinline__ float4 product(std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                                          std::uint32_t a3, const std::uint32_t (&b)[2]) {
  float4 d;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};"
      : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b[0]), "r"(b[1]), "f"(0.0f));
  return d;
}

// Four E4M3 bytes as fp16 S * 128: bytes 0 and 2 in `even`, 1 and 3 in `odd`.
__device__ __forceinline__ void scales4(std::uint32_t bytes, std::uint32_t& even,
                                        std::uint32_t& odd) {
  constexpr std::uint32_t kSigns = 0x80008000u, kRest = 0x3F803F80u, kTwoTo15 = 0x78007800u;
  std::uint32_t e = bytes << 8;
  e = (e >> 1 & kRest) | (e & kSigns);
  std::uint32_t o = (bytes >> 1 & kRest) | (bytes & kSigns);
  if ((((bytes & 0x7F7F7F7Fu) + 0x01010101u) & 0x80808080u) != 0) {  // a NaN
    if ((bytes & 0x0000007Fu) == 0x0000007Fu) e |= 0x00007E00u;
    if ((bytes & 0x00007F00u) == 0x00007F00u) o |= 0x00007E00u;
    if ((bytes & 0x007F0000u) == 0x007F0000u) e |= 0x7E000000u;
    if ((bytes & 0x7F000000u) == 0x7F000000u) o |= 0x7E000000u;
  }
  even = times_low(e, kTwoTo15);
  odd = times_low(o, kTwoTo15);
}
// Pairs of codes in the bytes of v, the low and the high ones spread: fp16's upper bytes.
__device__ __forceinline__ void spread(std::uint32_t v, std::uint32_t& low, std::uint32_t& high) {
  low = (v << 4 & 0x80808080u) | (v << 1 & 0x0E0E0E0Eu);
  high = (v & 0x80808080u) | (v >> 3 & 0x0E0E0E0Eu);
}
template <int kByte>
__device__ __forceinline__ std::uint32_t pair_at(std::uint32_t low, std::uint32_t high) {
  return __byte_perm(low, high, kByte << 4 | (kByte + 4) << 12) & 0xFF00FF00u;
}

// The same value, which the compiler cannot know: what is made of it in a loop is not kept in
// registers outside.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Walks a team's items: its tiles in groups, each group once a round of K.
struct DecodeCursor {
  int i, end, base, round;
  __device__ __forceinline__ void start(int count, const DecodePlan& plan) {
    i = 0, base = 0, round = 0, end = min(plan.group_tiles, count);
  }
  __device__ __forceinline__ void next(int count, const DecodePlan& plan) {
    if (++i < end) return;
    if (++round == plan.rounds) {
      round = 0;
      base = end;
      end = min(base + plan.group_tiles, count);
    }
    i = base;
  }
};

// An item's activations as they are, the warp's share, to shared memory. Column n of group q is
// slice q * slices_shared + n / tokens, token n % tokens of its tile of tokens.
template <DecodeShape kShape>
__device__ __forceinline__ void fetch_raw(const DecodeArgs& args, int first_slice, int lane,
                                          std::uint32_t to) {
  constexpr int kTokens = 8 / kShape.slices_shared;
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int tile = 0; tile < kShape.token_tiles; ++tile) {
    const int token = min(tile * 8 + g % kTokens, args.rows - 1);
    const std::int64_t row = args.first_row + token, blocks = args.k / 16;
    const std::uint8_t* codes = args.a_codes + row * args.a_stride;
#pragma unroll
    for (int q = 0; q < kShape.groups; ++q) {
      const int slice = first_slice + q * kShape.slices_shared + g / kTokens;
      const std::uint32_t at = to + ((q * kShape.token_tiles + tile) * 8 + g) * kDecodeRawRow;
      if (args.aligned) {
        if (slice >= args.plan.slices) continue;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at + t * 16),
                     "l"(codes + slice * 64 + t * 16)
                     : "memory");
        if (t == 0) {
          asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(at + 64),
                       "l"(args.a_scales + row * blocks + slice * 8)
                       : "memory");
        }
        continue;
      }
#pragma unroll 1
      for (int x = t; x < 72; x += 4) {
        std::uint32_t v = 0;
        if (x < 64) {
          const int byte = slice * 64 + x;
          if (byte * std::int64_t{2} < args.k) v = codes[byte];
        } else if (slice * 8 + x - 64 < blocks) {
          v = args.a_scales[formats::scale_offset(args.a_layout, row, slice * 8 + x - 64, blocks)];
        }
        asm volatile("st.shared.u8 [%0], %1;" ::"r"(at + x), "r"(v) : "memory");
      }
    }
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ void wait_raw() {
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncwarp();
}

// They as fp16 of value * 2^-7.
template <DecodeShape kShape>
__device__ __forceinline__ void make_fragments(
    int lane, std::uint32_t raw,
    std::uint32_t (&fragments)[kShape.groups][8][kShape.token_tiles][2]) {
  const int g = lane / 4, t = lane % 4;
  const std::uint32_t bytes = static_cast<std::uint32_t>(t | (t + 4) << 4);
#pragma unroll
  for (int q = 0; q < kShape.groups; ++q) {
#pragma unroll
    for (int tile = 0; tile < kShape.token_tiles; ++tile) {
      const std::uint32_t row = raw + ((q * kShape.token_tiles + tile) * 8 + g) * kDecodeRawRow;
      const uint2 scales = load_shared8(row + 64);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        std::uint32_t even, odd;
        scales4(half != 0 ? scales.y : scales.x, even, odd);
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          const int b = 4 * half + 2 * pair;
          const uint2 u = load_shared8(row + b * 8), v = load_shared8(row + b * 8 + 8);
          std::uint32_t low, high;
          spread(__byte_perm(__byte_perm(u.x, u.y, bytes), __byte_perm(v.x, v.y, bytes), 0x5410),
                 low, high);
          const std::uint32_t p0 = pair_at<0>(low, high), p1 = pair_at<1>(low, high);
          const std::uint32_t p2 = pair_at<2>(low, high), p3 = pair_at<3>(low, high);
          auto& first = fragments[q][b][tile];
          auto& second = fragments[q][b + 1][tile];
          first[0] = pair != 0 ? times_high(p0, even) : times_low(p0, even);
          first[1] = pair != 0 ? times_high(p1, even) : times_low(p1, even);
          second[0] = pair != 0 ? times_high(p2, odd) : times_low(p2, odd);
          second[1] = pair != 0 ? times_high(p3, odd) : times_low(p3, odd);
        }
      }
    }
  }
}

// A warp's slices of a tile at `units`, the first `have` of them: sum[0] is their sum by the tree.
template <DecodeShape kShape>
__device__ __forceinline__ void multiply(
    std::uint32_t units, int have, int own, int lane,
    const std::uint32_t (&activations)[kShape.groups][8][kShape.token_tiles][2],
    float4 (&sum)[kShape.groups][kShape.token_tiles]) {
  constexpr int kShared = kShape.slices_shared, kTiles = kShape.token_tiles;
  constexpr bool kOne = kShape.one_token;
#pragma unroll
  for (int q = 0; q < kShape.groups; ++q) {
    float4 acc[kTiles];
#pragma unroll
    for (float4& x : acc) x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (have > q * kShared) {
      const uint4 words =
          load_shared16(units + (q * kShared + own) * kUnitBytes + 1024 + lane / 4 * 16);
      const std::uint32_t scale_words[4] = {words.x, words.y, words.z, words.w};
      // S * 128 of rows g and g + 8; where a slice has columns of its own, made when needed.
      const auto scale_pair = [&](int b) {
        const std::uint32_t word = scale_words[b / 2];
        return ((b & 1) != 0 ? __funnelshift_r(word, word, 8) : word) & 0x7F807F80u;
      };
      float low[8], high[8];
      if (kShared > 1) {
#pragma unroll
        for (int b = 0; b < 8; ++b) {
          const std::uint32_t pair = scale_pair(b);
          low[b] = low_half(pair), high[b] = high_half(pair);
        }
      }
#pragma unroll
      for (int s = 0; s < kShared; ++s) {
        if (have <= q * kShared + s) continue;
        const std::uint32_t unit = units + (q * kShared + s) * kUnitBytes + lane * 16;
        const uint4 first = load_shared16(unit), second = load_shared16(unit + 512);
        const std::uint32_t code_words[8] = {first.x,  first.y,  first.z,  first.w,
                                             second.x, second.y, second.z, second.w};
        const bool mine = kShared == 1 || own == s;
#pragma unroll
        for (int b = 0; b < 8; ++b) {
          const std::uint32_t w = code_words[b], right = w >> 3, left = w << 7;
          if (kShared == 1) {
            const std::uint32_t pair = scale_pair(b);
            low[b] = low_half(pair), high[b] = high_half(pair);
          }
          const std::uint32_t a0 = w & 0x8E008E00u, a1 = (w & 0x008E008Eu) << 8;
          const std::uint32_t a2 = xor_and(right, left, 0x8E008E00u);
          const std::uint32_t a3 = xor_and(right, left, 0x008E008Eu) << 8;
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            const float4 d = product(a0, a1, a2, a3, activations[q][b][tile]);
            if (kShared == 1) {
              acc[tile].x = __fmaf_rn(d.x, low[b], acc[tile].x);
              if (!kOne) acc[tile].y = __fmaf_rn(d.y, low[b], acc[tile].y);
              acc[tile].z = __fmaf_rn(d.z, high[b], acc[tile].z);
              if (!kOne) acc[tile].w = __fmaf_rn(d.w, high[b], acc[tile].w);
            } else {
              fma_if(acc[tile].x, d.x, low[b], mine);
              if (!kOne) fma_if(acc[tile].y, d.y, low[b], mine);
              fma_if(acc[tile].z, d.z, high[b], mine);
              if (!kOne) fma_if(acc[tile].w, d.w, high[b], mine);
            }
          }
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int x = 4 / kShared; x < 4; x *= 2) {  // the group's slices: lanes of other columns
        const auto add = [x](float v) { return __fadd_rn(v, __shfl_xor_sync(0xFFFFFFFFu, v, x)); };
        acc[tile].x = add(acc[tile].x);
        if (!kOne) acc[tile].y = add(acc[tile].y);
        acc[tile].z = add(acc[tile].z);
        if (!kOne) acc[tile].w = add(acc[tile].w);
      }
      sum[q][tile] = acc[tile];
    }
  }
#pragma unroll
  for (int step = 1; step < kShape.groups; step *= 2) {
#pragma unroll
    for (int q = 0; q < kShape.groups; q += 2 * step) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        sum[q][tile] = add4(sum[q][tile], sum[q + step][tile]);
    }
  }
}

// [token][row], kDecodeTokenStride apart; one token: [row].
template <DecodeShape kShape>
__device__ __forceinline__ void put_sums(const float4 (&sum)[kShape.token_tiles], int g, int t,
                                         float* to) {
  constexpr int kShared = kShape.slices_shared;
  if (kShape.one_token) {
    if (t == 0) to[g] = sum[0].x, to[g + 8] = sum[0].z;
  } else if (kShared == 1 || t < 4 / kShared) {
#pragma unroll
    for (int tile = 0; tile < kShape.token_tiles; ++tile) {
      float* v = to + (tile * 8 + 2 * t) * kDecodeTokenStride + g;
      v[0] = sum[tile].x, v[kDecodeTokenStride] = sum[tile].y;
      v[8] = sum[tile].z, v[kDecodeTokenStride + 8] = sum[tile].w;
    }
  }
}
// The warps' sums by the tree; few of them at a time.
template <int kWarps>
__device__ __forceinline__ float add_sums(const float* sums, int stride) {
  float waiting[8];
  float v = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    v = sums[w * stride];
    int level = 0;
#pragma unroll
    for (int carry = w; (carry & 1) != 0; carry >>= 1) v = __fadd_rn(waiting[level++], v);
    waiting[level] = v;
  }
  return v;
}

__device__ __forceinline__ void put_output(const DecodeArgs& args, std::int64_t at, std::int64_t n,
                                           float sum, float decode_a, float decode_b) {
  if (n >= args.n) return;
  float v = __fmul_rn(__fmul_rn(__fmul_rn(sum, 16384.0f), decode_a), decode_b);
  if (args.bias != nullptr) v = __fadd_rn(v, value_at(args.bias, args.bias_dtype, n));
  put_value(args.c, args.c_dtype, at, v);
}

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
