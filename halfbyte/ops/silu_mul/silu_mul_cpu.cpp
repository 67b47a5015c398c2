// SIMD kernel of the room, compiled once a CPU level. A row of y is in cache from its first element
// to its last code:
//
//   gate, up (two vectors each at a time) -> y as T -> amax, simd/row_quantizer.h
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/silu_mul/silu_mul_kernels.h"
#include "halfbyte/simd/exp.h"
#include "halfbyte/simd/row_quantizer.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {
namespace {

using numerics::visit_float;
using namespace simd::HALFBYTE_LEVEL;  // NOLINT(google-build-using-namespace)

// silu_mul_math.h's silu_mul_apply over lanes, its constants broadcast; the last rounding to T is
// left to the store.
template <class T, Rounding kRounding>
class Activate {
 public:
  explicit HWY_INLINE Activate(const SiluMulRule& rule)
      : high_(hn::Set(Df(), rule.clamp)),
        low_(hn::Neg(high_)),
        minus_alpha_(hn::Set(Df(), -rule.alpha)),
        // v + -0 is v, bit by bit: no bias is no addition.
        up_bias_(hn::Set(Df(), numerics::is_zero(rule.up_bias) ? -0.0f : rule.up_bias)) {}

  HWY_INLINE Vf operator()(Vf gate, Vf up) const {
    gate = at_most(gate, high_);
    up = at_least(at_most(up, high_), low_);
    const Vf one = hn::Set(Df(), 1.0f);
    const Vf sig = hn::Div(one, hn::Add(one, exp(hn::Mul(minus_alpha_, gate))));
    Vf s = hn::Mul(gate, sig);
    if constexpr (kRounding == Rounding::kHuggingFace) s = Element<T>::round_clean(s);
    return hn::Mul(s, hn::Add(up, up_bias_));
  }
  HWY_INLINE Pair operator()(Pair gate, Pair up) const {
    return {(*this)(gate.even, up.even), (*this)(gate.odd, up.odd)};
  }

 private:
  Vf high_, low_, minus_alpha_, up_bias_;
};

// kPairElems gates and as many ups, those of the even columns apart from those of the odd ones.
struct GateUp {
  Pair gate, up;
};

// Of a row in two halves.
template <class T>
HWY_INLINE GateUp load_halves(const T* gate, const T* up) {
  return {load_pair(gate), load_pair(up)};
}

// Of a row that alternates, at `in`. 16-bit types: a word holds gate and up of one column ..
template <class T>
HWY_INLINE GateUp load_interleaved_by_1(const T* in) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(in);
  const auto first = hn::LoadU(Du(), words), second = hn::LoadU(Du(), words + kLanes);
  const Pair even = Element<T>::split(hn::ConcatEven(Du(), second, first));
  const Pair odd = Element<T>::split(hn::ConcatOdd(Du(), second, first));
  return {{even.even, odd.even}, {even.odd, odd.odd}};
}
HWY_INLINE GateUp load_interleaved_by_1(const float* in) {
  const Pair first = load_pair(in), second = load_pair(in + kPairElems);
  const Df d;
  return {{hn::ConcatEven(d, second.even, first.even), hn::ConcatOdd(d, second.even, first.even)},
          {hn::ConcatEven(d, second.odd, first.odd), hn::ConcatOdd(d, second.odd, first.odd)}};
}

// .. or has eight gates, eight ups and so on: 16-bit types have four words of each.
template <class T>
HWY_INLINE GateUp load_interleaved_by_8(const T* in) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(in);
  const Du d;
#if HWY_TARGET == HWY_AVX3
  const auto first = hn::LoadU(d, words), second = hn::LoadU(d, words + kLanes);
  const decltype(first) gate{_mm512_shuffle_i32x4(first.raw, second.raw, 0x88)};
  const decltype(first) up{_mm512_shuffle_i32x4(first.raw, second.raw, 0xDD)};
#elif HWY_TARGET == HWY_AVX2
  const hn::Half<Du> half;
  const auto gate = hn::Combine(d, hn::LoadU(half, words + 8), hn::LoadU(half, words));
  const auto up = hn::Combine(d, hn::LoadU(half, words + 12), hn::LoadU(half, words + 4));
#else
  static_assert(kLanes == 4);
  const auto gate = hn::LoadU(d, words), up = hn::LoadU(d, words + 4);
#endif
  return {Element<T>::split(gate), Element<T>::split(up)};
}
HWY_INLINE GateUp load_interleaved_by_8(const float* in) {
  alignas(64) float gate[kPairElems], up[kPairElems];
  for (int i = 0; i < static_cast<int>(kPairElems); i += 8) {
    std::memcpy(gate + i, in + 2 * i, 8 * sizeof(float));
    std::memcpy(up + i, in + 2 * i + 8, 8 * sizeof(float));
  }
  return load_halves(gate, up);
}

// The hardware's prefetcher stops at page ends, and arithmetic hides what a fetch costs only when
// it has begun in time: 1.5 KiB ahead, into the next row at a row's end.
template <class T>
HWY_INLINE void prefetch_ahead(const T* p) {
  constexpr int kAheadBytes = 1536;
  constexpr int kLineBytes = 64;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(p) + kAheadBytes;
  for (std::size_t i = 0; i < kPairElems * sizeof(T); i += kLineBytes) hwy::Prefetch(bytes + i);
}

template <class T, Rounding kRounding>
HWY_INLINE void activate_row_rounded(const SiluMulProblem& problem, const T* in, T* y) {
  const Activate<T, kRounding> activate(problem.rule);
  const std::int64_t columns = problem.columns;
  const std::int64_t whole = columns / kPairElems * kPairElems;
  const auto put =
      [&](const GateUp& of, std::int64_t k, std::int64_t count)
          HALFBYTE_INLINE_LAMBDA { round_store_pair(activate(of.gate, of.up), y + k, count); };
  if (problem.interleave == 0) {
    for (std::int64_t k = 0; k < whole; k += kPairElems) {
      prefetch_ahead(in + k);
      prefetch_ahead(in + columns + k);
      put(load_halves(in + k, in + columns + k), k, kPairElems);
    }
  } else if (problem.interleave == 1) {
    for (std::int64_t k = 0; k < whole; k += kPairElems) {
      prefetch_ahead(in + 2 * k);
      prefetch_ahead(in + 2 * k + kPairElems);
      put(load_interleaved_by_1(in + 2 * k), k, kPairElems);
    }
  } else {
    for (std::int64_t k = 0; k < whole; k += kPairElems) {
      prefetch_ahead(in + 2 * k);
      prefetch_ahead(in + 2 * k + kPairElems);
      put(load_interleaved_by_8(in + 2 * k), k, kPairElems);
    }
  }
  if (whole == columns) return;
  T gate[kPairElems] = {}, up[kPairElems] = {};
  for (std::int64_t k = whole; k < columns; ++k) {
    gate[k - whole] = in[gate_column(k, problem.interleave)];
    up[k - whole] = in[up_column(k, columns, problem.interleave)];
  }
  put(load_halves(gate, up), whole, columns - whole);
}

// y of one row.
template <class T>
HWY_INLINE void activate_row(const SiluMulProblem& problem, const T* in, T* y) {
  if (problem.rule.rounding == Rounding::kHuggingFace) {
    activate_row_rounded<T, Rounding::kHuggingFace>(problem, in, y);
  } else {
    activate_row_rounded<T, Rounding::kFloat32>(problem, in, y);
  }
}

template <class T>
HWY_INLINE T* row_of(const Rows& rows, std::int64_t row) {
  return static_cast<T*>(rows.data) + rows.map.offset(row);
}

struct Context {
  const SiluMulProblem& problem;
  std::uint32_t* most;  // bits of the tensor's amax, shared by the threads
};

void part(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch scratch) {
  const SiluMulProblem& problem = static_cast<const Context*>(context)->problem;
  const formats::RowTarget nothing;
  const bool quantizes = problem.target != nullptr;
  const RowQuantizer quantizer(quantizes ? *problem.target : nothing);
  std::uint32_t most = 0;
  begin += problem.first_row;
  end += problem.first_row;
  visit_float(problem.gate_up.dtype, [&]<class T>(T) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (row < problem.rows()) {
        T* y = problem.y ? row_of<T>(problem.y, row) : reinterpret_cast<T*>(scratch.data);
        activate_row(problem, row_of<const T>(problem.gate_up, row), y);
        if (problem.amax != nullptr) {
          const std::uint32_t bits = amax_bits(y, problem.columns);
          most = bits > most ? bits : most;
        }
        if (quantizes) quantizer.quantize(row, y);
      }
      if (quantizes) problem.target->pad_row(row);
    }
  });
  if (problem.amax != nullptr) simd::atomic_max(static_cast<const Context*>(context)->most, most);
}

}  // namespace

void silu_mul_rows(const SiluMulProblem& problem, int num_threads) {
  std::uint32_t most = 0;
  const Context context{problem, &most};
  const std::int64_t rows = problem.end_padded_row() - problem.first_row;
  const std::size_t scratch_bytes =
      problem.y ? 0 : static_cast<std::size_t>(problem.columns) * sizeof(float);
  simd::parallel_rows(rows, problem.columns, num_threads, scratch_bytes, part, &context);
  if (problem.amax != nullptr) *problem.amax = numerics::bits_float(most);
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
