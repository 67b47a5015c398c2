// SIMD kernel of the room, compiled once a CPU level. A row is in cache from its first read to its
// last code, always as T:
//
//   x, residual -> h, into the residual -> leaves -> tree -> rstd
//                  h, weight -> y -> simd/row_quantizer.h
//
// y is made as the row quantizer asks for it, a piece at a time, or where it is an output, or has
// to be known whole, as a row.
#include <type_traits>

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

// What a thread keeps, in floats: the leaf sums, w' where it is not the weight itself, and y where
// it is neither an output nor quantized piece by piece.
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

// w' of type T, as it is.
template <class T>
struct WeightAsIs {
  const T* weight;
  HWY_INLINE Pair operator()(std::int64_t i, std::int64_t count) const {
    return load_pair(weight + i, count);
  }
};

// w' as fp32 pairs, the even elements of each kPairElems before the odd ones. NaNs are made quiet,
// without payload (Element<T>::round_clean).
struct WeightPairs {
  float* weight;
  HWY_INLINE Pair operator()(std::int64_t i, std::int64_t /*count*/) const {
    return {hn::LoadU(Df(), weight + i), hn::LoadU(Df(), weight + i + kLanes)};
  }
};

template <class W>
HWY_INLINE void read_weight(const NormProblem& problem, float* weight) {
  const std::int64_t columns = problem.columns();
  const auto quiet = [](Vf v) HALFBYTE_INLINE_LAMBDA {
    const Vf nan = hn::BitCast(Df(), hn::Set(Du(), 0x7FC00000u));
    return hn::IfThenElse(hn::Eq(v, v), v, nan);
  };
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

// y of a row, any piece of it. Memory would be idle between the sum of one row and that of the
// next: what the next one reads is asked for here.
template <class T, bool kHuggingFace, class Weight>
struct Normaliser {
  const T* h;
  const T* next_x;
  const T* next_residual;  // or nullptr
  Weight weight;
  float rstd;

  HWY_INLINE void operator()(std::int64_t first, std::int64_t count, T* y) const {
    const Vf scale = hn::Set(Df(), rstd);
    std::int64_t i = 0;
    for (; i + kPairElems <= count; i += kPairElems) {
      if (kPairElems * sizeof(T) == 64 || i * static_cast<std::int64_t>(sizeof(T)) % 64 == 0) {
        hwy::Prefetch(next_x + first + i);
        if (next_residual != nullptr) hwy::Prefetch(next_residual + first + i);
      }
      pair(first + i, kPairElems, scale, y + i);
    }
    if (i < count) pair(first + i, count - i, scale, y + i);
  }

  HWY_INLINE void pair(std::int64_t i, std::int64_t count, Vf scale, T* y) const {
    const Pair value = load_pair(h + i, count), w = weight(i, count);
    round_store_pair({of(value.even, w.even, scale), of(value.odd, w.odd, scale)}, y, count);
  }
  static HWY_INLINE Vf of(Vf value, Vf w, Vf scale) {
    value = hn::Mul(value, scale);
    if constexpr (kHuggingFace) value = Element<T>::round_clean(value);
    return hn::Mul(value, w);
  }
};

struct Context {
  const NormProblem& problem;
  std::uint32_t* most;  // bits of the tensor's amax, shared by the threads
};

// A part of the rows, as one thread has them.
template <class T>
class Part {
 public:
  Part(const NormProblem& problem, std::int64_t begin, std::int64_t end, const RowScratch& scratch)
      : problem_(problem),
        begin_(begin),
        end_(end),
        scratch_(scratch),
        quantizer_(problem.target != nullptr ? *problem.target : nothing_) {}

  // Returns the bits of the amax of y where problem.amax is wanted.
  std::uint32_t run() const {
    const bool huggingface = problem_.rounding == Rounding::kHuggingFace;
    // A weight of T is read in place: half the cache of fp32 for two more operations on a pair.
    if (problem_.weight_dtype == problem_.x.dtype && !problem_.weight_bias) {
      const WeightAsIs<T> weight{static_cast<const T*>(problem_.weight)};
      return huggingface ? rows<true>(weight) : rows<false>(weight);
    }
    visit_float(problem_.weight_dtype,
                [&]<class W>(W) { read_weight<W>(problem_, scratch_.weight); });
    const WeightPairs weight{scratch_.weight};
    return huggingface ? rows<true>(weight) : rows<false>(weight);
  }

 private:
  template <bool kHuggingFace, class Weight>
  std::uint32_t rows(const Weight& weight) const {
    std::uint32_t most = 0;
    for (std::int64_t row = begin_; row < end_; ++row) {
      if (row < problem_.rows()) {
        const T* x = row_of<T>(problem_.x, row);
        T* residual = problem_.residual ? row_of<T>(problem_.residual, row) : nullptr;
        const std::int64_t next = row + 1 < end_ && row + 1 < problem_.rows() ? row + 1 : row;
        const Normaliser<T, kHuggingFace, Weight> normalise = {
            residual != nullptr ? residual : x, row_of<T>(problem_.x, next),
            problem_.residual ? row_of<T>(problem_.residual, next) : nullptr, weight,
            row_rstd(problem_, x, residual, scratch_.leaves)};
        const std::uint32_t bits = finish(row, normalise);
        most = bits > most ? bits : most;
      }
      if (problem_.target != nullptr) problem_.target->pad_row(row);
    }
    return most;
  }

  // One row from h to everything that is wanted of it.
  template <bool kHuggingFace, class Weight>
  HWY_INLINE std::uint32_t finish(std::int64_t row,
                                  const Normaliser<T, kHuggingFace, Weight>& normalise) const {
    const std::int64_t columns = problem_.columns();
    // Piece by piece, y never leaves the first-level cache: for the usual options, since it is the
    // row quantizer's code once more for each.
    if constexpr (!kHuggingFace && std::is_same_v<Weight, WeightAsIs<T>>) {
      if (!problem_.y && problem_.amax == nullptr && problem_.target != nullptr &&
          problem_.target->mode != formats::ScaleMode::kRow) {
        const auto make = [&](std::int64_t first, std::int64_t count, T* buffer)
                              HALFBYTE_INLINE_LAMBDA {
                                normalise(first, count, buffer);
                                return static_cast<const T*>(buffer);
                              };
        quantizer_.quantize_made<T>(row, 0.0f, make);
        return 0;
      }
    }
    T* y = problem_.y ? row_of<T>(problem_.y, row) : reinterpret_cast<T*>(scratch_.y);
    normalise(0, columns, y);
    if (problem_.target != nullptr) quantize(row, y);
    return problem_.amax != nullptr ? amax_bits(y, columns) : 0;
  }

  HWY_NOINLINE void quantize(std::int64_t row, const T* y) const { quantizer_.quantize(row, y); }

  const NormProblem& problem_;
  std::int64_t begin_, end_;
  const RowScratch& scratch_;
  formats::RowTarget nothing_;
  RowQuantizer quantizer_;
};

void part(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch memory) {
  const NormProblem& problem = static_cast<const Context*>(context)->problem;
  const RowScratch scratch(problem, reinterpret_cast<float*>(memory.data));
  std::uint32_t most = 0;
  visit_float(problem.x.dtype,
              [&]<class T>(T) { most = Part<T>(problem, begin, end, scratch).run(); });
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
