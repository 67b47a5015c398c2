// Vectors of one CPU level: loads and stores that convert, and the encoders of formats/ over lanes.
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
#include "hwy/highway.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: one NVFP4 block of fp32.
using Df = hn::CappedTag<float, 16>;
using Di = hn::RebindToSigned<Df>;
using Du = hn::RebindToUnsigned<Df>;
using Vf = hn::Vec<Df>;
using Vi = hn::Vec<Di>;
inline constexpr std::int64_t kLanes = HWY_LANES(float) < 16 ? HWY_LANES(float) : 16;

// Element types in memory. load and store convert exactly as numerics/half_types.h, round gives the
// fp32 value of T(v).
template <class T>
struct Element;

template <>
struct Element<float> {
  using Raw = float;
  static HWY_INLINE Vf load(const Raw* p) { return hn::LoadU(Df(), p); }
  static HWY_INLINE void store(Vf v, Raw* p) { hn::StoreU(v, Df(), p); }
  static HWY_INLINE Vf round(Vf v) { return v; }
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
    const auto bits = hn::BitCast(Du(), v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(Du(), 1));
    const auto sum = hn::Add(hn::Add(bits, hn::Set(Du(), 0x7FFF)), odd);
    const auto rounded = hn::And(sum, hn::Set(Du(), 0xFFFF0000u));
    // A NaN's payload could carry into infinity: keep NaN, quietly.
    const auto quiet_nan = hn::BitCast(Df(), hn::Set(Du(), 0x7FFF0000u));
    return hn::IfThenElse(hn::Eq(v, v), hn::BitCast(Df(), rounded), quiet_nan);
  }
};

template <>
struct Element<numerics::Fp16> {
  using Raw = hwy::float16_t;
  using Dh = hn::Rebind<hwy::float16_t, Df>;
  static HWY_INLINE Vf load(const Raw* p) { return hn::PromoteTo(Df(), hn::LoadU(Dh(), p)); }
  static HWY_INLINE void store(Vf v, Raw* p) { hn::StoreU(hn::DemoteTo(Dh(), v), Dh(), p); }
  static HWY_INLINE Vf round(Vf v) { return hn::PromoteTo(Df(), hn::DemoteTo(Dh(), v)); }
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

HWY_INLINE Vi magnitude_bits(Vf v) {
  return hn::And(hn::BitCast(Di(), v), hn::Set(Di(), 0x7FFFFFFF));
}

// min(v, FLT_MAX), NaN propagates (numerics::clamp_to_max).
HWY_INLINE Vf clamp_to_max(Vf v) {
  const Vf most = hn::Set(Df(), numerics::kFloatMax);
  return hn::IfThenElse(hn::Gt(v, most), most, v);
}

// E2M1 codes, sign included, one a 32-bit lane (formats::e2m1_from_float).
//
// Adding min(|v|, 4) to 2^23 - 2 rounds to steps of 1/2 below 2 and of 1 above it, ties to even,
// and its bits then count the codes 0..6; the last step, 4 to 6, is a comparison with its midpoint
// 5. Integer comparisons of the bits take a NaN as larger than anything: code 7.
HWY_INLINE Vi e2m1_codes(Vf v) {
  const Di di;
  const Vi bits = magnitude_bits(v);
  const Vi four = hn::BitCast(di, hn::Set(Df(), 4.0f));
  const Vi five = hn::BitCast(di, hn::Set(Df(), 5.0f));
  const Vf base = hn::Set(Df(), 0x1p23f - 2.0f);
  const Vf sum = hn::Add(hn::BitCast(Df(), hn::Min(bits, four)), base);
  const Vi low = hn::Sub(hn::BitCast(di, sum), hn::BitCast(di, base));
  const Vi code = hn::Sub(low, hn::VecFromMask(di, hn::Gt(bits, five)));
  const Vi sign =
      hn::And(hn::BitCast(di, hn::ShiftRight<28>(hn::BitCast(Du(), v))), hn::Set(di, 8));
  // A NaN has code 7 without sign.
  const Vi infinity = hn::Set(di, static_cast<std::int32_t>(numerics::kInfBits));
  return hn::Or(code, hn::IfThenZeroElse(hn::Gt(bits, infinity), sign));
}

// E4M3 codes, sign included, one a 32-bit lane (formats::e4m3_from_float).
HWY_INLINE Vi e4m3_codes(Vf v) {
  const Di di;
  const Vi bits = magnitude_bits(v);
  const Vi odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(di, 1));
  // Saturated first, so that the rounding of Inf and NaN cannot overflow.
  const Vi most = hn::BitCast(di, hn::Set(Df(), 448.0f));
  const Vi rounded =
      hn::ShiftRight<20>(hn::Add(hn::Add(hn::Min(bits, most), hn::Set(di, 0x7FFFF)), odd));
  const Vi normal = hn::Min(hn::Sub(rounded, hn::Set(di, 120 << 3)), hn::Set(di, 0x7E));
  // Below 2^-6 the codes count in steps of 2^-9, the step of fp32 at 2^14.
  const Vf shift = hn::Set(Df(), 0x1p14f);
  const Vi subnormal =
      hn::Sub(hn::BitCast(di, hn::Add(hn::BitCast(Df(), bits), shift)), hn::BitCast(di, shift));
  const Vi smallest_normal = hn::BitCast(di, hn::Set(Df(), 0x1p-6f));
  const Vi code = hn::IfThenElse(hn::Lt(bits, smallest_normal), subnormal, normal);
  const Vi sign =
      hn::And(hn::BitCast(di, hn::ShiftRight<24>(hn::BitCast(Du(), v))), hn::Set(di, 0x80));
  const Vi infinity = hn::Set(di, static_cast<std::int32_t>(numerics::kInfBits));
  return hn::IfThenElse(hn::Gt(bits, infinity), hn::Set(di, 0x7F), hn::Or(code, sign));
}

// The values of non-negative E4M3 codes (0..0x7F), one a lane (formats::e4m3_to_float).
HWY_INLINE Vf e4m3_values(Vi code) {
  const Di di;
  const Vi normal = hn::Add(hn::ShiftLeft<20>(code), hn::Set(di, 120 << 23));
  const Vf subnormal = hn::Mul(hn::ConvertTo(Df(), code), hn::Set(Df(), 0x1p-9f));
  const Vf value = hn::IfThenElse(
      hn::MaskFromVec(hn::BitCast(Df(), hn::VecFromMask(di, hn::Lt(code, hn::Set(di, 8))))),
      subnormal, hn::BitCast(Df(), normal));
  const auto nan = hn::BitCast(Df(), hn::Set(di, 0x7FC00000));
  return hn::IfThenElse(
      hn::MaskFromVec(hn::BitCast(Df(), hn::VecFromMask(di, hn::Eq(code, hn::Set(di, 0x7F))))), nan,
      value);
}

// Two codes a byte, the even lane in the low nibble: kLanes / 2 bytes.
HWY_INLINE void store_nibbles(Vi codes, std::uint8_t* out) {
  using D64 = hn::Repartition<std::uint64_t, Du>;
  const auto pairs = hn::BitCast(D64(), codes);
  const auto bytes = hn::Or(pairs, hn::ShiftRight<28>(pairs));
  const hn::Rebind<std::uint8_t, D64> d8;
  hn::StoreU(hn::TruncateTo(d8, bytes), d8, out);
}

// One code a byte: kLanes bytes.
HWY_INLINE void store_bytes(Vi codes, std::uint8_t* out) {
  const hn::Rebind<std::uint8_t, Di> d8;
  hn::StoreU(hn::DemoteTo(d8, codes), d8, out);
}

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
