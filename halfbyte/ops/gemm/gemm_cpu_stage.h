// A slice of kPanelRows rows of weights, brought into one order: a word of eight codes a row, rows
// in lanes, and the scales as fp32. Included by gemm_cpu.cpp alone, once a CPU level.
//
//   plain     16 bytes of each row at a time, transposed in registers
//   prepared  the words of a unit (gemm_weights_math.h), their bytes sorted by row
#pragma once

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/simd/codecs.h"
#include "halfbyte/simd/row_sum.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {

using namespace simd::HALFBYTE_LEVEL;  // NOLINT(google-build-using-namespace)

inline constexpr int kPanelRows = kTileRows;
inline constexpr int kSliceWords = kSliceColumns / 8;
inline constexpr int kMostBlocks = kSliceColumns / 16;

struct Stage {
  // Two words a 16 columns. Plain: columns 0 to 7, then 8 to 15, nibble i column i. Prepared: the
  // even columns, then the odd ones; byte t has columns t and t + 4 of them, low nibble first.
  std::uint32_t words[kSliceWords][kPanelRows];
  // NVFP4 and W4A16: the value. W4A4 MXFP4: two factors of about half the exponent.
  float scales[2][kMostBlocks][kPanelRows];
};

// What a nibble of a staged word means: plain the code, prepared its magnitude above its sign.
template <WeightForm kForm>
HWY_INLINE constexpr int code_of_nibble(int nibble) {
  return kForm == WeightForm::kPlain ? nibble : (nibble >> 1) | (nibble & 1) << 3;
}
// The word (0 or 1 of its 16 columns) and the nibble where column `column` of 0 to 15 is.
template <WeightForm kForm>
HWY_INLINE constexpr int word_of_column(int column) {
  return kForm == WeightForm::kPlain ? column / 8 : column % 2;
}
template <WeightForm kForm>
HWY_INLINE constexpr int nibble_of_column(int column) {
  return kForm == WeightForm::kPlain ? column % 8 : column / 2 % 4 * 2 + column / 8;
}

// A panel of one matrix: rows n, n + 1, .. of the weights; those past the last repeat it.
struct Panel {
  const std::uint8_t* rows[kPanelRows];  // plain codes
  const std::uint8_t* scales;            // plain: of the matrix
  const std::uint8_t* units;             // prepared
  std::int64_t n, last;

  HWY_INLINE Panel(const GemmProblem& problem, std::int64_t group, std::int64_t panel)
      : n(panel * kPanelRows), last(problem.n - 1) {
    scales = problem.b_scales + group * problem.b_scale_stride;
    units = problem.b_prepared + group * problem.b_prepared_stride +
            unit_offset(problem.format, problem.k, panel, 0);
    for (int i = 0; i < kPanelRows; ++i) {
      rows[i] = problem.b_codes + problem.b_rows.offset(group * problem.n + row(i));
    }
  }
  HWY_INLINE std::int64_t row(int i) const { return n + i < last ? n + i : last; }
};

using Word = hn::Vec<Du>;

// A vector whose 128-bit block b is the 16 bytes at rows[4 * b] + offset.
template <class D>
HWY_INLINE hn::Vec<D> load_row_blocks(D d, const std::uint8_t* const* rows, std::int64_t offset) {
  if constexpr (HWY_MAX_BYTES == 16 || sizeof(hn::Vec<D>) == 16) {
    const hn::Repartition<std::uint8_t, D> d8;
    return hn::BitCast(d, hn::LoadU(d8, rows[0] + offset));
  } else {
    const hn::Half<D> half;
    const std::int64_t blocks = static_cast<std::int64_t>(hn::Lanes(half)) / 4;
    return hn::Combine(d, load_row_blocks(half, rows + 4 * blocks, offset),
                       load_row_blocks(half, rows, offset));
  }
}

// The 4 x 4 words in the 128-bit blocks of four vectors, transposed.
HWY_INLINE void transpose_blocks(const Word* r, Word* t) {
  const Du d;
  const hn::Repartition<std::uint64_t, Du> d64;
  const auto lower01 = hn::BitCast(d64, hn::InterleaveLower(d, r[0], r[1]));
  const auto upper01 = hn::BitCast(d64, hn::InterleaveUpper(d, r[0], r[1]));
  const auto lower23 = hn::BitCast(d64, hn::InterleaveLower(d, r[2], r[3]));
  const auto upper23 = hn::BitCast(d64, hn::InterleaveUpper(d, r[2], r[3]));
  t[0] = hn::BitCast(d, hn::InterleaveLower(d64, lower01, lower23));
  t[1] = hn::BitCast(d, hn::InterleaveUpper(d64, lower01, lower23));
  t[2] = hn::BitCast(d, hn::InterleaveLower(d64, upper01, upper23));
  t[3] = hn::BitCast(d, hn::InterleaveUpper(d64, upper01, upper23));
}

// `bytes` of each row from `offset` on, at most 64; a multiple of 8.
HWY_INLINE void stage_plain_words(const std::uint8_t* const* rows, std::int64_t offset,
                                  std::int64_t bytes, Stage& stage) {
  std::uint8_t padded[kPanelRows][kSliceColumns / 2];
  const std::uint8_t* copies[kPanelRows];
  if (HWY_UNLIKELY(bytes < kSliceColumns / 2)) {
    for (int i = 0; i < kPanelRows; ++i) {
      std::memset(padded[i], 0, sizeof(padded[i]));
      std::memcpy(padded[i], rows[i] + offset, static_cast<std::size_t>(bytes));
      copies[i] = padded[i];
    }
    rows = copies;
    offset = 0;
  }
  for (std::int64_t panel_row = 0; panel_row < kPanelRows; panel_row += kLanes) {
    for (int word = 0; word < kSliceWords; word += 4) {
      Word r[4], t[4];
      for (int j = 0; j < 4; ++j) {
        r[j] = load_row_blocks(Du(), rows + panel_row + j, offset + 4 * word);
      }
      transpose_blocks(r, t);
      for (int j = 0; j < 4; ++j) hn::StoreU(t[j], Du(), stage.words[word + j] + panel_row);
    }
  }
}

// The scale bytes of a slice, rows in lanes.
struct ScaleBytes {
  std::uint8_t bytes[kMostBlocks][kPanelRows];
};

// Eight bytes of sixteen rows, transposed.
HWY_INLINE void transpose_scale_bytes(const std::uint8_t* const* rows, ScaleBytes& to) {
  const hn::Full128<std::uint8_t> d;
  const hn::Half<decltype(d)> d64;
  hn::Vec<decltype(d)> v[8], w[8];
  for (int i = 0; i < 8; ++i) {
    v[i] = hn::InterleaveLower(d, hn::ZeroExtendVector(d, hn::LoadU(d64, rows[i])),
                               hn::ZeroExtendVector(d, hn::LoadU(d64, rows[i + 8])));
  }
  // Each step interleaves what is `distance` apart; the lower halves are the first blocks.
  for (int i = 0; i < 4; ++i) {
    w[i] = hn::InterleaveLower(d, v[i], v[i + 4]);
    w[i + 4] = hn::InterleaveUpper(d, v[i], v[i + 4]);
  }
  for (int half = 0; half < 8; half += 4) {
    for (int i = 0; i < 2; ++i) {
      v[half + i] = hn::InterleaveLower(d, w[half + i], w[half + i + 2]);
      v[half + i + 2] = hn::InterleaveUpper(d, w[half + i], w[half + i + 2]);
    }
  }
  for (int pair = 0; pair < 8; pair += 2) {
    hn::StoreU(hn::InterleaveLower(d, v[pair], v[pair + 1]), d, to.bytes[pair]);
    hn::StoreU(hn::InterleaveUpper(d, v[pair], v[pair + 1]), d, to.bytes[pair + 1]);
  }
}

HWY_INLINE void gather_scale_bytes(const GemmProblem& problem, const Panel& panel,
                                   std::int64_t first_block, std::int64_t blocks, ScaleBytes& to) {
  const std::int64_t columns = problem.blocks();
  if (problem.b_layout != ScaleLayout::kLinear) {
    for (int i = 0; i < kPanelRows; ++i) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        to.bytes[b][i] = panel.scales[formats::scale_offset(problem.b_layout, panel.row(i),
                                                            first_block + b, columns)];
      }
    }
    return;
  }
  const std::uint8_t* rows[kPanelRows];
  for (int i = 0; i < kPanelRows; ++i)
    rows[i] = panel.scales + panel.row(i) * columns + first_block;
  if (HWY_LIKELY(blocks == kMostBlocks)) {
    transpose_scale_bytes(rows, to);
    return;
  }
  for (int i = 0; i < kPanelRows; ++i) {
    for (std::int64_t b = 0; b < blocks; ++b) to.bytes[b][i] = rows[i][b];
  }
}

// E4M3, where no byte is a NaN: sign, exponent and significand moved to where fp32 has them.
HWY_INLINE Vf e4m3_values_not_nan(const std::uint8_t* p) {
  const hn::Rebind<std::int8_t, Di> d8;
  const Vi bytes = hn::PromoteTo(Di(), hn::LoadU(d8, reinterpret_cast<const std::int8_t*>(p)));
  const Vi bits =
      hn::And(hn::ShiftLeft<20>(bytes), hn::Set(Di(), static_cast<std::int32_t>(0x87F00000u)));
  return hn::Mul(hn::BitCast(Df(), bits), hn::Set(Df(), 0x1p120f));
}

HWY_INLINE bool any_nan(const ScaleBytes& scales, std::int64_t blocks) {
  std::uint32_t found = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (int i = 0; i < kPanelRows; ++i) found |= (scales.bytes[b][i] & 0x7Fu) == 0x7Fu ? 1u : 0u;
  }
  return found != 0;
}

HWY_INLINE void stage_e4m3(const ScaleBytes& scales, std::int64_t blocks, Stage& stage) {
  const bool nan = any_nan(scales, blocks);
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (std::int64_t i = 0; i < kPanelRows; i += kLanes) {
      const std::uint8_t* p = scales.bytes[b] + i;
      const Vf value = HWY_UNLIKELY(nan) ? e4m3_values(load_bytes(p)) : e4m3_values_not_nan(p);
      hn::StoreU(value, Df(), stage.scales[0][b] + i);
    }
  }
}

// UE8M0: the value, or, for W4A4, 2^e as 2^ceil(e / 2) * 2^floor(e / 2). (A's first factor has the
// floor, so that neither product of two factors is beyond 2^127.)
HWY_INLINE void stage_e8m0(const ScaleBytes& scales, std::int64_t blocks, bool factors,
                           Stage& stage) {
  const Di d;
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (std::int64_t i = 0; i < kPanelRows; i += kLanes) {
      const Vi code = load_bytes(scales.bytes[b] + i);
      if (!factors) {
        hn::StoreU(e8m0_values(code), Df(), stage.scales[0][b] + i);
        continue;
      }
      const Vi e = hn::Sub(code, hn::Set(d, 127));
      const Vi up = hn::ShiftRight<1>(hn::Add(e, hn::Set(d, 1)));
      const Vi down = hn::Sub(e, up);
      const Vi one = hn::Set(d, 127);
      const Vi factor = hn::ShiftLeft<23>(hn::Add(up, one));
      const Vi rest = hn::ShiftLeft<23>(hn::Add(down, one));
      const auto nan = hn::Eq(code, hn::Set(d, 255));
      hn::StoreU(hn::BitCast(Df(), hn::IfThenElse(nan, hn::Set(d, 0x7FC00000), factor)), Df(),
                 stage.scales[0][b] + i);
      hn::StoreU(hn::BitCast(Df(), rest), Df(), stage.scales[1][b] + i);
    }
  }
}

// The words of a prepared unit: 16 bytes at (i, t) + 256 * c are row i + 4 * (c % 2) and the one 8
// below it, columns 2t .. of four blocks, those from 4 * (c / 2) on.
HWY_INLINE void stage_prepared_words(const std::uint8_t* unit, Stage& stage) {
  const Du d;
  const hn::Repartition<std::uint8_t, Du> d8;
  const hn::Repartition<std::uint16_t, Du> d16;
  constexpr int kBlocks128 = static_cast<int>(kLanes) / 4;  // values of c a vector
  for (int c = 0; c < 4; c += kBlocks128) {
    Word words[4][4];  // [block][i]
    for (int i = 0; i < 4; ++i) {
      hn::Vec<decltype(d8)> y[4];
      for (int t = 0; t < 4; ++t) {
        const std::uint8_t* p = unit + 256 * c + i * 64 + t * 16;
        const std::uint8_t* blocks[16] = {p,       nullptr, nullptr, nullptr, p + 256,
                                          nullptr, nullptr, nullptr, p + 512, nullptr,
                                          nullptr, nullptr, p + 768};
        const Word w = load_row_blocks(d, blocks, 0);
        // Nibbles: magnitude above sign; the codes of the low columns in the low nibble of a byte.
        const Word low = hn::Or(hn::And(w, hn::Set(d, 0x0E0E0E0Eu)),
                                hn::And(hn::ShiftRight<7>(w), hn::Set(d, 0x01010101u)));
        const Word magnitude =
            hn::And(hn::Xor(hn::ShiftLeft<1>(w), hn::ShiftLeft<11>(w)), hn::Set(d, 0xE0E0E0E0u));
        const Word sign =
            hn::And(hn::Xor(hn::ShiftRight<6>(w), hn::ShiftLeft<4>(w)), hn::Set(d, 0x10101010u));
        y[t] = hn::BitCast(d8, hn::Or(low, hn::Or(magnitude, sign)));
      }
      const auto lower01 = hn::BitCast(d16, hn::InterleaveLower(d8, y[0], y[1]));
      const auto upper01 = hn::BitCast(d16, hn::InterleaveUpper(d8, y[0], y[1]));
      const auto lower23 = hn::BitCast(d16, hn::InterleaveLower(d8, y[2], y[3]));
      const auto upper23 = hn::BitCast(d16, hn::InterleaveUpper(d8, y[2], y[3]));
      words[0][i] = hn::BitCast(d, hn::InterleaveLower(d16, lower01, lower23));
      words[1][i] = hn::BitCast(d, hn::InterleaveUpper(d16, lower01, lower23));
      words[2][i] = hn::BitCast(d, hn::InterleaveLower(d16, upper01, upper23));
      words[3][i] = hn::BitCast(d, hn::InterleaveUpper(d16, upper01, upper23));
    }
    for (int block = 0; block < 4; ++block) {
      // Of the four bytes of a word: even columns of row + 8, of row, odd ones of row + 8, of row.
      Word t[4];
      transpose_blocks(words[block], t);
      for (int j = 0; j < 4; ++j) {
        alignas(64) std::uint32_t lanes[kLanes];
        hn::Store(t[j], d, lanes);
        for (int v = 0; v < kBlocks128; ++v) {
          const int at = c + v;
          std::memcpy(
              stage.words[2 * (at / 2 * 4 + block) + j / 2] + (j % 2 == 0 ? 8 : 0) + at % 2 * 4,
              lanes + 4 * v, 16);
        }
      }
    }
  }
}

HWY_INLINE void stage_prepared_nvfp4_scales(const std::uint8_t* unit, Stage& stage) {
  const hn::CappedTag<std::uint32_t, 8> d;
  const hn::RebindToFloat<decltype(d)> df;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int row = 0; row < 8; row += lanes) {
    std::uint32_t words[4 * 8];
    std::memcpy(words, unit + kUnitCodeBytes + row * 16, static_cast<std::size_t>(lanes) * 16);
    hn::Vec<decltype(d)> w[4];
    hn::LoadInterleaved4(d, words, w[0], w[1], w[2], w[3]);
    for (int j = 0; j < 4; ++j) {
      const auto plain = hn::Or(hn::ShiftRight<7>(w[j]), hn::ShiftLeft<25>(w[j]));
      const hn::Vec<decltype(d)> moved[4] = {hn::ShiftLeft<20>(plain), hn::ShiftLeft<12>(plain),
                                             hn::ShiftLeft<4>(plain), hn::ShiftRight<4>(plain)};
      for (int i = 0; i < 4; ++i) {
        // The byte as five bits of exponent and three of significand; from 0xF8 on it is a NaN.
        const auto bits = hn::And(moved[i], hn::Set(d, 0x0FF00000u));
        const auto value = hn::Mul(hn::BitCast(df, bits), hn::Set(df, 0x1p105f));
        const auto nan = hn::RebindMask(df, hn::Gt(bits, hn::Set(d, 0x0F7FFFFFu)));
        hn::StoreU(hn::IfThenElse(nan, hn::NaN(df), value), df,
                   stage.scales[0][2 * j + i % 2] + row + i / 2 * 8);
      }
    }
  }
}

HWY_INLINE void stage_prepared_mxfp4_scales(const std::uint8_t* unit, std::int64_t blocks,
                                            bool factors, Stage& stage) {
  ScaleBytes scales;
  for (int i = 0; i < kPanelRows; ++i) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      scales.bytes[b][i] = unit[mxfp4_scale_offset(i, static_cast<int>(b))];
    }
  }
  stage_e8m0(scales, blocks, factors, stage);
}

// Slice `slice` of the panel, `blocks` of its blocks.
template <WeightForm kForm>
HWY_INLINE void stage_slice(const GemmProblem& problem, const Panel& panel, std::int64_t slice,
                            std::int64_t blocks, Stage& stage) {
  const bool nvfp4 = problem.format == Format::kNvfp4, factors = problem.quantized;
  if constexpr (kForm == WeightForm::kPrepared) {
    const std::uint8_t* unit = panel.units + slice * unit_bytes(problem.format);
    stage_prepared_words(unit, stage);
    if (nvfp4) {
      stage_prepared_nvfp4_scales(unit, stage);
    } else {
      stage_prepared_mxfp4_scales(unit, blocks, factors, stage);
    }
  } else {
    stage_plain_words(panel.rows, slice * (kSliceColumns / 2), blocks * problem.block() / 2, stage);
    ScaleBytes scales;
    gather_scale_bytes(problem, panel, slice * slice_blocks(problem.format), blocks, scales);
    if (nvfp4) {
      stage_e4m3(scales, blocks, stage);
    } else {
      stage_e8m0(scales, blocks, factors, stage);
    }
  }
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
