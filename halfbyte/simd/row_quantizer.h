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

inline constexpr int kChunkBlocks = 16;

// What a chunk's blocks get: as many as kChunkBlocks.
struct ChunkScales {
  alignas(64) std::int32_t amax_bits[kChunkBlocks];
  alignas(64) float reciprocal[kChunkBlocks];
  std::uint8_t code[kChunkBlocks];
};

// Halves kCount vectors of lanes to kTarget of them: the larger of each two neighbours.
template <int kCount, int kTarget>
HWY_INLINE void max_of_neighbours(Vi* lanes) {
  if constexpr (kCount > kTarget) {
    for (int i = 0; i < kCount / 2; ++i) {
      const Vi a = lanes[2 * i], b = lanes[2 * i + 1];
      lanes[i] = hn::Max(hn::ConcatEven(Di(), b, a), hn::ConcatOdd(Di(), b, a));
    }
    max_of_neighbours<kCount / 2, kTarget>(lanes);
  }
}

// The amax of each block of a chunk.
template <class T, int kBlock>
HWY_INLINE void chunk_amax(const T* y, ChunkScales& scales) {
  // Vectors of kLanes pairs, or of whole blocks where a block has more pairs than a vector lanes.
  constexpr int kPerBlock = kBlock / kPairElems > 1 ? kBlock / static_cast<int>(kPairElems) : 1;
  constexpr int kVectors = kChunkBlocks * kBlock / static_cast<int>(kPairElems) / kPerBlock;
  Vi most[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    for (int j = 0; j < kPerBlock; ++j) {
      const Pair pair = load_pair(y + (i * kPerBlock + j) * kPairElems);
      const Vi larger = hn::Max(magnitude_bits(pair.even), magnitude_bits(pair.odd));
      most[i] = j == 0 ? larger : hn::Max(most[i], larger);
    }
  }
  constexpr int kResults = kChunkBlocks / static_cast<int>(kLanes);
  max_of_neighbours<kVectors, kResults>(most);
  for (int i = 0; i < kResults; ++i) {
    hn::Store(most[i], Di(), scales.amax_bits + i * kLanes);
  }
}

// Each lane its block's reciprocal, for the pair that starts at element `first` of a chunk.
template <int kBlock>
HWY_INLINE Vf factors(const ChunkScales& scales, int first) {
  const float* of_block = scales.reciprocal + first / kBlock;
  if constexpr (kBlock >= kPairElems) {
    return hn::Set(Df(), *of_block);
  } else {
    static_assert(2 * kBlock == kPairElems);
    const hn::Half<Df> half;
    return hn::Combine(Df(), hn::Set(half, of_block[1]), hn::Set(half, of_block[0]));
  }
}

template <class T, int kBlock, bool kMayBeNan>
HWY_INLINE void encode_chunk(const T* y, const ChunkScales& scales, std::uint8_t* codes) {
  for (int i = 0; i < kChunkBlocks * kBlock; i += static_cast<int>(kPairElems)) {
    const Pair pair = load_pair(y + i);
    const Vf factor = factors<kBlock>(scales, i);
    const Vf even = hn::Mul(pair.even, factor), odd = hn::Mul(pair.odd, factor);
    store_bytes(kMayBeNan ? e2m1_bytes_or_nan(even, odd) : e2m1_bytes(even, odd), codes + i / 2);
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
    std::uint8_t* codes = target_.codes + target_.code_rows.offset(row);
    if (target_.format == Format::kNvfp4) {
      const formats::Nvfp4Scale scale = target_.nvfp4_scale(row, row_amax);
      if (target_.mode == ScaleMode::kRow) target_.row_scale[row] = scale.decode;
      quantize_fp4<T, formats::kNvfp4Block>(
          row, y, codes, [&](Chunk& chunk) HWY_ATTR { return nvfp4_scales(scale, chunk); });
    } else if (target_.format == Format::kMxfp4) {
      quantize_fp4<T, formats::kMxfp4Block>(
          row, y, codes, [&](Chunk& chunk) HWY_ATTR { return mxfp4_scales(chunk); });
    } else {
      const formats::Fp8Scale scale = target_.fp8_scale(row, row_amax);
      if (target_.mode == ScaleMode::kRow) target_.row_scale[row] = scale.decode;
      quantize_fp8(y, scale, codes);
    }
  }

 private:
  using Chunk = row_quantizer_detail::ChunkScales;
  static constexpr int kChunkBlocks = row_quantizer_detail::kChunkBlocks;

  template <class T, int kBlock, class ScalesOf>
  HWY_INLINE void quantize_fp4(std::int64_t row, const T* y, std::uint8_t* codes,
                               const ScalesOf& scales_of) const {
    constexpr int kElems = kChunkBlocks * kBlock;
    std::int64_t k = 0;
    for (; k + kChunkBlocks <= blocks_; k += kChunkBlocks) {
      quantize_chunk<T, kBlock>(row, k, kChunkBlocks, y + k * kBlock, codes + k * kBlock / 2,
                                scales_of);
    }
    if (k == blocks_) return;
    const int left = static_cast<int>(blocks_ - k);
    T last[kElems] = {};
    std::uint8_t last_codes[kElems / 2];
    std::memcpy(static_cast<void*>(last), y + k * kBlock,
                static_cast<std::size_t>(left) * kBlock * sizeof(T));
    quantize_chunk<T, kBlock>(row, k, left, last, last_codes, scales_of);
    std::memcpy(codes + k * kBlock / 2, last_codes, static_cast<std::size_t>(left) * kBlock / 2);
  }

  // A whole chunk of y, of which the first `count` blocks have a scale to store.
  template <class T, int kBlock, class ScalesOf>
  HWY_INLINE void quantize_chunk(std::int64_t row, std::int64_t k, int count, const T* y,
                                 std::uint8_t* codes, const ScalesOf& scales_of) const {
    Chunk chunk;
    row_quantizer_detail::chunk_amax<T, kBlock>(y, chunk);
    if (HWY_LIKELY(scales_of(chunk))) {
      row_quantizer_detail::encode_chunk<T, kBlock, false>(y, chunk, codes);
    } else {
      row_quantizer_detail::encode_chunk<T, kBlock, true>(y, chunk, codes);
    }
    for (const formats::ScaleArray& array : target_.scales) {
      if (array.data != nullptr) store_scales(array, row, k, count, chunk.code);
    }
  }

  // S and r of each block from its amax (formats::nvfp4_block_scale and nvfp4_reciprocal). False
  // where a product with r may be NaN.
  HWY_INLINE bool nvfp4_scales(formats::Nvfp4Scale scale, Chunk& chunk) const {
    const Df d;
    const Vf zero = hn::Zero(d);
    const bool te = target_.scale_rule == formats::ScaleRule::kTe;
    const Vf encode = hn::Set(d, scale.encode), decode = hn::Set(d, scale.decode);
    const Vf sixth = hn::Set(d, formats::kOneSixth);
    const Vf te_factor = hn::Mul(encode, sixth);
    auto finite = hn::Eq(zero, zero);
    for (int k = 0; k < kChunkBlocks; k += static_cast<int>(kLanes)) {
      const Vf amax = hn::BitCast(d, hn::Load(Di(), chunk.amax_bits + k));
      const Vf wanted = te ? hn::Mul(amax, te_factor) : hn::Mul(encode, hn::Mul(amax, sixth));
      const Vf nonzero = hn::IfThenZeroElse(hn::Eq(amax, zero), wanted);
      const Vi code = scale.poisoned ? hn::Set(Di(), formats::kE4m3Nan) : e4m3_codes(nonzero);
      const Vf s = e4m3_values(code);
      const Vf inverse = clamp_to_max(hn::Div(hn::Set(d, 1.0f), hn::Mul(s, decode)));
      const Vf r = hn::IfThenZeroElse(hn::Eq(s, zero), inverse);
      // v * 0 is 0 unless v is Inf or NaN; r is never Inf.
      const Vf zeros = hn::Add(hn::Mul(amax, zero), hn::Mul(r, zero));
      finite = hn::And(finite, hn::Eq(zeros, zero));
      hn::Store(r, d, chunk.reciprocal + k);
      store_bytes(code, chunk.code + k);
    }
    return hn::AllTrue(d, finite);
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

  // Scales k .. k + count - 1 of a row; k is a multiple of four, and four lie together in every
  // layout.
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
  HWY_INLINE void quantize_fp8(const T* y, formats::Fp8Scale scale, std::uint8_t* codes) const {
    const std::int64_t columns = target_.columns;
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
