// The CPU row quantizer: a row of y in cache -> codes, scales in both layouts, row scale, padding.
// The definition is ops/quantize/quantize_math.h; this gives its bits, sixteen blocks at a time:
//
//   pairs of y -> amax of each block, one a lane -> scale codes and reciprocals -> pairs of y again
//   (from the first-level cache) -> two codes a byte
#pragma once

#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/simd/codecs.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

using formats::Format;
using formats::RowTarget;
using formats::ScaleMode;

// Each lane of a pair its block's factor: that of the block the pair starts in or, where it holds
// two blocks, both. Reads two floats.
template <int kBlock>
HWY_INLINE Vf block_factors(const float* of_block) {
  if constexpr (kBlock >= kPairElems) {
    return hn::Set(Df(), *of_block);
  } else {
    static_assert(2 * kBlock == kPairElems && kLanes == 16);
    alignas(64) constexpr std::int32_t kHalves[16] = {0, 0, 0, 0, 0, 0, 0, 0,
                                                      1, 1, 1, 1, 1, 1, 1, 1};
    std::uint64_t two;
    std::memcpy(&two, of_block, sizeof two);
    const hn::Repartition<std::uint64_t, Df> d64;
    const Vf alternating = hn::BitCast(Df(), hn::Set(d64, two));
    return hn::TableLookupLanes(alternating, hn::SetTableIndices(Df(), kHalves));
  }
}

// The bits of the largest magnitude of `count` values, NaN above all.
template <class T>
HWY_INLINE std::uint32_t amax_bits(const T* y, std::int64_t count) {
  Vi even = hn::Zero(Di()), odd = hn::Zero(Di());
  for (std::int64_t i = 0; i < count; i += kPairElems) {
    const Pair pair = load_pair(y + i, count - i);
    even = hn::Max(even, magnitude_bits(pair.even));
    odd = hn::Max(odd, magnitude_bits(pair.odd));
  }
  return static_cast<std::uint32_t>(hn::GetLane(hn::MaxOfLanes(Di(), hn::Max(even, odd))));
}

namespace row_quantizer_detail {

// Finite and > 0.
HWY_INLINE bool is_ordinary(float scale) {
  const std::uint32_t bits = numerics::float_bits(scale);
  return bits > 0 && bits < numerics::kInfBits;
}

inline constexpr int kChunkBlocks = 16;

// What a chunk's blocks get.
struct ChunkScales {
  alignas(64) std::int32_t amax_bits[kChunkBlocks];
  alignas(64) float reciprocal[kChunkBlocks];
  alignas(16) std::uint8_t code[kChunkBlocks];
};

// The amax bits of kLanes groups of 16 elements, one a lane.
template <class T>
HWY_INLINE Vi amax_of_16(const T* y) {
  if constexpr (sizeof(T) == 2) {
    // 16-bit magnitudes, NaN above all. A vector holds two groups (AVX-512), one (AVX2) or half of
    // one (NEON); each step halves what a group takes.
    const Dw dw;
    const hn::Repartition<std::uint64_t, Du> d64;
    constexpr int kPerGroup = kLanes == 4 ? 2 : 1;
    const auto* words = reinterpret_cast<const std::uint16_t*>(y);
    Vw a[8 / kPerGroup], b[4 / kPerGroup];
    for (int i = 0; i < 8 / kPerGroup; ++i) {
      a[i] = hn::LoadU(dw, words + i * kPerGroup * kPairElems);
      a[i] = hn::And(a[i], hn::Set(dw, 0x7FFF));
      if constexpr (kPerGroup == 2) {
        const Vw other = hn::LoadU(dw, words + (i * kPerGroup + 1) * kPairElems);
        a[i] = hn::Max(a[i], hn::And(other, hn::Set(dw, 0x7FFF)));
      }
    }
    for (int i = 0; i < 4 / kPerGroup; ++i) {
      const auto x = hn::BitCast(Du(), a[2 * i]), z = hn::BitCast(Du(), a[2 * i + 1]);
      b[i] = hn::Max(hn::BitCast(dw, hn::InterleaveLower(Du(), x, z)),
                     hn::BitCast(dw, hn::InterleaveUpper(Du(), x, z)));
    }
    for (int i = 0; i < 2 / kPerGroup; ++i) {
      const auto x = hn::BitCast(d64, b[2 * i]), z = hn::BitCast(d64, b[2 * i + 1]);
      a[i] = hn::Max(hn::BitCast(dw, hn::InterleaveLower(d64, x, z)),
                     hn::BitCast(dw, hn::InterleaveUpper(d64, x, z)));
    }
    hn::Vec<Du> groups = hn::BitCast(Du(), a[0]);
    if constexpr (kPerGroup == 1) {
      for (int i = 0; i < 2; ++i) {
        b[i] = hn::Max(a[i], hn::BitCast(dw, hn::SwapAdjacentBlocks(hn::BitCast(Du(), a[i]))));
      }
      groups = hn::OddEvenBlocks(hn::BitCast(Du(), b[1]), hn::BitCast(Du(), b[0]));
    }
    if constexpr (kLanes == 16) {
      // Even groups are in the lower half, odd ones in the upper.
      alignas(64) constexpr std::int32_t kOrder[16] = {0, 8,  1, 9,  2, 10, 3, 11,
                                                       4, 12, 5, 13, 6, 14, 7, 15};
      groups = hn::TableLookupLanes(groups, hn::SetTableIndices(Du(), kOrder));
    }
    const Vw larger = hn::Max(hn::BitCast(dw, groups), hn::BitCast(dw, hn::ShiftRight<16>(groups)));
    return hn::BitCast(Di(), Element<T>::split(hn::BitCast(Du(), larger)).even);
  } else {
    // The larger of each two neighbours, four times.
    Vi lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = magnitude_bits(hn::LoadU(Df(), y + i * kLanes));
    for (int count = 8; count > 0; count /= 2) {
      for (int i = 0; i < count; ++i) {
        const Vi x = lanes[2 * i], z = lanes[2 * i + 1];
        lanes[i] = hn::Max(hn::ConcatEven(Di(), z, x), hn::ConcatOdd(Di(), z, x));
      }
    }
    return lanes[0];
  }
}

// The amax of each block of a chunk.
template <class T, int kBlock>
HWY_INLINE void chunk_amax(const T* y, ChunkScales& scales) {
  for (int k = 0; k < kChunkBlocks; k += static_cast<int>(kLanes)) {
    Vi most;
    if constexpr (kBlock == 16) {
      most = amax_of_16(y + k * 16);
    } else {
      static_assert(kBlock == 32);
      const Vi a = amax_of_16(y + k * 32), b = amax_of_16(y + k * 32 + 16 * kLanes);
      most = hn::Max(hn::ConcatEven(Di(), b, a), hn::ConcatOdd(Di(), b, a));
    }
    hn::Store(most, Di(), scales.amax_bits + k);
  }
}

template <class T, int kBlock>
HWY_INLINE void encode_ordinary(const T* y, const ChunkScales& scales, std::uint8_t* codes) {
  constexpr int kPairs = kChunkBlocks * kBlock / static_cast<int>(kPairElems);
  HWY_UNROLL(2)
  for (int i = 0; i < kPairs; i += 4) {
    Vw nibbles[4];
    for (int j = 0; j < 4; ++j) {
      const int first = (i + j) * static_cast<int>(kPairElems);
      const Vf factor = block_factors<kBlock>(scales.reciprocal + first / kBlock);
      SignedPair value = load_signed_pair(y + first);
      value.magnitude.even = hn::Mul(value.magnitude.even, factor);
      value.magnitude.odd = hn::Mul(value.magnitude.odd, factor);
      nibbles[j] = e2m1_nibbles(value);
    }
    store_nibbles(nibbles, codes + i * kLanes);
  }
}

// The same where a value or a factor may be NaN; seldom, so once in the object file.
template <class T, int kBlock>
static HWY_NOINLINE void encode_special(const T* y, const ChunkScales& scales,
                                        std::uint8_t* codes) {
  for (int i = 0; i < kChunkBlocks * kBlock; i += static_cast<int>(kPairElems)) {
    const Vf factor = block_factors<kBlock>(scales.reciprocal + i / kBlock);
    const Pair pair = load_pair(y + i);
    store_bytes(e2m1_bytes_or_nan(hn::Mul(pair.even, factor), hn::Mul(pair.odd, factor)),
                codes + i / 2);
  }
}

}  // namespace row_quantizer_detail

class RowQuantizer {
 public:
  explicit HWY_INLINE RowQuantizer(const RowTarget& target)
      : target_(target), blocks_(target.scale_columns()) {}

  // y: target.columns values.
  template <class T>
  HWY_INLINE void quantize(std::int64_t row, const T* y) const {
    const float row_amax = target_.mode == ScaleMode::kRow
                               ? numerics::bits_float(amax_bits(y, target_.columns))
                               : 0.0f;
    quantize_made<T>(row, row_amax,
                     [y](std::int64_t first, std::int64_t, T*)
                         HALFBYTE_INLINE_LAMBDA { return y + first; });
  }

  // The same for a row that comes in pieces: make(first, count, buffer) returns where the elements
  // first .. first + count - 1 lie, which may be `buffer`; it is called in order, once for each,
  // and they must stay until the call after the next. row_amax is read where scale = row.
  template <class T, class Make>
  HWY_INLINE void quantize_made(std::int64_t row, float row_amax, const Make& make) const {
    std::uint8_t* codes = target_.codes + target_.code_rows.offset(row);
    const std::int64_t scale_row = target_.scale_row(row);
    if (HWY_UNLIKELY(scale_row < 0)) {  // of no group: a row of zeros, without block scales
      std::memset(codes, 0,
                  static_cast<std::size_t>(formats::code_bytes(target_.format, target_.columns)));
      if (target_.mode == ScaleMode::kRow) {
        target_.row_scale[row] = formats::nvfp4_scale_from_amax(0.0f, target_.scale_rule).decode;
      }
      return;
    }
    if (target_.format == Format::kNvfp4) {
      const formats::Nvfp4Scale scale = target_.nvfp4_scale(row, row_amax);
      const bool ordinary = !scale.poisoned && row_quantizer_detail::is_ordinary(scale.encode) &&
                            row_quantizer_detail::is_ordinary(scale.decode);
      if (target_.mode == ScaleMode::kRow) target_.row_scale[row] = scale.decode;
      quantize_fp4<T, formats::kNvfp4Block>(scale_row, make, codes,
                                            [&](Chunk& chunk) HALFBYTE_INLINE_LAMBDA {
                                              return nvfp4_scales(scale, ordinary, chunk);
                                            });
    } else if (target_.format == Format::kMxfp4) {
      quantize_fp4<T, formats::kMxfp4Block>(
          scale_row, make, codes,
          [&](Chunk& chunk) HALFBYTE_INLINE_LAMBDA { return mxfp4_scales(chunk); });
    } else {
      const formats::Fp8Scale scale = target_.fp8_scale(row, row_amax);
      if (target_.mode == ScaleMode::kRow) target_.row_scale[row] = scale.decode;
      constexpr std::int64_t kElems = 256;
      T buffer[kElems];
      for (std::int64_t i = 0; i < target_.columns; i += kElems) {
        const std::int64_t count = target_.columns - i < kElems ? target_.columns - i : kElems;
        quantize_fp8(make(i, count, buffer), count, scale, codes + i);
      }
    }
  }

 private:
  using Chunk = row_quantizer_detail::ChunkScales;
  static constexpr int kChunkBlocks = row_quantizer_detail::kChunkBlocks;

  // The scales of a chunk take a long chain of dependent operations, so those of the next chunk are
  // begun before this one is encoded.
  template <class T, int kBlock, class Make, class ScalesOf>
  HWY_INLINE void quantize_fp4(std::int64_t scale_row, const Make& make, std::uint8_t* codes,
                               const ScalesOf& scales_of) const {
    constexpr int kElems = kChunkBlocks * kBlock;
    const std::int64_t whole = blocks_ / kChunkBlocks;
    alignas(64) T buffers[2][kElems];
    Chunk chunks[2] = {};
    const T* y[2] = {};
    bool ordinary[2] = {};
    const auto prepare = [&](std::int64_t c) HALFBYTE_INLINE_LAMBDA {
      y[c & 1] = make(c * kElems, kElems, buffers[c & 1]);
      ordinary[c & 1] = prepare_chunk<T, kBlock>(y[c & 1], chunks[c & 1], scales_of);
    };
    for (std::int64_t c = 0; c <= whole; ++c) {
      if (c < whole) prepare(c);
      if (c == 0) continue;
      const std::int64_t b = c - 1;
      encode_chunk<T, kBlock>(y[b & 1], chunks[b & 1], ordinary[b & 1], codes + b * kElems / 2);
      store_scales(scale_row, b * kChunkBlocks, kChunkBlocks, chunks[b & 1].code);
    }
    const int left = static_cast<int>(blocks_ - whole * kChunkBlocks);
    if (left == 0) return;
    // The last blocks, with zeros after them.
    const auto bytes = static_cast<std::size_t>(left) * kBlock * sizeof(T);
    const T* last = make(whole * kElems, left * kBlock, buffers[0]);
    if (last != buffers[0]) std::memcpy(static_cast<void*>(buffers[0]), last, bytes);
    std::memset(reinterpret_cast<std::byte*>(buffers[0]) + bytes, 0, sizeof buffers[0] - bytes);
    std::uint8_t last_codes[kElems / 2];
    const bool last_ordinary = prepare_chunk<T, kBlock>(buffers[0], chunks[0], scales_of);
    encode_chunk<T, kBlock>(buffers[0], chunks[0], last_ordinary, last_codes);
    std::memcpy(codes + whole * kElems / 2, last_codes,
                static_cast<std::size_t>(left) * kBlock / 2);
    store_scales(scale_row, whole * kChunkBlocks, left, chunks[0].code);
  }

  template <class T, int kBlock, class ScalesOf>
  static HWY_INLINE bool prepare_chunk(const T* y, Chunk& chunk, const ScalesOf& scales_of) {
    row_quantizer_detail::chunk_amax<T, kBlock>(y, chunk);
    return scales_of(chunk);
  }
  template <class T, int kBlock>
  static HWY_INLINE void encode_chunk(const T* y, const Chunk& chunk, bool ordinary,
                                      std::uint8_t* codes) {
    if (HWY_LIKELY(ordinary)) {
      row_quantizer_detail::encode_ordinary<T, kBlock>(y, chunk, codes);
    } else {
      row_quantizer_detail::encode_special<T, kBlock>(y, chunk, codes);
    }
  }

  // S and r of each block from its amax (formats::nvfp4_block_scale and nvfp4_reciprocal). False
  // where a product with r may be NaN.
  HWY_INLINE bool nvfp4_scales(formats::Nvfp4Scale scale, bool ordinary, Chunk& chunk) const {
    const Df d;
    const Vf encode = hn::Set(d, scale.encode), decode = hn::Set(d, scale.decode);
    const Vf sixth = hn::Set(d, formats::kOneSixth);
    const bool te = target_.scale_rule == formats::ScaleRule::kTe;
    for (int k = 0; k < kChunkBlocks; k += static_cast<int>(kLanes)) {
      const Vf amax = hn::BitCast(d, hn::Load(Di(), chunk.amax_bits + k));
      const bool finite = hn::AllTrue(d, hn::Le(amax, hn::Set(d, numerics::kFloatMax)));
      if (HWY_UNLIKELY(!ordinary || !finite)) return nvfp4_special_scales(scale, chunk);
      const Vf wanted =
          te ? hn::Mul(amax, hn::Mul(encode, sixth)) : hn::Mul(encode, hn::Mul(amax, sixth));
      const BlockScales s = e4m3_scales(wanted);
      // Not Inf, and 0 where S is 0.
      const Vf inverse = hn::Div(hn::Set(d, 1.0f), hn::Mul(s.value, decode));
      const Vf r = hn::Min(inverse, hn::Set(d, numerics::kFloatMax));
      hn::Store(hn::IfThenZeroElse(hn::Eq(s.value, hn::Zero(d)), r), d, chunk.reciprocal + k);
      store_bytes(s.code, chunk.code + k);
    }
    return true;
  }

  // The same from the definition, for scales or blocks that are Inf or NaN.
  HWY_INLINE bool nvfp4_special_scales(formats::Nvfp4Scale scale, Chunk& chunk) const {
    for (int k = 0; k < kChunkBlocks; ++k) {
      const float amax = numerics::bits_float(static_cast<std::uint32_t>(chunk.amax_bits[k]));
      chunk.code[k] = formats::nvfp4_block_scale(amax, scale, target_.scale_rule);
      chunk.reciprocal[k] = formats::nvfp4_reciprocal(chunk.code[k], scale);
    }
    return false;
  }

  HWY_INLINE bool mxfp4_scales(Chunk& chunk) const {
    bool nan = false;
    for (int k = 0; k < kChunkBlocks; ++k) {
      const auto bits = static_cast<std::uint32_t>(chunk.amax_bits[k]);
      chunk.code[k] = formats::mxfp4_block_scale(numerics::bits_float(bits), target_.mx_rule);
      chunk.reciprocal[k] = formats::mxfp4_reciprocal(chunk.code[k]);
      nan = nan || bits > numerics::kInfBits;
    }
    return !nan;
  }

  HWY_INLINE void store_scales(std::int64_t scale_row, std::int64_t k, int count,
                               const std::uint8_t* code) const {
    for (const formats::ScaleArray& array : target_.scales) {
      if (array.data != nullptr) store_scales(array, scale_row, k, count, code);
    }
  }

  // Scales k .. k + count - 1 of a row of the array; k is a multiple of four, and four lie together
  // in every layout.
  HWY_INLINE void store_scales(const formats::ScaleArray& array, std::int64_t row, std::int64_t k,
                               int count, const std::uint8_t* code) const {
    std::uint8_t* out = array.data + formats::scale_offset(array.layout, row, k, blocks_);
    if (array.layout == formats::ScaleLayout::kLinear) {
      if (HWY_LIKELY(count == kChunkBlocks)) {
        std::memcpy(out, code, kChunkBlocks);
      } else {
        std::memcpy(out, code, static_cast<std::size_t>(count));
      }
      return;
    }
    const std::int64_t step = array.layout == formats::ScaleLayout::k128x4 ? 512 : 32;
    int i = 0;
    for (; i + 4 <= count; i += 4, out += step) std::memcpy(out, code + i, 4);
    if (i < count) std::memcpy(out, code + i, static_cast<std::size_t>(count - i));
  }

  template <class T>
  static HWY_INLINE void quantize_fp8(const T* y, std::int64_t columns, formats::Fp8Scale scale,
                                      std::uint8_t* codes) {
    const Vf encode = hn::Set(Df(), scale.encode);
    std::int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) {
      store_bytes(e4m3_codes(hn::Mul(load_elements(y + i, kLanes), encode)), codes + i);
    }
    if (i < columns) {
      std::uint8_t buffer[kLanes];
      store_bytes(e4m3_codes(hn::Mul(load_elements(y + i, columns - i), encode)), buffer);
      std::memcpy(codes + i, buffer, static_cast<std::size_t>(columns - i));
    }
  }

  const RowTarget& target_;
  std::int64_t blocks_;
};

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
