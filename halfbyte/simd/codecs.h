// The encoders and decoders of formats/ over lanes.
#pragma once

#include "halfbyte/simd/vectors.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

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

// The values of E4M3 codes (0..0xFF), one a lane (formats::e4m3_to_float).
HWY_INLINE Vf e4m3_values(Vi code) {
  const Di di;
  const Vi magnitude = hn::And(code, hn::Set(di, 0x7F));
  const Vi normal = hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(di, 120 << 23));
  const Vf subnormal = hn::Mul(hn::ConvertTo(Df(), magnitude), hn::Set(Df(), 0x1p-9f));
  const auto is_small = hn::RebindMask(Df(), hn::Lt(magnitude, hn::Set(di, 8)));
  const auto is_nan = hn::RebindMask(Df(), hn::Eq(magnitude, hn::Set(di, 0x7F)));
  const Vf value = hn::IfThenElse(is_small, subnormal, hn::BitCast(Df(), normal));
  const Vf nan = hn::BitCast(Df(), hn::Set(di, 0x7FC00000));
  const Vi sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(di, 0x80)));
  return hn::Or(hn::IfThenElse(is_nan, nan, value), hn::BitCast(Df(), sign));
}

// The values of UE8M0 codes (0..0xFF), one a lane (formats::e8m0_to_float).
HWY_INLINE Vf e8m0_values(Vi code) {
  const Di di;
  const Vi normal = hn::ShiftLeft<23>(code);  // 0xFF gives Inf
  const Vi smallest = hn::Set(di, 0x00400000);
  const Vi nan = hn::Set(di, 0x7FC00000);
  const Vi value = hn::IfThenElse(hn::Eq(code, hn::Zero(di)), smallest, normal);
  return hn::BitCast(Df(), hn::IfThenElse(hn::Eq(code, hn::Set(di, 0xFF)), nan, value));
}

// The values of E2M1 codes in the low four bits of each lane (formats::e2m1_to_float); what lies
// above them must be zero.
HWY_INLINE Vf e2m1_values(Vi code) {
#if HWY_TARGET == HWY_AVX3
  alignas(64) constexpr float kValues[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                             -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  return hn::TableLookupLanes(hn::Load(Df(), kValues), hn::IndicesFromVec(Df(), code));
#else
  const Vi sign = hn::ShiftLeft<31>(hn::ShiftRight<3>(code));
#if HWY_TARGET == HWY_AVX2
  // The lookup reads three bits of the index.
  alignas(32) constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const Vf value{_mm256_permutevar8x32_ps(hn::Load(Df(), kValues).raw, code.raw)};
#else
  // Three bits where a float has its last two bits of exponent and first of significand are the
  // value, 2^126 times too small.
  const Vi bits = hn::ShiftLeft<22>(hn::And(code, hn::Set(Di(), 7)));
  const Vf value = hn::Mul(hn::BitCast(Df(), bits), hn::Set(Df(), 0x1p126f));
#endif
  return hn::Or(value, hn::BitCast(Df(), sign));
#endif
}

// kLanes bytes, one a lane.
HWY_INLINE Vi load_bytes(const std::uint8_t* p) {
  const hn::Rebind<std::uint8_t, Di> d8;
  return hn::PromoteTo(Di(), hn::LoadU(d8, p));
}

// Bits whose low three are e2m1_from_float(|v|) ^ 4, for a v >= 0: what e2m1_codes does without its
// last steps. The bits of 2^23 - 2 end in 100, and no sum carries out of the low three.
HWY_INLINE Vi e2m1_steps(Vf v) {
  const Di di;
  const Vf sum = hn::Add(hn::Min(v, hn::Set(Df(), 4.0f)), hn::Set(Df(), 0x1p23f - 2.0f));
  const auto beyond = hn::Gt(v, hn::Set(Df(), 5.0f));
#if HWY_TARGET <= HWY_AVX3
  // A masked addition.
  const Vi bits = hn::BitCast(di, sum);
  return hn::IfThenElse(hn::RebindMask(di, beyond), hn::Add(bits, hn::Set(di, 1)), bits);
#else
  return hn::Sub(hn::BitCast(di, sum), hn::BitCast(di, hn::VecFromMask(Df(), beyond)));
#endif
}

// 16-bit lanes, as many as a pair has elements.
using Dw = hn::Repartition<std::uint16_t, Du>;
using Vw = hn::Vec<Dw>;

// kPairElems values as magnitudes and 16-bit lanes with their signs in bit 15.
struct SignedPair {
  Pair magnitude;
  Vw signs;
};
template <class T>
HWY_INLINE SignedPair load_signed_pair(const T* p) {
  if constexpr (sizeof(T) == 2) {
    const Vw words = hn::LoadU(Dw(), reinterpret_cast<const std::uint16_t*>(p));
    const auto magnitudes = hn::BitCast(Du(), hn::And(words, hn::Set(Dw(), 0x7FFF)));
    return {Element<T>::split(magnitudes), words};
  } else {
    const Pair pair = load_pair(p);
    const auto even = hn::ShiftRight<16>(hn::BitCast(Du(), pair.even));
    return {{hn::Abs(pair.even), hn::Abs(pair.odd)},
            hn::OddEven(hn::BitCast(Dw(), pair.odd), hn::BitCast(Dw(), even))};
  }
}

// The FP4 codes of kPairElems values that are not NaN, each with its bit 2 inverted, one a 16-bit
// lane, in order.
HWY_INLINE Vw e2m1_nibbles(SignedPair v) {
  const Vi odd_steps = hn::ShiftLeft<16>(e2m1_steps(v.magnitude.odd));
  const Vw steps =
      hn::OddEven(hn::BitCast(Dw(), odd_steps), hn::BitCast(Dw(), e2m1_steps(v.magnitude.even)));
  // Bits 0 to 2 of each lane from the steps, bit 3 the sign.
  const Vw sign = hn::ShiftRight<12>(v.signs);
  const Vw low = hn::Set(Dw(), 7);
  return hn::Or(hn::And(low, steps), hn::AndNot(low, sign));
}

// Stores four vectors of e2m1_nibbles: 4 * kLanes bytes.
HWY_INLINE void store_nibbles(const Vw* nibbles, std::uint8_t* out) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  const hn::Repartition<std::int16_t, Di> di16;
  const hn::Repartition<std::uint8_t, Di> d8;
  Vi bytes[4];
  for (int i = 0; i < 4; ++i) {
    // The low nibble and 16 times the high one.
    Vi unused = hn::Zero(Di());
    const auto weights = hn::BitCast(di16, hn::Set(Di(), 0x00100001));
    bytes[i] = hn::ReorderWidenMulAccumulate(Di(), hn::BitCast(di16, nibbles[i]), weights,
                                             hn::Zero(Di()), unused);
  }
  // Packing keeps to 128-bit blocks: byte group g of the result is group g / 4 of vector g % 4.
  const auto words01 = hn::ReorderDemote2To(di16, bytes[0], bytes[1]);
  const auto words23 = hn::ReorderDemote2To(di16, bytes[2], bytes[3]);
#if HWY_TARGET == HWY_AVX3
  alignas(64) constexpr std::int32_t kOrder[16] = {0, 4, 8,  12, 1, 5, 9,  13,
                                                   2, 6, 10, 14, 3, 7, 11, 15};
  const Vi packed{_mm512_packus_epi16(words01.raw, words23.raw)};
#else
  alignas(32) constexpr std::int32_t kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  const Vi packed{_mm256_packus_epi16(words01.raw, words23.raw)};
#endif
  const Vi ordered = hn::TableLookupLanes(packed, hn::SetTableIndices(Di(), kOrder));
  hn::StoreU(hn::Xor(hn::BitCast(d8, ordered), hn::Set(d8, 0x44)), d8, out);
#else
  const hn::Rebind<std::uint8_t, Du> d8;
  for (int i = 0; i < 4; ++i) {
    const auto pairs = hn::BitCast(Du(), nibbles[i]);
    const auto bytes = hn::Or(pairs, hn::ShiftRight<12>(pairs));
    hn::StoreU(hn::Xor(hn::TruncateTo(d8, bytes), hn::Set(d8, 0x44)), d8, out + i * kLanes);
  }
#endif
}

// The FP4 byte of each pair of lanes, for any values.
HWY_INLINE Vi e2m1_bytes_or_nan(Vf even, Vf odd) {
  return hn::Or(e2m1_codes(even), hn::ShiftLeft<4>(e2m1_codes(odd)));
}

// formats::e4m3_from_float of finite values >= 0, and what the codes stand for.
struct BlockScales {
  Vi code;
  Vf value;
};
HWY_INLINE BlockScales e4m3_scales(Vf v) {
  const Di di;
  const Vf most = hn::Min(v, hn::Set(Df(), 448.0f));
  const Vi bits = hn::BitCast(di, most);
  const Vi odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(di, 1));
  const Vi rounded = hn::Add(hn::Add(bits, hn::Set(di, 0x7FFFF)), odd);
  const Vi normal = hn::Sub(hn::ShiftRight<20>(rounded), hn::Set(di, 120 << 3));
  const Vf normal_value = hn::BitCast(Df(), hn::And(rounded, hn::Set(di, ~0xFFFFF)));
  // Below 2^-6 in steps of 2^-9, the step of fp32 at 2^14.
  const Vf shift = hn::Set(Df(), 0x1p14f);
  const Vf stepped = hn::Add(most, shift);
  const Vi subnormal = hn::Sub(hn::BitCast(di, stepped), hn::BitCast(di, shift));
  const auto small = hn::Lt(most, hn::Set(Df(), 0x1p-6f));
  return {hn::IfThenElse(hn::RebindMask(di, small), subnormal, normal),
          hn::IfThenElse(small, hn::Sub(stepped, shift), normal_value)};
}

// The low byte of each lane: kLanes bytes.
HWY_INLINE void store_bytes(Vi lanes, std::uint8_t* out) {
  const hn::Rebind<std::uint8_t, Du> d8;
  hn::StoreU(hn::TruncateTo(d8, hn::BitCast(Du(), lanes)), d8, out);
}

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
