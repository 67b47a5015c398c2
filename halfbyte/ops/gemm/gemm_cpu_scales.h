// The block scales of a slice as fp32, rows in lanes (Stage::scales). Included by gemm_cpu.cpp
// alone, once a CPU level.
#pragma once

#include "halfbyte/ops/gemm/gemm_cpu_stage.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {

// The scale bytes of a slice, eight a row; those of a slice of four blocks are the first four.
struct ScaleBytes {
  std::uint8_t row[kPanelRows][kMostBlocks];
};

HWY_INLINE void gather_scale_bytes(const GemmProblem& problem, const Panel& panel,
                                   std::int64_t first_block, std::int64_t blocks, ScaleBytes& to) {
  const std::int64_t columns = problem.blocks();
  std::memset(&to, 0, sizeof(to));
  if (problem.b_layout != ScaleLayout::kLinear) {
    for (int i = 0; i < kPanelRows; ++i) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        to.row[i][b] = panel.scales[formats::scale_offset(problem.b_layout, panel.row(i),
                                                          first_block + b, columns)];
      }
    }
    return;
  }
  for (int i = 0; i < kPanelRows; ++i) {
    const std::uint8_t* from = panel.scales + panel.row(i) * columns + first_block;
    for (std::int64_t b = 0; b < blocks; ++b) to.row[i][b] = from[b];
  }
}

// Eight bytes of each of kLanes rows as two words a row.
template <class D>
HWY_INLINE hn::Vec<D> load_row_halves(D d, const std::uint8_t* p, std::int64_t stride) {
  const hn::Half<D> half;
  if constexpr (HWY_MAX_BYTES == 16 || sizeof(hn::Vec<D>) == 16) {
    const hn::Repartition<std::uint8_t, hn::Half<D>> d8;
    return hn::Combine(d, hn::BitCast(half, hn::LoadU(d8, p + stride)),
                       hn::BitCast(half, hn::LoadU(d8, p)));
  } else {
    const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(half));
    return hn::Combine(d, load_row_halves(half, p + lanes * stride, stride),
                       load_row_halves(half, p, stride));
  }
}
HWY_INLINE void load_scale_words(const std::uint8_t* p, std::int64_t stride, Word* words) {
  const hn::Repartition<std::uint64_t, Du> d64;
  const auto first = hn::BitCast(Du(), load_row_halves(d64, p, stride));
  const auto second = hn::BitCast(Du(), load_row_halves(d64, p + kLanes / 2 * stride, stride));
  words[0] = hn::ConcatEven(Du(), second, first);
  words[1] = hn::ConcatOdd(Du(), second, first);
}

// Byte `byte` of the words.
HWY_INLINE Vi byte_of(Word word, int byte) {
  return hn::BitCast(Di(), hn::And(hn::ShiftRightSame(word, 8 * byte), hn::Set(Du(), 0xFF)));
}

// Byte `byte` as E4M3 times kNvfp4StageFactor, where it is no NaN: sign, exponent and significand
// moved to where fp32 has them.
HWY_INLINE Vf moved_e4m3(Word word, int byte) {
  const Vi top = hn::BitCast(Di(), hn::ShiftLeftSame(word, 24 - 8 * byte));
  const Vi mask = hn::Set(Di(), static_cast<std::int32_t>(0x87F00000u));
  return hn::BitCast(Df(), hn::And(hn::ShiftRight<4>(top), mask));
}

// Eight blocks' scales of kLanes rows.
HWY_INLINE void stage_e4m3(const Word* words, std::int64_t row, Stage& stage) {
  const hn::Repartition<std::uint8_t, Du> d8;
  const auto magnitude = hn::Set(d8, 0x7F);
  const auto first = hn::And(hn::BitCast(d8, words[0]), magnitude);
  const auto second = hn::And(hn::BitCast(d8, words[1]), magnitude);
  const bool nan = !hn::AllFalse(d8, hn::Eq(hn::Max(first, second), magnitude));
  for (int b = 0; b < kMostBlocks; ++b) {
    Vf value = moved_e4m3(words[b / 4], b % 4);
    if (HWY_UNLIKELY(nan)) {
      const Vi code = hn::And(byte_of(words[b / 4], b % 4), hn::Set(Di(), 0x7F));
      const auto is_nan = hn::RebindMask(Df(), hn::Eq(code, hn::Set(Di(), 0x7F)));
      value = hn::IfThenElse(is_nan, hn::NaN(Df()), value);
    }
    hn::StoreU(value, Df(), stage.scales[0][b] + row);
  }
}

// UE8M0: the value, or, for W4A4, 2^e as 2^ceil(e / 2) * 2^floor(e / 2). (A's first factor has the
// floor, so that neither product of two factors is beyond 2^127.)
HWY_INLINE void stage_e8m0(Word word, std::int64_t row, bool factors, Stage& stage) {
  const Di d;
  for (int b = 0; b < 4; ++b) {
    const Vi code = byte_of(word, b);
    if (!factors) {
      hn::StoreU(e8m0_values(code), Df(), stage.scales[0][b] + row);
      continue;
    }
    const Vi e = hn::Sub(code, hn::Set(d, 127));
    const Vi up = hn::ShiftRight<1>(hn::Add(e, hn::Set(d, 1)));
    const Vi factor = hn::ShiftLeft<23>(hn::Add(up, hn::Set(d, 127)));
    const Vi rest = hn::ShiftLeft<23>(hn::Add(hn::Sub(e, up), hn::Set(d, 127)));
    const Vi checked =
        hn::IfThenElse(hn::Eq(code, hn::Set(d, 255)), hn::Set(d, 0x7FC00000), factor);
    hn::StoreU(hn::BitCast(Df(), checked), Df(), stage.scales[0][b] + row);
    hn::StoreU(hn::BitCast(Df(), rest), Df(), stage.scales[1][b] + row);
  }
}

HWY_INLINE void stage_prepared_nvfp4_scales(const std::uint8_t* unit, Stage& stage) {
  const hn::CappedTag<std::uint32_t, 8> d;
  const hn::RebindToFloat<decltype(d)> df;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int row = 0; row < 8; row += lanes) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(unit + kUnitCodeBytes + row * 16);
    hn::Vec<decltype(d)> w[4];
    hn::LoadInterleaved4(d, words, w[0], w[1], w[2], w[3]);
    for (int j = 0; j < 4; ++j) {
      const auto plain = hn::Or(hn::ShiftRight<7>(w[j]), hn::ShiftLeft<25>(w[j]));
      const hn::Vec<decltype(d)> moved[4] = {hn::ShiftLeft<20>(plain), hn::ShiftLeft<12>(plain),
                                             hn::ShiftLeft<4>(plain), hn::ShiftRight<4>(plain)};
      hn::Vec<decltype(df)> values[4];
      for (int i = 0; i < 4; ++i) {
        // The byte as five bits of exponent and three of significand; from 0xF8 on it is a NaN.
        const auto bits = hn::And(moved[i], hn::Set(d, 0x0FF00000u));
        const auto value =
            hn::Mul(hn::BitCast(df, bits), hn::Set(df, 0x1p105f * kNvfp4StageFactor));
        const auto nan = hn::RebindMask(df, hn::Gt(bits, hn::Set(d, 0x0F7FFFFFu)));
        values[i] = hn::IfThenElse(nan, hn::NaN(df), value);
      }
      for (int odd = 0; odd < 2; ++odd) {
        float* to = stage.scales[0][2 * j + odd] + row;
#if HWY_TARGET == HWY_AVX3
        hn::StoreU(hn::Combine(Df(), values[odd + 2], values[odd]), Df(), to);
#else
        hn::StoreU(values[odd], df, to);
        hn::StoreU(values[odd + 2], df, to + 8);
#endif
      }
    }
  }
}

HWY_INLINE void stage_prepared_mxfp4_scales(const std::uint8_t* unit, bool factors, Stage& stage) {
  for (int row = 0; row < kPanelRows; row += kLanes) {
    std::uint32_t words[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      std::memcpy(words + i, unit + mxfp4_scale_offset(row + i, 0), sizeof(words[i]));
    }
    stage_e8m0(hn::LoadU(Du(), words), row, factors, stage);
  }
}

// The bytes of plain scales. Linear ones are read where they are, eight of each row at a time; four
// are the first or the last of eight.
HWY_INLINE void stage_plain_scales(const GemmProblem& problem, const Panel& panel,
                                   std::int64_t slice, std::int64_t blocks, Stage& stage) {
  const bool nvfp4 = problem.format == Format::kNvfp4;
  const std::int64_t width = nvfp4 ? 8 : 4, columns = problem.blocks(), first = slice * width;
  const bool in_place =
      panel.regular && problem.b_layout == ScaleLayout::kLinear && blocks == width && columns >= 8;
  const bool upper = in_place && first + 8 > columns;  // only where four are wanted
  ScaleBytes bytes;
  const std::uint8_t* p = panel.scales + panel.n * columns + (upper ? first - 4 : first);
  std::int64_t stride = columns;
  if (HWY_UNLIKELY(!in_place)) {
    gather_scale_bytes(problem, panel, first, blocks, bytes);
    p = bytes.row[0];
    stride = kMostBlocks;
  }
  for (std::int64_t row = 0; row < kPanelRows; row += kLanes) {
    Word words[2];
    load_scale_words(p + row * stride, stride, words);
    if (nvfp4) {
      stage_e4m3(words, row, stage);
    } else {
      stage_e8m0(words[upper ? 1 : 0], row, problem.quantized, stage);
    }
  }
}

template <WeightForm kForm>
HWY_INLINE void stage_scales(const GemmProblem& problem, const Panel& panel, std::int64_t slice,
                             std::int64_t blocks, Stage& stage) {
  if constexpr (kForm == WeightForm::kPlain) {
    stage_plain_scales(problem, panel, slice, blocks, stage);
    return;
  }
  const std::uint8_t* unit = panel.units + slice * unit_bytes(problem.format);
  if (problem.format == Format::kNvfp4) {
    stage_prepared_nvfp4_scales(unit, stage);
  } else {
    stage_prepared_mxfp4_scales(unit, problem.quantized, stage);
  }
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
