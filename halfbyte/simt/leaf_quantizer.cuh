// The GPU row quantizer over packed leaves: a thread turns 16 neighbours of a row of y, in
// registers, into codes and a block scale. The definition is formats/ and
// ops/quantize/quantize_math.h; this gives its bits. simt/row_quantizer.cuh is the one for rows of
// any alignment and length.
#pragma once

#include <algorithm>
#include <cstdint>

#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/row_target.h"
#include "halfbyte/simt/fast_codecs.cuh"
#include "halfbyte/simt/packed.cuh"

namespace halfbyte::simt {

struct TileQuantization {
  formats::ScaleRule scale_rule = formats::ScaleRule::kKernel;
  formats::MxRule mx_rule = formats::MxRule::kRoundUp;
};

// Eight bytes of codes each; words[2..3] of FP8 alone.
struct LeafCodes {
  std::uint32_t words[4];
};

// One scale array with its layout as numbers, so that the kernel asks no questions about it:
//   offset = (row >> shift) * tile_step + (row & mask) * row_step + ((row >> 5) & high_mask) * 4
//            + the scale column's part
struct TileScales {
  std::uint8_t* data = nullptr;  // nullptr: not wanted
  std::uint32_t tile_step = 0;
  std::uint32_t shift = 0, mask = 0, row_step = 0, high_mask = 0;
  std::uint32_t column_step = 0;  // bytes between scale columns 4 apart; in between: neighbours

  __device__ __forceinline__ std::uint64_t row_offset(std::uint32_t row) const {
    return std::uint64_t{row >> shift} * tile_step +
           ((row & mask) * row_step + ((row >> 5) & high_mask) * 4);
  }
  __device__ __forceinline__ std::uint32_t column_offset(std::uint32_t column) const {
    return (column >> 2) * column_step + (column & 3);
  }
};

inline TileScales tile_scales(const formats::ScaleArray& array, std::int64_t columns) {
  const auto tiles = static_cast<std::uint32_t>((columns + 3) / 4);
  if (array.data == nullptr) return {};
  switch (array.layout) {
    case formats::ScaleLayout::k128x4:
      return {array.data, tiles * 512, 7, 31, 16, 3, 512};
    case formats::ScaleLayout::k8x4:
      return {array.data, tiles * 32, 3, 7, 4, 0, 32};
    default:
      return {array.data, static_cast<std::uint32_t>(columns), 0, 0, 0, 0, 4};
  }
}

// The portable definition, for scales outside of the fast sequences' range: rare, so small. Words
// in memory: what is indexed at run time cannot lie in registers, and the leaf shall.
template <class T>
__device__ __forceinline__ std::uint32_t nvfp4_leaf_of_any_scale(const Packed<T>& leaf, float amax,
                                                                 formats::Nvfp4Scale scale,
                                                                 formats::ScaleRule rule,
                                                                 LeafCodes& codes) {
  Packed<T> copy = leaf;
  const T* elements = reinterpret_cast<const T*>(copy.words);
  const std::uint8_t code = formats::nvfp4_block_scale(amax, scale, rule);
  const float reciprocal = formats::nvfp4_reciprocal(code, scale);
  std::uint64_t bits = 0;
#pragma unroll 1
  for (int i = 0; i < kLeaf; ++i) {
    const std::uint64_t nibble = formats::nvfp4_encode(numerics::to_float(elements[i]), reciprocal);
    bits |= nibble << (4 * i);
  }
  codes.words[0] = static_cast<std::uint32_t>(bits);
  codes.words[1] = static_cast<std::uint32_t>(bits >> 32);
  return code;
}

template <class Leaf>
__device__ __forceinline__ void put_e2m1(const Leaf& leaf, const E2m1Factor& factor, bool is_nan,
                                         LeafCodes& codes) {
  float y[kLeaf];
  unpack(leaf, y);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::uint32_t word = e2m1_codes(y + 8 * half, sign_nibbles(leaf, half), factor);
    codes.words[half] = is_nan ? 0x77777777u : word;  // every code of a NaN block is 7
  }
}

// What is the same for all leaves of a row, by format: made of the row's scale, it gives the codes
// of a leaf and the scale of its block.
template <formats::Format F>
struct RowEncoder;

template <>
struct RowEncoder<formats::Format::kNvfp4> {
  formats::Nvfp4Scale scale;
  // S = e4m3( fl(outer * fl(amax * inner)) ), whichever of the two rules.
  float inner, outer;
  formats::ScaleRule rule;
  bool fast;  // every r but 0 is a normal number with exact eighths

  HALFBYTE_HD static RowEncoder make(formats::Nvfp4Scale scale, const TileQuantization& how) {
    RowEncoder result;
    const bool te = how.scale_rule == formats::ScaleRule::kTe;
    result.scale = scale;
    result.rule = how.scale_rule;
    result.inner = te ? 1.0f : formats::kOneSixth;
    result.outer = te ? numerics::mul_rn(scale.encode, formats::kOneSixth) : scale.encode;
    // 2^-100 .. 2^100, both: bits of positive floats order as they do.
    constexpr std::uint32_t kLowest = 27u << 23, kRange = 200u << 23;
    result.fast = !scale.poisoned && numerics::float_bits(scale.encode) - kLowest <= kRange &&
                  numerics::float_bits(scale.decode) - kLowest <= kRange;
    return result;
  }
  HALFBYTE_HD static RowEncoder given(float scale, const TileQuantization& how) {
    return make(formats::nvfp4_scale_given(scale), how);
  }
  HALFBYTE_HD static RowEncoder from_amax(float amax, const TileQuantization& how) {
    return make(formats::nvfp4_scale_from_amax(amax, how.scale_rule), how);
  }
  // from_amax with one question about the range.
  __device__ __forceinline__ static RowEncoder of_row(float amax, const TileQuantization& how) {
    using numerics::device::divide_ordinary;
    constexpr float kRange = formats::kNvfp4Range;
    if (how.scale_rule == formats::ScaleRule::kTe || !numerics::device::is_ordinary(amax)) {
      return from_amax(amax, how);
    }
    const float encode = divide_ordinary(kRange, amax, numerics::device::reciprocal(amax));
    const float decode = divide_ordinary(amax, kRange, 1.0f / kRange);
    return {{encode, decode, false}, formats::kOneSixth, encode, how.scale_rule, true};
  }
  __device__ __forceinline__ float decode() const { return scale.decode; }
  __device__ __forceinline__ bool is_fast() const { return fast; }

  // r / 4 of a block scale other than NaN.
  __device__ __forceinline__ float quarter(std::uint32_t code) const {
    const float r = numerics::device::reciprocal(numerics::mul_rn(e4m3_value(code), scale.decode));
    return code == 0 ? 0.0f : numerics::mul_rn(r, 0.25f);
  }
  template <class Leaf>
  __device__ __forceinline__ std::uint32_t encode(const Leaf& leaf, float amax,
                                                  LeafCodes& codes) const {
    const float wanted = numerics::mul_rn(outer, numerics::mul_rn(amax, inner));
    const std::uint32_t code = e4m3_pair(wanted, 0.0f);
    put_e2m1(leaf, E2m1Factor::of_quarter(quarter(code)), code == formats::kE4m3Nan, codes);
    return code;
  }
  template <class Leaf>
  __device__ __forceinline__ std::uint32_t encode_any(const Leaf& leaf, float amax,
                                                      LeafCodes& codes) const {
    return nvfp4_leaf_of_any_scale(in_order(leaf), amax, scale, rule, codes);
  }
};

template <>
struct RowEncoder<formats::Format::kMxfp4> {
  formats::MxRule rule;

  HALFBYTE_HD static RowEncoder given(float, const TileQuantization& how) { return {how.mx_rule}; }
  HALFBYTE_HD static RowEncoder from_amax(float, const TileQuantization& how) {
    return {how.mx_rule};
  }
  __device__ __forceinline__ static RowEncoder of_row(float, const TileQuantization& how) {
    return {how.mx_rule};
  }
  __device__ __forceinline__ float decode() const { return 1.0f; }
  __device__ __forceinline__ bool is_fast() const { return true; }

  // Lanes 2i and 2i + 1 hold one block; all lanes of the warp call it.
  template <class Leaf>
  __device__ __forceinline__ std::uint32_t encode(const Leaf& leaf, float amax,
                                                  LeafCodes& codes) const {
    std::uint32_t most = numerics::abs_bits(amax);
    most = max(most, __shfl_xor_sync(~0u, most, 1));
    const std::uint32_t code = formats::mxfp4_block_scale(numerics::bits_float(most), rule);
    put_e2m1(leaf, E2m1Factor::of(formats::mxfp4_reciprocal(static_cast<std::uint8_t>(code))),
             code == formats::kE8m0Nan, codes);
    return code;
  }
  template <class Leaf>
  __device__ __forceinline__ std::uint32_t encode_any(const Leaf& leaf, float amax,
                                                      LeafCodes& codes) const {
    return encode(leaf, amax, codes);
  }
};

template <>
struct RowEncoder<formats::Format::kFp8> {
  formats::Fp8Scale scale;

  HALFBYTE_HD static RowEncoder given(float decode, const TileQuantization&) {
    return {formats::fp8_scale_given(decode)};
  }
  HALFBYTE_HD static RowEncoder from_amax(float amax, const TileQuantization&) {
    return {formats::fp8_scale_from_amax(amax)};
  }
  __device__ __forceinline__ static RowEncoder of_row(float amax, const TileQuantization& how) {
    return from_amax(amax, how);
  }
  __device__ __forceinline__ float decode() const { return scale.decode; }
  __device__ __forceinline__ bool is_fast() const { return true; }

  template <class Leaf>
  __device__ __forceinline__ std::uint32_t encode(const Leaf& leaf, float, LeafCodes& codes) const {
    float y[kLeaf];
    unpack(leaf, y);
#pragma unroll
    for (int i = 0; i < kLeaf; i += 4) {
      const std::uint32_t low =
          e4m3_pair(numerics::mul_rn(y[i], scale.encode), numerics::mul_rn(y[i + 1], scale.encode));
      const std::uint32_t high = e4m3_pair(numerics::mul_rn(y[i + 2], scale.encode),
                                           numerics::mul_rn(y[i + 3], scale.encode));
      codes.words[i / 4] = low | (high << 16);
    }
    return 0;
  }
  template <class Leaf>
  __device__ __forceinline__ std::uint32_t encode_any(const Leaf& leaf, float amax,
                                                      LeafCodes& codes) const {
    return encode(leaf, amax, codes);
  }
};

// Where the scale of all rows comes from. kRow: a row has its own.
enum class TileScaleFrom : int { kHost, kGiven, kAmax };

// A RowTarget as the kernel takes it: no groups, rows at equal distances, every address aligned to
// 16 bytes, distances below 2^32 bytes.
template <formats::Format F>
struct TileTarget {
  std::uint8_t* codes = nullptr;
  std::uint32_t code_stride = 0;  // bytes between rows
  TileQuantization how;
  TileScales scales[2];
  RowEncoder<F> encoder;  // kHost: of all rows
  TileScaleFrom from = TileScaleFrom::kHost;
  std::uint32_t given_stride = 0;      // elements
  const float* given = nullptr;        // kGiven, or a given scale a row
  const float* tensor_amax = nullptr;  // kAmax
  float* computed_encode = nullptr;
  float* computed_decode = nullptr;
  float* row_scale = nullptr;  // the scale is the row's own
  // For the CTAs that write the padding.
  std::int64_t rows = 0, scale_columns = 0;
  formats::ScaleLayout layouts[2] = {};

  bool scale_a_row() const { return row_scale != nullptr || given_stride != 0; }
};

template <formats::Format F>
TileTarget<F> tile_target(const formats::RowTarget& target) {
  TileTarget<F> result;
  result.codes = target.codes;
  result.code_stride = static_cast<std::uint32_t>(target.code_rows.inner_stride);
  result.how = {target.scale_rule, target.mx_rule};
  for (int i = 0; i < 2; ++i) {
    if (F != formats::Format::kFp8) {
      result.scales[i] = tile_scales(target.scales[i], target.scale_columns());
    }
    result.layouts[i] = target.scales[i].layout;
  }
  result.encoder = RowEncoder<F>::given(target.given_value, result.how);
  if (target.mode == formats::ScaleMode::kComputed) {
    result.from = TileScaleFrom::kAmax;
  } else if (target.given != nullptr) {
    result.from = TileScaleFrom::kGiven;
  }
  result.given = target.given;
  result.given_stride = static_cast<std::uint32_t>(target.given_stride);
  result.tensor_amax = target.tensor_amax;
  result.computed_encode = target.computed_encode;
  result.computed_decode = target.computed_decode;
  result.row_scale = target.mode == formats::ScaleMode::kRow ? target.row_scale : nullptr;
  result.rows = target.rows;
  result.scale_columns = target.scale_columns();
  return result;
}

// Stores the codes of a leaf.
template <formats::Format F>
__device__ __forceinline__ void put_codes(const LeafCodes& codes, std::uint8_t* to) {
  if constexpr (F == formats::Format::kFp8) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(codes.words[0], codes.words[1], codes.words[2], codes.words[3]);
  } else {
    *reinterpret_cast<uint2*>(to) = make_uint2(codes.words[0], codes.words[1]);
  }
}

// The padding of a scale array of tiles: the words (a row's four scales) of the last tiles' rows
// without scales, as pieces of 16 bytes.
struct ScalePadding {
  std::int64_t first_row;  // of the tiles that have such rows
  std::int64_t pieces;     // 0: none

  HALFBYTE_HD ScalePadding(const std::uint8_t* data, formats::ScaleLayout layout, std::int64_t rows,
                           std::int64_t columns) {
    const int shift = layout == formats::ScaleLayout::k128x4 ? 7 : 3;
    first_row = rows >> shift << shift;
    const bool none =
        data == nullptr || layout == formats::ScaleLayout::kLinear || first_row == rows;
    pieces = none ? 0 : ((columns + 3) / 4) << (shift - 2);
  }
};

// Bytes of padding past the last scale column, all rows together.
HALFBYTE_HD std::int64_t odd_columns(const std::uint8_t* data, formats::ScaleLayout layout,
                                     std::int64_t columns) {
  return data == nullptr || layout == formats::ScaleLayout::kLinear ? 0 : -columns & 3;
}

// Threads that put_scale_padding can use; 0: there is no padding.
template <formats::Format F>
std::int64_t scale_padding_threads(const TileTarget<F>& target) {
  std::int64_t most = 0;
  for (int i = 0; i < 2; ++i) {
    const std::uint8_t* data = target.scales[i].data;
    const ScalePadding padding(data, target.layouts[i], target.rows, target.scale_columns);
    most = std::max(
        most, std::max(padding.pieces,
                       target.rows * odd_columns(data, target.layouts[i], target.scale_columns)));
  }
  return most;
}

// Zeros the padding of both scale arrays, thread `thread` of `threads`.
template <formats::Format F>
__device__ void put_scale_padding(const TileTarget<F>& target, std::int64_t thread,
                                  std::int64_t threads) {
  const std::int64_t rows = target.rows, columns = target.scale_columns;
  for (int i = 0; i < 2; ++i) {
    const formats::ScaleLayout layout = target.layouts[i];
    std::uint8_t* data = target.scales[i].data;
    const ScalePadding padding(data, layout, rows, columns);
    const bool tall = layout == formats::ScaleLayout::k128x4;
    const int step = tall ? 32 : 1;  // rows between the words of a piece
    uint4* out = reinterpret_cast<uint4*>(
        data + formats::scale_row_offset(layout, padding.first_row, columns));
    for (std::int64_t piece = thread; piece < padding.pieces; piece += threads) {
      const std::int64_t row = padding.first_row + (tall ? piece & 31 : (piece & 1) * 4);
      if (row >= rows) {
        out[piece] = make_uint4(0, 0, 0, 0);
      } else {
        std::uint32_t* words = reinterpret_cast<std::uint32_t*>(out + piece);
        for (int word = 1; word < 4; ++word) {
          if (row + word * step >= rows) words[word] = 0;
        }
      }
    }
    const std::int64_t odd = odd_columns(data, layout, columns);
    for (std::int64_t byte = thread; byte < odd * rows; byte += threads) {
      data[formats::scale_offset(layout, byte / odd, columns + byte % odd, columns)] = 0;
    }
  }
}

}  // namespace halfbyte::simt
