// Sixteen elements at a time between memory and registers: 16-byte accesses where the address
// allows, single elements elsewhere (any element-aligned address, and a row's ragged end).
#pragma once

#include <cstdint>

#include "halfbyte/numerics/half_types.h"

namespace halfbyte::simt {

inline constexpr int kVectorElems = 16;

__device__ inline bool is_aligned(const void* pointer, unsigned bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

// values[i] = p[i] for i < count, +0 past it.
template <class T>
__device__ void load_elements(const T* p, std::int64_t count, float (&values)[kVectorElems]) {
  constexpr int kPieces = kVectorElems * static_cast<int>(sizeof(T)) / 16;
  constexpr int kPerPiece = kVectorElems / kPieces;
  if (count >= kVectorElems && is_aligned(p, 16)) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const uint4 raw = reinterpret_cast<const uint4*>(p)[piece];
      const T* elements = reinterpret_cast<const T*>(&raw);
#pragma unroll
      for (int i = 0; i < kPerPiece; ++i) {
        values[piece * kPerPiece + i] = numerics::to_float(elements[i]);
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kVectorElems; ++i) {
    values[i] = i < count ? numerics::to_float(p[i]) : 0.0f;
  }
}

// p[i] = T(values[i]) for i < count; exact where the values are T values already.
template <class T>
__device__ void store_elements(const float (&values)[kVectorElems], T* p, std::int64_t count) {
  constexpr int kPieces = kVectorElems * static_cast<int>(sizeof(T)) / 16;
  constexpr int kPerPiece = kVectorElems / kPieces;
  if (count >= kVectorElems && is_aligned(p, 16)) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      uint4 raw;
      T* elements = reinterpret_cast<T*>(&raw);
#pragma unroll
      for (int i = 0; i < kPerPiece; ++i) {
        elements[i] = numerics::round_to<T>(values[piece * kPerPiece + i]);
      }
      reinterpret_cast<uint4*>(p)[piece] = raw;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kVectorElems; ++i) {
    if (i < count) p[i] = numerics::round_to<T>(values[i]);
  }
}

// Stores kBytes bytes held in 32-bit words, of which the first `count` are wanted.
template <int kBytes>
__device__ void store_bytes(const std::uint32_t (&words)[kBytes / 4], std::uint8_t* p,
                            std::int64_t count) {
  if (count >= kBytes && is_aligned(p, 4)) {
#pragma unroll
    for (int i = 0; i < kBytes / 4; ++i) reinterpret_cast<std::uint32_t*>(p)[i] = words[i];
    return;
  }
#pragma unroll
  for (int i = 0; i < kBytes; ++i) {
    if (i < count) p[i] = static_cast<std::uint8_t>(words[i / 4] >> (8 * (i % 4)));
  }
}

}  // namespace halfbyte::simt
