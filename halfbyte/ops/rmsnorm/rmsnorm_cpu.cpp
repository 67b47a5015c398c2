// SIMD kernel of the room, compiled once a CPU level. A row is in cache from its first read to its
// last code, always as T:
//
//   x, residual -> h, into the residual -> leaves -> tree -> rstd
//                  h, weight -> y, into the output or a scratch row -> simd/row_quantizer.h
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_kernels.h"
#include "halfbyte/simd/row_quantizer.h"
#include "halfbyte/simd/row_sum.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {
namespace {

using numerics::visit_float;
using namespace simd::HALFBYTE_LEVEL;  // NOLINT(google-build-using-namespace)

HWY_INLINE std::int64_t padded(std::int64_t columns) {
  return (columns + kPairElems - 1) / kPairElems * kPairElems;
}

// What a thread keeps, in floats: the leaf sums, w' where it is not the weight itself, y.
struct RowScratch {
  float* leaves;
  float* weight;
  float* y;

  static HWY_INLINE std::int64_t floats(const NormProblem& problem) {
    return row_sum_scratch(problem.columns()) + 2 * padded(problem.columns());
  }
  HWY_INLINE RowScratch(const NormProblem& problem, float* memory)
      : leaves(memory),
        weight(leaves + row_sum_scratch(problem.columns())),
        y(weight + padded(problem.columns())) {}
};

// w' as fp32 pairs, the even elements of each kPairElems before the odd ones. NaNs are made quiet,
// without payload (Element<T>::round_clean).
HWY_INLINE void read_weight(const NormProblem& problem, float* weight) {
  const std::int64_t columns = problem.columns();
  const auto quiet = [](Vf v) {
    const Vf nan = hn::BitCast(Df(), hn::Set(Du(), 0x7FC00000u));
    return hn::IfThenElse(hn::Eq(v, v), v, nan);
  };
  visit_float(problem.weight_dtype, [&]<class W>(W) {
    const W* w = static_cast<const W*>(problem.weight);
    for (std::int64_t i = 0; i < columns; i += kPairElems) {
      Pair value = load_pair(w + i, columns - i);
      if (problem.weight_bias) {
        value.even = hn::Add(value.even, hn::Set(Df(), 1.0f));
        value.odd = hn::Add(value.odd, hn::Set(Df(), 1.0f));
      }
      hn::StoreU(quiet(value.even), Df(), weight + i);
      hn::StoreU(quiet(value.odd), Df(), weight + i + kLanes);
    }
  });
}

template <class T>
HWY_INLINE T* row_of(const Rows& rows, std::int64_t row) {
  return static_cast<T*>(rows.data) + rows.map.offset(row);
}

// h of `count` elements, into the residual.
template <class T>
HWY_INLINE void add_residual(const T* x, T* residual, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kPairElems) {
    const Pair a = load_pair(x + i, count - i), b = load_pair(residual + i, count - i);
    round_store_pair({hn::Add(a.even, b.even), hn::Add(a.odd, b.odd)}, residual + i, count - i);
  }
}

template <class T>
HWY_INLINE float row_rstd(const NormProblem& problem, const T* x, T* residual, float* leaves) {
  const std::int64_t columns = problem.columns();
  const T* h = residual != nullptr ? residual : x;
  RowSum sum(leaves);
  for (std::int64_t i = 0; i < columns; i += kLeafGroup) {
    const std::int64_t count = columns - i < kLeafGroup ? columns - i : kLeafGroup;
    if (residual != nullptr) add_residual(x + i, residual + i, count);
    if (HWY_LIKELY(count == kLeafGroup)) {
      sum.add(h + i);
    } else {
      sum.add_last(h + i, count);
    }
  }
  const float rstd = rmsnorm_rstd(sum.take(), columns, problem.eps);
  return numerics::is_nan(rstd) ? numerics::bits_float(0x7FC00000u) : rstd;
}

// y from h. `weight_of(i)` is the pair of w' at i. Memory would be idle from here to the next row:
// what that reads is asked for now.
template <class T, bool kHuggingFace, class WeightOf>
HWY_INLINE void normalise(const T* h, float rstd, std::int64_t columns, const WeightOf& weight_of,
                          const T* next_x, const T* next_residual, T* y) {
  const Vf scale = hn::Set(Df(), rstd);
  const auto of = [&](Vf value, Vf weight) {
    value = hn::Mul(value, scale);
    if constexpr (kHuggingFace) value = Element<T>::round_clean(value);
    return hn::Mul(value, weight);
  };
  for (std::int64_t i = 0; i < columns; i += kPairElems) {
    hwy::Prefetch(next_x + i);
    hwy::Prefetch(next_residual + i);
    const Pair value = load_pair(h + i, columns - i), weight = weight_of(i);
    round_store_pair({of(value.even, weight.even), of(value.odd, weight.odd)}, y + i, columns - i);
  }
}

struct Context {
  const NormProblem& problem;
  std::uint32_t* most;  // bits of the tensor's amax, shared by the threads
};

template <class T, bool kHuggingFace, class WeightOf>
HWY_INLINE std::uint32_t rows_of(const NormProblem& problem, std::int64_t begin, std::int64_t end,
                                 const RowScratch& scratch, const WeightOf& weight_of) {
  const formats::RowTarget nothing;
  const bool quantizes = problem.target != nullptr;
  const RowQuantizer quantizer(quantizes ? *problem.target : nothing);
  const std::int64_t columns = problem.columns();
  std::uint32_t most = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    if (row < problem.rows()) {
      const T* x = row_of<T>(problem.x, row);
      T* residual = problem.residual ? row_of<T>(problem.residual, row) : nullptr;
      const float rstd = row_rstd(problem, x, residual, scratch.leaves);
      T* y = problem.y ? row_of<T>(problem.y, row) : reinterpret_cast<T*>(scratch.y);
      const std::int64_t next = row + 1 < end && row + 1 < problem.rows() ? row + 1 : row;
      const T* next_x = row_of<T>(problem.x, next);
      const T* next_residual = problem.residual ? row_of<T>(problem.residual, next) : next_x;
      normalise<T, kHuggingFace>(residual != nullptr ? residual : x, rstd, columns, weight_of,
                                 next_x, next_residual, y);
      if (problem.amax != nullptr) {
        const std::uint32_t bits = amax_bits(y, columns);
        most = bits > most ? bits : most;
      }
      if (quantizes) quantizer.quantize(row, y);
    }
    if (quantizes) problem.target->pad_row(row);
  }
  return most;
}

void part(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch memory) {
  const NormProblem& problem = static_cast<const Context*>(context)->problem;
  const RowScratch scratch(problem, reinterpret_cast<float*>(memory.data));
  std::uint32_t most = 0;
  read_weight(problem, scratch.weight);
  const auto weight_of = [&](std::int64_t i) -> Pair {
    return {hn::LoadU(Df(), scratch.weight + i), hn::LoadU(Df(), scratch.weight + i + kLanes)};
  };
  visit_float(problem.x.dtype, [&]<class T>(T) {
    most = problem.rounding == Rounding::kHuggingFace
               ? rows_of<T, true>(problem, begin, end, scratch, weight_of)
               : rows_of<T, false>(problem, begin, end, scratch, weight_of);
  });
  if (problem.amax != nullptr) simd::atomic_max(static_cast<const Context*>(context)->most, most);
}

}  // namespace

void rmsnorm_rows(const NormProblem& problem, int num_threads) {
  std::uint32_t most = 0;
  const Context context{problem, &most};
  const std::int64_t rows =
      problem.target != nullptr ? problem.target->padded_rows() : problem.rows();
  simd::parallel_rows(rows, problem.columns(), num_threads,
                      static_cast<std::size_t>(RowScratch::floats(problem)) * sizeof(float), part,
                      &context);
  if (problem.amax != nullptr) *problem.amax = numerics::bits_float(most);
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
