// Exact dot products of bytes, kLanes rows at a time: a lane has four codes of a row, and meets
// four values of A. Included by gemm_cpu.cpp alone, once a CPU level.
#pragma once

#include "halfbyte/ops/gemm/gemm_cpu_scales.h"
#include "halfbyte/ops/gemm/gemm_input.h"

#if HWY_TARGET == HWY_NEON
#include <arm_neon.h>
#endif

namespace halfbyte::ops::HALFBYTE_LEVEL {

// 2 * e2m1 of the nibbles of a form, plus `offset`, as bytes of a 16-byte table.
template <WeightForm kForm>
struct ByteTable {
  std::int8_t values[16];
  constexpr explicit ByteTable(int offset) : values() {
    for (int nibble = 0; nibble < 16; ++nibble) {
      const int code = code_of_nibble<kForm>(nibble);
      values[nibble] =
          static_cast<std::int8_t>(e2m1_doubled(static_cast<std::uint8_t>(code)) + offset);
    }
  }
};

#if HWY_TARGET == HWY_NEON

// Signed bytes: products of a block add up in 16 bits.
class Dot {
 public:
  static constexpr int kOffset = 0;
  static HWY_INLINE Word look_up(Word table, Word nibbles) {
    return Word{vreinterpretq_u32_s8(
        vqtbl1q_s8(vreinterpretq_s8_u32(table.raw), vreinterpretq_u8_u32(nibbles.raw)))};
  }
  HWY_INLINE void start(std::int32_t /*correction*/) { low_ = high_ = vdupq_n_s16(0); }
  HWY_INLINE void add(Word weights, const std::int8_t* a) {
    std::int32_t four;
    std::memcpy(&four, a, 4);
    const int8x16_t w = vreinterpretq_s8_u32(weights.raw);
    const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(four));
    low_ = vmlal_s8(low_, vget_low_s8(w), x);
    high_ = vmlal_s8(high_, vget_high_s8(w), x);
  }
  HWY_INLINE Vi total() const { return Vi{vpaddq_s32(vpaddlq_s16(low_), vpaddlq_s16(high_))}; }

 private:
  int16x8_t low_, high_;
};

#else

#if HWY_TARGET == HWY_AVX3
using Bytes = __m512i;
HWY_INLINE Bytes add16(Bytes a, Bytes b) { return _mm512_add_epi16(a, b); }
HWY_INLINE Bytes multiply_bytes(Bytes u, Bytes s) { return _mm512_maddubs_epi16(u, s); }
HWY_INLINE Bytes pairs_of_16(Bytes a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
HWY_INLINE Bytes four_everywhere(std::int32_t four) { return _mm512_set1_epi32(four); }
HWY_INLINE Bytes shuffle_bytes(Bytes table, Bytes index) {
  return _mm512_shuffle_epi8(table, index);
}
#else
using Bytes = __m256i;
HWY_INLINE Bytes add16(Bytes a, Bytes b) { return _mm256_add_epi16(a, b); }
HWY_INLINE Bytes multiply_bytes(Bytes u, Bytes s) { return _mm256_maddubs_epi16(u, s); }
HWY_INLINE Bytes pairs_of_16(Bytes a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
HWY_INLINE Bytes four_everywhere(std::int32_t four) { return _mm256_set1_epi32(four); }
HWY_INLINE Bytes shuffle_bytes(Bytes table, Bytes index) {
  return _mm256_shuffle_epi8(table, index);
}
#endif

// Weights plus 12 are unsigned; the sum of a block, at most 16 * 24 * 12, fits in 16 bits.
class Dot {
 public:
  static constexpr int kOffset = kWeightOffset;
  static HWY_INLINE Word look_up(Word table, Word nibbles) {
    return Word{shuffle_bytes(table.raw, nibbles.raw)};
  }
  HWY_INLINE void start(std::int32_t correction) {
    sum_ = four_everywhere(0);
    correction_ = correction;
  }
  HWY_INLINE void add(Word weights, const std::int8_t* a) {
    std::int32_t four;
    std::memcpy(&four, a, 4);
    sum_ = add16(sum_, multiply_bytes(weights.raw, four_everywhere(four)));
  }
  HWY_INLINE Vi total() const { return hn::Add(Vi{pairs_of_16(sum_)}, hn::Set(Di(), correction_)); }

 private:
  Bytes sum_;
  std::int32_t correction_;
};

#if HWY_TARGET == HWY_AVX3
// One instruction for four products. It is written as assembly because an intrinsic would need all
// of its callers compiled for VNNI, which x86-64-v4 does not imply.
class DotVnni {
 public:
  static constexpr int kOffset = kWeightOffset;
  static HWY_INLINE Word look_up(Word table, Word nibbles) { return Dot::look_up(table, nibbles); }
  HWY_INLINE void start(std::int32_t correction) { sum_ = _mm512_set1_epi32(correction); }
  HWY_INLINE void add(Word weights, const std::int8_t* a) {
    std::int32_t four;
    std::memcpy(&four, a, 4);
    asm("vpdpbusd %2, %1, %0" : "+v"(sum_) : "v"(weights.raw), "v"(_mm512_set1_epi32(four)));
  }
  HWY_INLINE Vi total() const { return Vi{sum_}; }

 private:
  __m512i sum_;
};
#endif

#endif

// The value of the codes in the low nibbles of the lanes; what lies above the nibbles is ignored.
template <WeightForm kForm>
HWY_INLINE Vf nibble_values(Word nibbles) {
#if HWY_TARGET == HWY_AVX3
  alignas(64) constexpr float kPlain[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                            -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  alignas(64) constexpr float kPrepared[16] = {0, -0.0f, 0.5f, -0.5f, 1, -1, 1.5f, -1.5f,
                                               2, -2,    3,    -3,    4, -4, 6,    -6};
  const Vf table = hn::Load(Df(), kForm == WeightForm::kPlain ? kPlain : kPrepared);
  return Vf{_mm512_permutexvar_ps(nibbles.raw, table.raw)};
#else
  constexpr bool kPlain = kForm == WeightForm::kPlain;
  const Word sign = hn::ShiftLeft<31>(kPlain ? hn::ShiftRight<3>(nibbles) : nibbles);
  const Word magnitude = kPlain ? nibbles : hn::ShiftRight<1>(nibbles);
#if HWY_TARGET == HWY_AVX2
  // The lookup reads three bits of the index.
  alignas(32) constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const Vf value{_mm256_permutevar8x32_ps(hn::Load(Df(), kValues).raw, magnitude.raw)};
#else
  // As simd/codecs.h does.
  const Word bits = hn::ShiftLeft<22>(hn::And(magnitude, hn::Set(Du(), 7)));
  const Vf value = hn::Mul(hn::BitCast(Df(), bits), hn::Set(Df(), 0x1p126f));
#endif
  return hn::Or(value, hn::BitCast(Df(), sign));
#endif
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
