// Leaves: 16 elements of T as they lie in memory, in registers, with the arithmetic that is cheaper
// on packed pairs than on floats. Every address here is aligned to 16 bytes.
#pragma once

#include <cstdint>

#include "halfbyte/numerics/half_types.h"
#include "halfbyte/simt/vectors.cuh"

namespace halfbyte::simt {

inline constexpr int kLeaf = kVectorElems;

// Word i holds elements 2i (low half) and 2i + 1 of a 16-bit type, or element i of fp32.
template <class T>
struct Packed {
  static constexpr int kWords = kLeaf * static_cast<int>(sizeof(T)) / 4;
  std::uint32_t words[kWords];
};

template <class T>
__device__ __forceinline__ Packed<T> load_leaf(const T* p) {
  Packed<T> leaf;
#pragma unroll
  for (int i = 0; i < Packed<T>::kWords; i += 4) {
    const uint4 piece =
        *reinterpret_cast<const uint4*>(reinterpret_cast<const std::uint32_t*>(p) + i);
    leaf.words[i] = piece.x;
    leaf.words[i + 1] = piece.y;
    leaf.words[i + 2] = piece.z;
    leaf.words[i + 3] = piece.w;
  }
  return leaf;
}

template <class T>
__device__ __forceinline__ void store_leaf(const Packed<T>& leaf, T* p) {
#pragma unroll
  for (int i = 0; i < Packed<T>::kWords; i += 4) {
    *reinterpret_cast<uint4*>(reinterpret_cast<std::uint32_t*>(p) + i) =
        make_uint4(leaf.words[i], leaf.words[i + 1], leaf.words[i + 2], leaf.words[i + 3]);
  }
}

// The leaves of lanes 2i and 2i + 1, which are neighbours, those that there are: a warp's store
// writes whole sectors of 32 bytes. Written by halves, they cost a kernel that is bound by memory
// up to 5%. `even` is where that of lane 2i goes, `odd` whether this is the other lane.
template <class T>
__device__ __forceinline__ void store_leaf_pairs(const Packed<T>& leaf, T* even, bool odd,
                                                 bool has_even, bool has_odd) {
  static_assert(Packed<T>::kWords == 8);
  std::uint32_t first[4], second[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t given = odd ? leaf.words[i] : leaf.words[4 + i];
    const std::uint32_t taken = __shfl_xor_sync(~0u, given, 1);
    first[i] = odd ? taken : leaf.words[i];
    second[i] = odd ? leaf.words[4 + i] : taken;
  }
  uint4* const to = reinterpret_cast<uint4*>(even) + (odd ? 1 : 0);
  if (has_even) to[0] = make_uint4(first[0], first[1], first[2], first[3]);
  if (has_odd) to[2] = make_uint4(second[0], second[1], second[2], second[3]);
}
// Leaf `leaf` of a row of `leaves`, if there is one, by a whole warp: lane 2i has an even one.
template <class T>
__device__ __forceinline__ void store_leaf_of_row(const Packed<T>& values, T* row, int leaf,
                                                  int leaves) {
  if constexpr (sizeof(T) == 2) {
    const int even = leaf & ~1;
    store_leaf_pairs(values, row + even * kLeaf, leaf != even, even < leaves, even + 1 < leaves);
  } else {
    if (leaf < leaves) store_leaf(values, row + leaf * kLeaf);
  }
}

template <class T>
__device__ __forceinline__ Packed<T> zero_leaf() {
  Packed<T> leaf;
#pragma unroll
  for (int i = 0; i < Packed<T>::kWords; ++i) leaf.words[i] = 0;
  return leaf;
}

__device__ __forceinline__ void unpack(const Packed<numerics::Bf16>& leaf, float (&values)[kLeaf]) {
#pragma unroll
  for (int i = 0; i < kLeaf; i += 2) {
    values[i] = numerics::bits_float(leaf.words[i / 2] << 16);
    values[i + 1] = numerics::bits_float(leaf.words[i / 2] & 0xFFFF0000u);
  }
}
__device__ __forceinline__ void unpack(const Packed<numerics::Fp16>& leaf, float (&values)[kLeaf]) {
#pragma unroll
  for (int i = 0; i < kLeaf; i += 2) {
    asm("{\n\t.reg .f16 low, high;\n\tmov.b32 {low, high}, %2;\n\tcvt.f32.f16 %0, low;\n\t"
        "cvt.f32.f16 %1, high;\n\t}"
        : "=f"(values[i]), "=f"(values[i + 1])
        : "r"(leaf.words[i / 2]));
  }
}
__device__ __forceinline__ void unpack(const Packed<float>& leaf, float (&values)[kLeaf]) {
#pragma unroll
  for (int i = 0; i < kLeaf; ++i) values[i] = numerics::bits_float(leaf.words[i]);
}

// The same elements in the order 0 2 | 4 6 | 1 3 | 5 7, then 8 and on, which costs nothing where
// pairs are rounded and halves the work of placing their signs. fp32 keeps its order.
template <class T>
struct PairedLeaf : Packed<T> {};

// Where element i of a paired leaf lies: its word, and whether in the upper half.
HALFBYTE_HD constexpr int paired_word(int i) { return i / 8 * 4 + i % 2 * 2 + i % 8 / 4; }
HALFBYTE_HD constexpr bool paired_upper(int i) { return i % 4 / 2 == 1; }

template <class T>
__device__ __forceinline__ void unpack(const PairedLeaf<T>& leaf, float (&values)[kLeaf]) {
  float stored[kLeaf];
  unpack(static_cast<const Packed<T>&>(leaf), stored);
#pragma unroll
  for (int i = 0; i < kLeaf; ++i) {
    values[i] = sizeof(T) == 4 ? stored[i] : stored[2 * paired_word(i) + paired_upper(i)];
  }
}

// T of two values. The hardware's conversions give the bits of numerics::round_to, NaN included
// (fast_codecs_cuda_test.cu runs over all of them).
__device__ __forceinline__ std::uint32_t round_pair(numerics::Bf16, float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ std::uint32_t round_pair(numerics::Fp16, float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

template <class T>
__device__ __forceinline__ void pack(const float (&values)[kLeaf], Packed<T>& leaf) {
#pragma unroll
  for (int i = 0; i < Packed<T>::kWords; ++i) {
    if constexpr (sizeof(T) == 2) {
      leaf.words[i] = round_pair(T(), values[2 * i], values[2 * i + 1]);
    } else {
      leaf.words[i] = numerics::float_bits(values[i]);
    }
  }
}
template <class T>
__device__ __forceinline__ void pack(const float (&values)[kLeaf], PairedLeaf<T>& leaf) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < kLeaf; ++i) {
      if (!paired_upper(i)) leaf.words[paired_word(i)] = round_pair(T(), values[i], values[i + 2]);
    }
  } else {
    pack(values, static_cast<Packed<T>&>(leaf));
  }
}

template <class T>
__device__ __forceinline__ Packed<T> in_order(const Packed<T>& leaf) {
  return leaf;
}
template <class T>
__device__ __forceinline__ Packed<T> in_order(const PairedLeaf<T>& leaf) {
  Packed<T> result = leaf;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < kLeaf; i += 4) {  // elements i, i + 2 in one word, i + 1, i + 3 in another
      const std::uint32_t even = leaf.words[paired_word(i)], odd = leaf.words[paired_word(i + 1)];
      result.words[i / 2] = __byte_perm(even, odd, 0x5410);
      result.words[i / 2 + 1] = __byte_perm(even, odd, 0x7632);
    }
  }
  return result;
}

// The larger magnitudes of two pairs, NaN if either is; the signs of the result mean nothing.
__device__ __forceinline__ std::uint32_t max_magnitudes(numerics::Bf16, std::uint32_t a,
                                                        std::uint32_t b) {
  std::uint32_t most;
#if __CUDA_ARCH__ >= 860
  asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
#else
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(most) : "r"(a & 0x7FFF7FFFu), "r"(b & 0x7FFF7FFFu));
#endif
  return most;
}
__device__ __forceinline__ std::uint32_t max_magnitudes(numerics::Fp16, std::uint32_t a,
                                                        std::uint32_t b) {
  std::uint32_t most;
#if __CUDA_ARCH__ >= 860
  asm("max.NaN.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
#else
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(most) : "r"(a & 0x7FFF7FFFu), "r"(b & 0x7FFF7FFFu));
#endif
  return most;
}

// The amax of a leaf, its sign bit clear; NaN if any element is.
template <class T>
__device__ __forceinline__ float leaf_amax(const Packed<T>& leaf) {
  static_assert(sizeof(T) == 2);
  std::uint32_t most[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    most[i] = max_magnitudes(T(), leaf.words[2 * i], leaf.words[2 * i + 1]);
  most[0] = max_magnitudes(T(), max_magnitudes(T(), most[0], most[1]),
                           max_magnitudes(T(), most[2], most[3]));
  // Both halves hold the larger of them, but for their signs.
  const std::uint32_t swapped = __byte_perm(most[0], most[0], 0x1032);
  const auto both = static_cast<std::uint16_t>(max_magnitudes(T(), most[0], swapped));
  return fabsf(numerics::to_float(T{both}));
}
__device__ __forceinline__ float leaf_amax(const Packed<float>& leaf) {
  std::uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < kLeaf; ++i) most = max(most, leaf.words[i] & 0x7FFFFFFFu);
  return numerics::bits_float(most);
}

// Bytes of ones or zeros: the signs at bits 15 and 31 of two words, repeated.
__device__ __forceinline__ std::uint32_t repeated_signs(std::uint32_t a, std::uint32_t b) {
  std::uint32_t bytes;  // __byte_perm has no selector for it
  asm("prmt.b32 %0, %1, %2, 0xFDB9;" : "=r"(bytes) : "r"(a), "r"(b));
  return bytes;
}

// The signs of eight neighbours, that of element i at bit 4i + 3.
template <class T>
__device__ __forceinline__ std::uint32_t sign_nibbles(const Packed<T>& leaf, int half) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 2) {
      words[i] = leaf.words[4 * half + i];
    } else {
      words[i] =
          __byte_perm(leaf.words[8 * half + 2 * i], leaf.words[8 * half + 2 * i + 1], 0x7632);
    }
  }
  const std::uint32_t low = repeated_signs(words[0], words[1]);
  const std::uint32_t high = repeated_signs(words[2], words[3]);
  const std::uint32_t even = __byte_perm(low, high, 0x6420), odd = __byte_perm(low, high, 0x7531);
  return ((even & 0x0F0F0F0Fu) | (odd & 0xF0F0F0F0u)) & 0x88888888u;
}
template <class T>
__device__ __forceinline__ std::uint32_t sign_nibbles(const PairedLeaf<T>& leaf, int half) {
  if constexpr (sizeof(T) == 4) {
    return sign_nibbles(static_cast<const Packed<T>&>(leaf), half);
  } else {
    const std::uint32_t even = repeated_signs(leaf.words[4 * half], leaf.words[4 * half + 1]);
    const std::uint32_t odd = repeated_signs(leaf.words[4 * half + 2], leaf.words[4 * half + 3]);
    return ((even & 0x0F0F0F0Fu) | (odd & 0xF0F0F0F0u)) & 0x88888888u;
  }
}

}  // namespace halfbyte::simt
