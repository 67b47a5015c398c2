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

// E4M3's bits moved to where fp32 has them are the value times this. It is left to A's scale, or to
// one product more where there is none.
inline constexpr float kNvfp4StageFactor = 0x1p-120f;

struct Stage {
  // Two words a 16 columns. Plain: columns 0 to 7, then 8 to 15, nibble i column i. Prepared: the
  // even columns, then the odd ones; byte t has columns t and t + 4 of them, low nibble first.
  std::uint32_t words[kSliceWords][kPanelRows];
  // NVFP4: the value * kNvfp4StageFactor. MXFP4: the value, or, for W4A4, two factors of about half
  // the exponent.
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

// A panel of one matrix: rows n, n + 1, .. of the weights; those past the last repeat it. It is
// regular where no row repeats and their distances are one stride.
struct Panel {
  const std::uint8_t* codes;   // plain: of row n, where regular
  std::int64_t stride;         // bytes
  const std::uint8_t* scales;  // plain: of the matrix
  const std::uint8_t* units;   // prepared
  std::int64_t group, n, last;
  bool regular;

  HWY_INLINE Panel(const GemmProblem& problem, std::int64_t of_group, std::int64_t panel)
      : group(of_group), n(panel * kPanelRows), last(problem.n - 1) {
    codes = row_codes(problem, 0);
    stride = problem.b_rows.inner_stride;
    scales = problem.b_scales + group * problem.b_scale_stride;
    units = problem.b_prepared + group * problem.b_prepared_stride +
            unit_offset(problem.format, problem.k, panel, 0);
    regular = n + kPanelRows - 1 <= last && problem.b_rows.inner_rows == problem.b_rows.rows;
  }
  HWY_INLINE std::int64_t row(int i) const { return n + i < last ? n + i : last; }
  HWY_INLINE const std::uint8_t* row_codes(const GemmProblem& problem, int i) const {
    return problem.b_codes + problem.b_rows.offset(group * problem.n + row(i));
  }
};

using Word = hn::Vec<Du>;

// A vector whose 128-bit block b is the 16 bytes at p + 4 * b * stride.
template <class D>
HWY_INLINE hn::Vec<D> load_row_blocks(D d, const std::uint8_t* p, std::int64_t stride) {
  if constexpr (HWY_MAX_BYTES == 16 || sizeof(hn::Vec<D>) == 16) {
    const hn::Repartition<std::uint8_t, D> d8;
    return hn::BitCast(d, hn::LoadU(d8, p));
  } else {
    const hn::Half<D> half;
    const std::int64_t blocks = static_cast<std::int64_t>(hn::Lanes(half)) / 4;
    return hn::Combine(d, load_row_blocks(half, p + 4 * blocks * stride, stride),
                       load_row_blocks(half, p, stride));
  }
}

// Four words of each of kLanes rows.
HWY_INLINE void load_plain_words(const std::uint8_t* p, std::int64_t stride, Word* t) {
  Word r[4];
  for (int j = 0; j < 4; ++j) r[j] = load_row_blocks(Du(), p + j * stride, stride);
  transpose_blocks(r, t);
}

// Where a product takes four words a row from: a stage, or the rows of plain weights themselves.
struct StagedWords {
  const Stage& stage;
  HWY_INLINE void load(int word, std::int64_t lanes, Word* t) const {
    for (int j = 0; j < 4; ++j) t[j] = hn::LoadU(Du(), stage.words[word + j] + lanes);
  }
};
struct PlainWords {
  const std::uint8_t* codes;  // of the slice
  std::int64_t stride;
  HWY_INLINE void load(int word, std::int64_t lanes, Word* t) const {
    load_plain_words(codes + lanes * stride + 4 * word, stride, t);
  }
};

// `bytes` of each row from `offset` on, at most 64; a multiple of 8.
HWY_INLINE void stage_plain_words(const GemmProblem& problem, const Panel& panel,
                                  std::int64_t offset, std::int64_t bytes, Stage& stage) {
  std::uint8_t padded[kPanelRows][kSliceColumns / 2];
  PlainWords words{panel.codes + offset, panel.stride};
  if (HWY_UNLIKELY(!panel.regular || bytes < kSliceColumns / 2)) {
    for (int i = 0; i < kPanelRows; ++i) {
      std::memset(padded[i], 0, sizeof(padded[i]));
      std::memcpy(padded[i], panel.row_codes(problem, i) + offset, static_cast<std::size_t>(bytes));
    }
    words = {padded[0], sizeof(padded[0])};
  }
  for (std::int64_t lanes = 0; lanes < kPanelRows; lanes += kLanes) {
    for (int word = 0; word < kSliceWords; word += 4) {
      Word t[4];
      words.load(word, lanes, t);
      for (int j = 0; j < 4; ++j) hn::StoreU(t[j], Du(), stage.words[word + j] + lanes);
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
        const Word w = load_row_blocks(d, p, 64);  // 256 bytes apart
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
      for (int odd = 0; odd < 2; ++odd) {
        const Word upper_rows = t[2 * odd], lower_rows = t[2 * odd + 1];
#if HWY_TARGET == HWY_AVX3
        // One store, as wide as the loads to come: those of several stores would wait.
        hn::StoreU(hn::ConcatLowerLower(d, upper_rows, lower_rows), d,
                   stage.words[2 * block + odd]);
        hn::StoreU(hn::ConcatUpperUpper(d, upper_rows, lower_rows), d,
                   stage.words[2 * (4 + block) + odd]);
#else
        std::uint32_t* words_of_block = stage.words[2 * (c / 2 * 4 + block) + odd] + c % 2 * 4;
        hn::StoreU(lower_rows, d, words_of_block);
        hn::StoreU(upper_rows, d, words_of_block + 8);
#endif
      }
    }
  }
}

// Sixteen rows a page or so apart are more streams than a processor follows. So a share of the next
// panel's lines is asked for at each slice, in the order of memory where rows are dense.
HWY_INLINE void prefetch_next_panel(const GemmProblem& problem, const Panel& panel,
                                    std::int64_t slice) {
  constexpr std::int64_t kLine = 64;  // of a row and slice
  const std::uint8_t* next_panel = panel.codes + kPanelRows * panel.stride;
  const bool dense = panel.stride % kLine == 0 && panel.stride * 2 == problem.k;
  const std::int64_t step = dense ? kLine : panel.stride;
  const std::uint8_t* p = next_panel + slice * (dense ? kPanelRows * kLine : kLine);
  for (int i = 0; i < kPanelRows; ++i) __builtin_prefetch(p + i * step, 0, 2);
  if (problem.b_layout != ScaleLayout::kLinear) return;
  const std::int64_t columns = problem.blocks(), share = kPanelRows * slice_blocks(problem.format);
  const std::uint8_t* scales = panel.scales + (panel.n + kPanelRows) * columns + slice * share;
  for (std::int64_t i = 0; i < share; i += kLine) __builtin_prefetch(scales + i, 0, 2);
}

// Slice `slice` of the panel, `blocks` of its blocks.
template <WeightForm kForm>
HWY_INLINE void stage_words(const GemmProblem& problem, const Panel& panel, std::int64_t slice,
                            std::int64_t blocks, Stage& stage) {
  if constexpr (kForm == WeightForm::kPrepared) {
    stage_prepared_words(panel.units + slice * unit_bytes(problem.format), stage);
  } else {
    stage_plain_words(problem, panel, slice * (kSliceColumns / 2), blocks * problem.block() / 2,
                      stage);
  }
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
