// Vectors of one CPU level: loads and stores that convert, one vector or a pair at a time.
//
// Included by *_cpu.cpp files only, each of which is compiled once a level with HALFBYTE_LEVEL set
// to the level's name; everything here lies in a namespace of that name, so that no function of a
// higher level can be linked into a lower one.
#pragma once

#ifndef HALFBYTE_LEVEL
#error "simd/ headers are for *_cpu.cpp files, which CMake compiles once a CPU level"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "halfbyte/numerics/half_types.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

// After the parameters of a lambda that must not become a call: vectors would go through memory.
#define HALFBYTE_INLINE_LAMBDA HWY_ATTR __attribute__((always_inline))

namespace halfbyte::simd::HALFBYTE_LEVEL {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: one NVFP4 block of fp32.
using Df = hn::CappedTag<float, 16>;
using Di = hn::RebindToSigned<Df>;
using Du = hn::RebindToUnsigned<Df>;
using Vf = hn::Vec<Df>;
using Vi = hn::Vec<Di>;
inline constexpr std::int64_t kLanes = HWY_LANES(float) < 16 ? HWY_LANES(float) : 16;

// 2 * kLanes neighbours, the even elements apart from the odd ones: two FP4 codes make a byte and
// two chains a leaf of the row sum, and for bf16 the split is a shift and a mask.
struct Pair {
  Vf even, odd;
};
inline constexpr std::int64_t kPairElems = 2 * kLanes;

// Element types in memory. load and store convert exactly as numerics/half_types.h, round gives the
// fp32 value of T(v). round_clean is round for a `v` that is no NaN with anything in the low 16
// bits: whatever is computed from T values, constants and quiet default NaNs. split gives the pair
// that a vector of 32-bit words holds, two 16-bit elements each.
template <class T>
struct Element;

template <>
struct Element<float> {
  using Raw = float;
  static HWY_INLINE Vf load(const Raw* p) { return hn::LoadU(Df(), p); }
  static HWY_INLINE void store(Vf v, Raw* p) { hn::StoreU(v, Df(), p); }
  static HWY_INLINE Vf round(Vf v) { return v; }
  static HWY_INLINE Vf round_clean(Vf v) { return v; }
  static HWY_INLINE Pair load_pair(const Raw* p) {
    Pair pair;
    hn::LoadInterleaved2(Df(), p, pair.even, pair.odd);
    return pair;
  }
  static HWY_INLINE void store_pair(Pair pair, Raw* p) {
    hn::StoreInterleaved2(pair.even, pair.odd, Df(), p);
  }
  static HWY_INLINE void round_store_pair(Pair pair, Raw* p) { store_pair(pair, p); }
};

template <>
struct Element<numerics::Bf16> {
  using Raw = std::uint16_t;
  using Dh = hn::Rebind<std::uint16_t, Df>;
  static HWY_INLINE Vf load(const Raw* p) {
    return hn::BitCast(Df(), hn::ShiftLeft<16>(hn::PromoteTo(Du(), hn::LoadU(Dh(), p))));
  }
  // `v` holds a bf16 value already.
  static HWY_INLINE void store(Vf v, Raw* p) {
    const Vi high = hn::BitCast(Di(), hn::ShiftRight<16>(hn::BitCast(Du(), v)));
    hn::StoreU(hn::DemoteTo(Dh(), high), Dh(), p);
  }
  static HWY_INLINE Vf round(Vf v) {
    // A NaN's payload could carry into infinity: keep NaN, quietly.
    const auto quiet_nan = hn::BitCast(Df(), hn::Set(Du(), 0x7FFF0000u));
    return hn::IfThenElse(hn::Eq(v, v), round_clean(v), quiet_nan);
  }
  static HWY_INLINE Vf round_clean(Vf v) {
    return hn::BitCast(Df(), hn::And(rounding_sum(v), hn::Set(Du(), 0xFFFF0000u)));
  }
  static HWY_INLINE Pair split(hn::Vec<Du> words) {
    return {hn::BitCast(Df(), hn::ShiftLeft<16>(words)),
            hn::BitCast(Df(), hn::And(words, hn::Set(Du(), 0xFFFF0000u)))};
  }
  static HWY_INLINE Pair load_pair(const Raw* p) {
    return split(hn::LoadU(Du(), reinterpret_cast<const std::uint32_t*>(p)));
  }
  static HWY_INLINE void store_pair(Pair pair, Raw* p) {
    store_words(hn::BitCast(Du(), pair.even), hn::BitCast(Du(), pair.odd), p);
  }
  static HWY_INLINE void round_store_pair(Pair pair, Raw* p) {
    store_words(rounding_sum(pair.even), rounding_sum(pair.odd), p);
  }

 private:
  // Its high half is bf16(v).
  static HWY_INLINE hn::Vec<Du> rounding_sum(Vf v) {
    const auto bits = hn::BitCast(Du(), v);
    const auto down = hn::Add(bits, hn::Set(Du(), 0x7FFF));
#if HWY_TARGET <= HWY_AVX3
    // A masked addition.
    return hn::IfThenElse(hn::TestBit(bits, hn::Set(Du(), 0x10000)),
                          hn::Add(bits, hn::Set(Du(), 0x8000)), down);
#else
    return hn::Add(down, hn::And(hn::ShiftRight<16>(bits), hn::Set(Du(), 1)));
#endif
  }
  static HWY_INLINE void store_words(hn::Vec<Du> even, hn::Vec<Du> odd, Raw* p) {
    const auto words = hn::Or(hn::ShiftRight<16>(even), hn::And(odd, hn::Set(Du(), 0xFFFF0000u)));
    hn::StoreU(words, Du(), reinterpret_cast<std::uint32_t*>(p));
  }
};

template <>
struct Element<numerics::Fp16> {
  using Raw = hwy::float16_t;
  using Dh = hn::Rebind<hwy::float16_t, Df>;
  static HWY_INLINE Vf load(const Raw* p) { return hn::PromoteTo(Df(), hn::LoadU(Dh(), p)); }
  static HWY_INLINE void store(Vf v, Raw* p) { hn::StoreU(hn::DemoteTo(Dh(), v), Dh(), p); }
  static HWY_INLINE Vf round(Vf v) { return hn::PromoteTo(Df(), hn::DemoteTo(Dh(), v)); }
  static HWY_INLINE Vf round_clean(Vf v) { return round(v); }
  static HWY_INLINE Pair split(hn::Vec<Du> words) {
    return {half_of(words), half_of(hn::ShiftRight<16>(words))};
  }
  static HWY_INLINE Pair load_pair(const Raw* p) {
    return split(hn::LoadU(Du(), reinterpret_cast<const std::uint32_t*>(p)));
  }
  static HWY_INLINE void store_pair(Pair pair, Raw* p) {
    const auto words = hn::Or(bits_of(pair.even), hn::ShiftLeft<16>(bits_of(pair.odd)));
    hn::StoreU(words, Du(), reinterpret_cast<std::uint32_t*>(p));
  }
  static HWY_INLINE void round_store_pair(Pair pair, Raw* p) { store_pair(pair, p); }

 private:
  using Dw = hn::Rebind<std::uint16_t, Df>;
  // The low halves of the lanes, and back.
  static HWY_INLINE Vf half_of(hn::Vec<Du> words) {
    return hn::PromoteTo(Df(), hn::BitCast(Dh(), hn::TruncateTo(Dw(), words)));
  }
  static HWY_INLINE hn::Vec<Du> bits_of(Vf v) {
    return hn::PromoteTo(Du(), hn::BitCast(Dw(), hn::DemoteTo(Dh(), v)));
  }
};

// Loads `count` <= kLanes elements; the lanes past them are +0.
template <class T>
HWY_INLINE Vf load_elements(const T* p, std::int64_t count) {
  using Raw = typename Element<T>::Raw;
  if (HWY_LIKELY(count >= kLanes)) return Element<T>::load(reinterpret_cast<const Raw*>(p));
  Raw buffer[kLanes] = {};
  std::memcpy(static_cast<void*>(buffer), p, static_cast<std::size_t>(count) * sizeof(T));
  return Element<T>::load(buffer);
}

// Stores the first `count` <= kLanes lanes of `v`, whose lanes are T values.
template <class T>
HWY_INLINE void store_elements(Vf v, T* p, std::int64_t count) {
  using Raw = typename Element<T>::Raw;
  if (HWY_LIKELY(count >= kLanes)) {
    Element<T>::store(v, reinterpret_cast<Raw*>(p));
    return;
  }
  Raw buffer[kLanes];
  Element<T>::store(v, buffer);
  std::memcpy(static_cast<void*>(p), buffer, static_cast<std::size_t>(count) * sizeof(T));
}

template <class T>
HWY_INLINE Pair load_pair(const T* p) {
  return Element<T>::load_pair(reinterpret_cast<const typename Element<T>::Raw*>(p));
}
template <class T>
HWY_INLINE void store_pair(Pair pair, T* p) {
  Element<T>::store_pair(pair, reinterpret_cast<typename Element<T>::Raw*>(p));
}

// The first `count` <= kPairElems elements; the others are +0, or are not stored.
template <class T>
HWY_INLINE Pair load_pair(const T* p, std::int64_t count) {
  if (HWY_LIKELY(count >= kPairElems)) return load_pair(p);
  T buffer[kPairElems] = {};
  std::memcpy(static_cast<void*>(buffer), p, static_cast<std::size_t>(count) * sizeof(T));
  return load_pair(buffer);
}
template <class T>
HWY_INLINE void round_store_pair(Pair pair, T* p, std::int64_t count) {
  using Raw = typename Element<T>::Raw;
  if (HWY_LIKELY(count >= kPairElems)) {
    Element<T>::round_store_pair(pair, reinterpret_cast<Raw*>(p));
    return;
  }
  Raw buffer[kPairElems];
  Element<T>::round_store_pair(pair, buffer);
  std::memcpy(static_cast<void*>(p), buffer, static_cast<std::size_t>(count) * sizeof(T));
}

// round_store_pair past the caches; p is aligned to kPairElems elements. hwy::FlushStream() before
// another thread may read it.
template <class T>
HWY_INLINE void round_stream_pair(Pair pair, T* p) {
  const hn::Repartition<std::uint8_t, Df> d8;
  constexpr std::size_t kVectors = kPairElems * sizeof(T) / sizeof(Vf);
  alignas(64) T buffer[kPairElems];
  round_store_pair(pair, buffer, kPairElems);
  for (std::size_t i = 0; i < kVectors; ++i) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(buffer) + i * sizeof(Vf);
    hn::Stream(hn::Load(d8, from), d8, reinterpret_cast<std::uint8_t*>(p) + i * sizeof(Vf));
  }
}

HWY_INLINE Vi magnitude_bits(Vf v) {
  return hn::And(hn::BitCast(Di(), v), hn::Set(Di(), 0x7FFFFFFF));
}

// min(v, FLT_MAX), NaN propagates (numerics::clamp_to_max).
HWY_INLINE Vf clamp_to_max(Vf v) {
  const Vf most = hn::Set(Df(), numerics::kFloatMax);
  return hn::IfThenElse(hn::Gt(v, most), most, v);
}

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
