// The warpgroup product m64nNk16 of sm_90a with its 64 rows in registers: D[64, N] += A[64, 16] *
// B[N, 16]^T, fp32 sums; B in shared memory, K-major, 128-byte swizzle.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace halfbyte::ops::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Of a tile whose rows have 128 bytes and whose groups of eight rows follow one another: its low
// word, to which 1 / 16 of an offset may be added, and the whole.
__device__ __forceinline__ std::uint32_t tile_descriptor_low(std::uint32_t at) {
  return 1u << 16 | at >> 4;
}
__device__ __forceinline__ std::uint64_t tile_descriptor(std::uint32_t low) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kEightRows = 1024 >> 4;
  return kSwizzle128 | kEightRows << 32 | low;
}
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// All groups but the last kGroups are done.
template <int kGroups>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

// Registers i to i + 7 of the sums, as operands and in the text.
#define HALFBYTE_D8(i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define HALFBYTE_D16(i) HALFBYTE_D8(i), HALFBYTE_D8(i + 8)
#define HALFBYTE_D32(i) HALFBYTE_D16(i), HALFBYTE_D16(i + 16)

#define HALFBYTE_T8 "%0,%1,%2,%3,%4,%5,%6,%7"

#define HALFBYTE_T16 \
  HALFBYTE_T8        \
  ","                \
  "%8,%9,%10,%11,%12,%13,%14,%15"

#define HALFBYTE_T32 \
  HALFBYTE_T16       \
  ","                \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"

#define HALFBYTE_T48 \
  HALFBYTE_T32       \
  ","                \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"

#define HALFBYTE_T64 \
  HALFBYTE_T48       \
  ","                \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

#define HALFBYTE_WGMMA(type, n, text, a0, a1, a2, a3, b, p, ...)                               \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p                                         \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" text \
               "}, {%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #b ", p, 1, 1, 0;\n}"             \
               : __VA_ARGS__                                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile),                        \
                 "r"(static_cast<int>(add)))

// kTokens rows of B; kBf16: both operands are bf16, else fp16; !add: from zero.
template <int kTokens, bool kBf16>
__device__ __forceinline__ void wgmma(float (&d)[kTokens / 2], const std::uint32_t (&a)[4],
                                      std::uint64_t tile, bool add) {
  static_assert(kTokens == 16 || kTokens == 32 || kTokens == 64 || kTokens == 96 || kTokens == 128);
  if constexpr (kTokens == 16 && kBf16) {
    HALFBYTE_WGMMA("bf16", 16, HALFBYTE_T8, 8, 9, 10, 11, 12, 13, HALFBYTE_D8(0));
  } else if constexpr (kTokens == 16) {
    HALFBYTE_WGMMA("f16", 16, HALFBYTE_T8, 8, 9, 10, 11, 12, 13, HALFBYTE_D8(0));
  } else if constexpr (kTokens == 32 && kBf16) {
    HALFBYTE_WGMMA("bf16", 32, HALFBYTE_T16, 16, 17, 18, 19, 20, 21, HALFBYTE_D16(0));
  } else if constexpr (kTokens == 32) {
    HALFBYTE_WGMMA("f16", 32, HALFBYTE_T16, 16, 17, 18, 19, 20, 21, HALFBYTE_D16(0));
  } else if constexpr (kTokens == 64 && kBf16) {
    HALFBYTE_WGMMA("bf16", 64, HALFBYTE_T32, 32, 33, 34, 35, 36, 37, HALFBYTE_D32(0));
  } else if constexpr (kTokens == 64) {
    HALFBYTE_WGMMA("f16", 64, HALFBYTE_T32, 32, 33, 34, 35, 36, 37, HALFBYTE_D32(0));
  } else if constexpr (kTokens == 96 && kBf16) {
    HALFBYTE_WGMMA("bf16", 96, HALFBYTE_T48, 48, 49, 50, 51, 52, 53, HALFBYTE_D32(0),
                   HALFBYTE_D16(32));
  } else if constexpr (kTokens == 96) {
    HALFBYTE_WGMMA("f16", 96, HALFBYTE_T48, 48, 49, 50, 51, 52, 53, HALFBYTE_D32(0),
                   HALFBYTE_D16(32));
  } else if constexpr (kTokens == 128 && kBf16) {
    HALFBYTE_WGMMA("bf16", 128, HALFBYTE_T64, 64, 65, 66, 67, 68, 69, HALFBYTE_D32(0),
                   HALFBYTE_D32(32));
  } else if constexpr (kTokens == 128) {
    HALFBYTE_WGMMA("f16", 128, HALFBYTE_T64, 64, 65, 66, 67, 68, 69, HALFBYTE_D32(0),
                   HALFBYTE_D32(32));
  }
}

#undef HALFBYTE_WGMMA
#undef HALFBYTE_T8
#undef HALFBYTE_T16
#undef HALFBYTE_T32
#undef HALFBYTE_T48
#undef HALFBYTE_T64
#undef HALFBYTE_D8
#undef HALFBYTE_D16
#undef HALFBYTE_D32

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace halfbyte::ops::cuda
