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

// silu_mul_math.h's silu_mul_apply over lanes, its constants broadcast.
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
    return Element<T>::round_clean(hn::Mul(s, hn::Add(up, up_bias_)));
  }
  HWY_INLINE Pair operator()(Pair gate, Pair up) const {
    return {(*this)(gate.even, up.even), (*this)(gate.odd, up.odd)};
  }

 private:
  Vf high_, low_, minus_alpha_, up_bias_;
};

template <class T>
HWY_INLINE Vf load(const T* p) {
  return load_elements(p, kLanes);
}

// kPairElems elements of y from as many gates and ups, of a row in two halves.
template <class T, class Activation>
HWY_INLINE void halves(const Activation& activate, const T* gate, const T* up, T* y) {
  store_pair(activate(load_pair(gate), load_pair(up)), y);
}

// The same where `in` alternates gate and up ..
template <class T, class Activation>
HWY_INLINE void interleaved_by_1(const Activation& activate, const T* in, T* y) {
  const Pair first = load_pair(in), second = load_pair(in + kPairElems);
  store_elements(activate(first.even, first.odd), y, kLanes);
  store_elements(activate(second.even, second.odd), y + kLanes, kLanes);
}

// .. or has eight gates, eight ups and so on.
template <class T, class Activation>
HWY_INLINE void interleaved_by_8(const Activation& activate, const T* in, T* y) {
  static_assert(kLanes == 4 || kLanes == 8 || kLanes == 16);
  if constexpr (kLanes == 16) {
    for (int i = 0; i < 2; ++i) {
      const Vf first = load(in + 32 * i), second = load(in + 32 * i + 16);
      const Vf gate = hn::ConcatLowerLower(Df(), second, first);
      const Vf up = hn::ConcatUpperUpper(Df(), second, first);
      store_elements(activate(gate, up), y + 16 * i, kLanes);
    }
  } else {
    constexpr int kNext = kLanes == 8 ? 16 : 4;
    store_elements(activate(load(in), load(in + 8)), y, kLanes);
    store_elements(activate(load(in + kNext), load(in + kNext + 8)), y + kLanes, kLanes);
  }
}

template <class T, Rounding kRounding>
HWY_INLINE void activate_row_rounded(const SiluMulProblem& problem, const T* in, T* y) {
  const Activate<T, kRounding> activate(problem.rule);
  const std::int64_t columns = problem.columns;
  const std::int64_t whole = columns / kPairElems * kPairElems;
  if (problem.interleave == 0) {
    for (std::int64_t i = 0; i < whole; i += kPairElems) {
      halves(activate, in + i, in + columns + i, y + i);
    }
  } else if (problem.interleave == 1) {
    for (std::int64_t i = 0; i < whole; i += kPairElems) {
      interleaved_by_1(activate, in + 2 * i, y + i);
    }
  } else {
    for (std::int64_t i = 0; i < whole; i += kPairElems) {
      interleaved_by_8(activate, in + 2 * i, y + i);
    }
  }
  if (whole == columns) return;
  T gate[kPairElems] = {}, up[kPairElems] = {}, last[kPairElems];
  for (std::int64_t k = whole; k < columns; ++k) {
    gate[k - whole] = in[gate_column(k, problem.interleave)];
    up[k - whole] = in[up_column(k, columns, problem.interleave)];
  }
  halves(activate, gate, up, last);
  std::memcpy(static_cast<void*>(y + whole), last,
              static_cast<std::size_t>(columns - whole) * sizeof(T));
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
  const std::int64_t rows =
      problem.target != nullptr ? problem.target->padded_rows() : problem.rows();
  const std::size_t scratch_bytes =
      problem.y ? 0 : static_cast<std::size_t>(problem.columns) * sizeof(float);
  simd::parallel_rows(rows, problem.columns, num_threads, scratch_bytes, part, &context);
  if (problem.amax != nullptr) *problem.amax = numerics::bits_float(most);
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
