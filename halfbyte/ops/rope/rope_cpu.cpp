// SIMD kernel of the room, compiled once a CPU level.
//
//   a token's cos, sin -> table (fp32, L1), in the order in which the pairs' lanes need it
//   each head:  x -> pairs, a group at a time -> y; the elements beside them are copied
#include <cstring>

#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/rope/rope_kernels.h"
#include "halfbyte/simd/threads.h"
#include "halfbyte/simd/vectors.h"
#include "hwy/cache_control.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {
namespace {

using numerics::Bf16;
using numerics::visit_float;
using namespace simd::HALFBYTE_LEVEL;  // NOLINT(google-build-using-namespace)

// Stores of a vector: through the caches, or past them where kStream (p aligned to the vector).
template <bool kStream, class V, class D, class P>
HWY_INLINE void put(V v, D d, P* p) {
  if constexpr (kStream) {
    hn::Stream(v, d, p);
  } else {
    hn::StoreU(v, d, p);
  }
}

// kLanes elements, rounded to T.
template <bool kStream, class T>
HWY_INLINE void put_rounded(Vf v, T* p) {
  if constexpr (sizeof(T) == 4) {
    put<kStream>(v, Df(), p);
  } else {
    using E = Element<T>;
    put<kStream>(hn::DemoteTo(typename E::Dh(), v), typename E::Dh(),
                 reinterpret_cast<typename E::Raw*>(p));
  }
}

template <class T>
HWY_INLINE Vf get(const T* p) {
  return Element<T>::load(reinterpret_cast<const typename Element<T>::Raw*>(p));
}

// Two bf16 a 32-bit lane: the even elements of memory in the low halves.
using D16 = hn::Repartition<std::uint16_t, Df>;
using Vu = hn::Vec<Du>;

HWY_INLINE Vu get_dwords(const Bf16* p) {
  return hn::BitCast(Du(), hn::LoadU(D16(), reinterpret_cast<const std::uint16_t*>(p)));
}
HWY_INLINE Vf even_of(Vu dwords) { return hn::BitCast(Df(), hn::ShiftLeft<16>(dwords)); }
HWY_INLINE Vf odd_of(Vu dwords) {
  return hn::BitCast(Df(), hn::And(dwords, hn::Set(Du(), 0xFFFF0000u)));
}
// Rounds both to bf16, 16-bit lanes at a time: up, if what is cut off is more than half, or half
// and the rest odd.
//
// There is no case for NaN. Every NaN here is the result of an operation, so quiet, and its payload
// that of a bf16 x or of table_value(): nothing is cut off that could carry.
template <bool kStream>
HWY_INLINE void put_dwords(Vf even, Vf odd, Bf16* p) {
  const D16 d;
  const Vu low = hn::BitCast(Du(), even), high = hn::BitCast(Du(), odd);
  const auto kept = hn::OddEven(hn::BitCast(d, high), hn::BitCast(d, hn::ShiftRight<16>(low)));
  const auto cut = hn::OddEven(hn::BitCast(d, hn::ShiftLeft<16>(high)), hn::BitCast(d, low));
  const auto is_even = hn::AndNot(kept, hn::Set(d, 1));
  const auto up = hn::ShiftRight<15>(hn::SaturatedSub(cut, is_even));
  put<kStream>(hn::Add(kept, up), d, reinterpret_cast<std::uint16_t*>(p));
}

// kLanes values of a table, +0 past `count`. A NaN becomes the one that put_dwords bears.
HWY_INLINE Vf table_value(const float* p, std::int64_t count) {
  if (count <= 0) return hn::Zero(Df());
  const Vf v = load_elements(p, count);
  return hn::IfThenElse(hn::Eq(v, v), v, hn::BitCast(Df(), hn::Set(Du(), 0x7FC00000u)));
}

// A group: kPairs pairs, rotated together. prepare() writes kTableFloats floats from kPairs (or, at
// the end, `count`) values of cos and sin; rotate() takes the pairs from `i` on of a head whose
// halves are `half` elements apart.

// Half-split pairs, kLanes a and kLanes b. Table: c, s.
template <class T>
struct NeoxGroup {
  static constexpr std::int64_t kPairs = kLanes, kTableFloats = 2 * kLanes;

  static HWY_INLINE void prepare(const float* cos, const float* sin, std::int64_t count, Vf sign,
                                 float* table) {
    hn::Store(table_value(cos, count), Df(), table);
    hn::Store(hn::Xor(table_value(sin, count), sign), Df(), table + kLanes);
  }
  template <bool kStream>
  static HWY_INLINE void rotate(const T* x, T* y, std::int64_t i, std::int64_t half,
                                const float* table) {
    const Vf c = hn::Load(Df(), table), s = hn::Load(Df(), table + kLanes);
    const Vf a = get(x + i), b = get(x + half + i);
    put_rounded<kStream>(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), y + i);
    put_rounded<kStream>(hn::Add(hn::Mul(a, s), hn::Mul(b, c)), y + half + i);
  }
};

// The same for bf16, 2 * kLanes of each. Table: c, s of the even pairs, then of the odd ones.
template <>
struct NeoxGroup<Bf16> {
  static constexpr std::int64_t kPairs = 2 * kLanes, kTableFloats = 4 * kLanes;

  static HWY_INLINE void prepare(const float* cos, const float* sin, std::int64_t count, Vf sign,
                                 float* table) {
    const Vf c0 = table_value(cos, count), c1 = table_value(cos + kLanes, count - kLanes);
    const Vf s0 = hn::Xor(table_value(sin, count), sign);
    const Vf s1 = hn::Xor(table_value(sin + kLanes, count - kLanes), sign);
    hn::Store(hn::ConcatEven(Df(), c1, c0), Df(), table);
    hn::Store(hn::ConcatEven(Df(), s1, s0), Df(), table + kLanes);
    hn::Store(hn::ConcatOdd(Df(), c1, c0), Df(), table + 2 * kLanes);
    hn::Store(hn::ConcatOdd(Df(), s1, s0), Df(), table + 3 * kLanes);
  }
  template <bool kStream>
  static HWY_INLINE void rotate(const Bf16* x, Bf16* y, std::int64_t i, std::int64_t half,
                                const float* table) {
    const Vf c0 = hn::Load(Df(), table), s0 = hn::Load(Df(), table + kLanes);
    const Vf c1 = hn::Load(Df(), table + 2 * kLanes), s1 = hn::Load(Df(), table + 3 * kLanes);
    const Vu a = get_dwords(x + i), b = get_dwords(x + half + i);
    const Vf a0 = even_of(a), a1 = odd_of(a), b0 = even_of(b), b1 = odd_of(b);
    put_dwords<kStream>(hn::Sub(hn::Mul(a0, c0), hn::Mul(b0, s0)),
                        hn::Sub(hn::Mul(a1, c1), hn::Mul(b1, s1)), y + i);
    put_dwords<kStream>(hn::Add(hn::Mul(a0, s0), hn::Mul(b0, c0)),
                        hn::Add(hn::Mul(a1, s1), hn::Mul(b1, c1)), y + half + i);
  }
};

// Interleaved pairs, kLanes of them in two vectors: x * (c, c) + swapped x * (-s, s), which is
// a*c - b*s and b*c + a*s. Table: (c, c).., (-s, s)..
template <class T>
struct GptjGroup {
  static constexpr std::int64_t kPairs = kLanes, kTableFloats = 4 * kLanes;

  static HWY_INLINE void prepare(const float* cos, const float* sin, std::int64_t count, Vf sign,
                                 float* table) {
    const Vf c = table_value(cos, count), s = hn::Xor(table_value(sin, count), sign);
    hn::StoreInterleaved2(c, c, Df(), table);
    hn::StoreInterleaved2(hn::Neg(s), s, Df(), table + 2 * kLanes);
  }
  template <bool kStream>
  static HWY_INLINE void rotate(const T* x, T* y, std::int64_t i, std::int64_t /*half*/,
                                const float* table) {
    const Vf x0 = get(x + 2 * i), x1 = get(x + 2 * i + kLanes);
    put_rounded<kStream>(rotated(x0, table), y + 2 * i);
    put_rounded<kStream>(rotated(x1, table + kLanes), y + 2 * i + kLanes);
  }

 private:
  static HWY_INLINE Vf rotated(Vf x, const float* table) {
    const Vf c = hn::Load(Df(), table), s = hn::Load(Df(), table + 2 * kLanes);
    return hn::Add(hn::Mul(x, c), hn::Mul(hn::Shuffle2301(x), s));
  }
};

// The same for bf16: a pair is a 32-bit lane. Table: c, s.
template <>
struct GptjGroup<Bf16> {
  static constexpr std::int64_t kPairs = kLanes, kTableFloats = 2 * kLanes;

  static HWY_INLINE void prepare(const float* cos, const float* sin, std::int64_t count, Vf sign,
                                 float* table) {
    NeoxGroup<float>::prepare(cos, sin, count, sign, table);
  }
  template <bool kStream>
  static HWY_INLINE void rotate(const Bf16* x, Bf16* y, std::int64_t i, std::int64_t /*half*/,
                                const float* table) {
    const Vf c = hn::Load(Df(), table), s = hn::Load(Df(), table + kLanes);
    const Vu pairs = get_dwords(x + 2 * i);
    const Vf a = even_of(pairs), b = odd_of(pairs);
    put_dwords<kStream>(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)),
                        hn::Add(hn::Mul(a, s), hn::Mul(b, c)), y + 2 * i);
  }
};

template <class Group>
HWY_INLINE void prepare_table(const RopeProblem& problem, std::int64_t token, float* table) {
  const std::int64_t position = problem.position(token), half = problem.rope_dim / 2;
  const float* cos = problem.cos + position * problem.cos_stride;
  const float* sin = problem.sin + position * problem.sin_stride;
  const Vf sign = hn::BitCast(Df(), hn::Set(Du(), problem.inverse ? 0x80000000u : 0u));
  for (std::int64_t i = 0; i < half; i += Group::kPairs, table += Group::kTableFloats) {
    Group::prepare(cos + i, sin + i, half - i, sign, table);
  }
}

// The rotated elements of a head; x and y point to the first.
template <class Group, bool kStream, class T>
HWY_INLINE void rotate_head(const T* x, T* y, std::int64_t half, bool neox, const float* table) {
  std::int64_t i = 0;
  for (; i + Group::kPairs <= half; i += Group::kPairs, table += Group::kTableFloats) {
    Group::template rotate<kStream>(x, y, i, half, table);
  }
  if (i == half) return;
  // The last pairs, fewer than a group, in a buffer: as the halves, or in a row.
  const auto bytes = static_cast<std::size_t>(half - i) * sizeof(T);
  T buffer[2 * Group::kPairs] = {};
  T* second = neox ? buffer + Group::kPairs : buffer + (half - i);
  const std::int64_t first_at = neox ? i : 2 * i, second_at = half + i;
  std::memcpy(static_cast<void*>(buffer), x + first_at, bytes);
  std::memcpy(static_cast<void*>(second), x + second_at, bytes);
  Group::template rotate<false>(buffer, buffer, 0, Group::kPairs, table);
  std::memcpy(static_cast<void*>(y + first_at), buffer, bytes);
  std::memcpy(static_cast<void*>(y + second_at), second, bytes);
}

template <class Group, bool kStream, class T>
HWY_INLINE void rotate_rows(const RopeProblem& problem, std::int64_t begin, std::int64_t end,
                            float* table) {
  // In locals: the compiler cannot tell that y does not lie over the problem.
  const std::int64_t heads = problem.heads, half = problem.rope_dim / 2;
  const std::int64_t x_stride = problem.x.head_stride, y_stride = problem.y.head_stride;
  const std::int64_t first = problem.rope_offset, last = first + problem.rope_dim;
  const std::int64_t after = problem.head_dim - last;
  const bool neox = problem.style == RopeStyle::kNeox;
  const bool copies = !problem.in_place && problem.rope_dim != problem.head_dim;
  std::int64_t token = begin / heads, head = begin % heads;
  for (std::int64_t row = begin; row < end; ++token, head = 0) {
    prepare_table<Group>(problem, token, table);
    const T* x = static_cast<const T*>(problem.x.data) + token * problem.x.token_stride;
    T* y = static_cast<T*>(problem.y.data) + token * problem.y.token_stride;
    for (; head < heads && row < end; ++head, ++row) {
      const T* from = x + head * x_stride;
      T* to = y + head * y_stride;
      if (copies) {
        std::memcpy(static_cast<void*>(to), from, static_cast<std::size_t>(first) * sizeof(T));
        std::memcpy(static_cast<void*>(to + last), from + last,
                    static_cast<std::size_t>(after) * sizeof(T));
      }
      rotate_head<Group, kStream>(from + first, to + first, half, neox, table);
    }
  }
  if constexpr (kStream) hwy::FlushStream();
}

// Streaming stores want whole vectors at aligned addresses, in every head.
template <class T>
HWY_INLINE bool may_stream(const RopeProblem& problem) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  return problem.streaming && reinterpret_cast<std::uintptr_t>(problem.y.data) % 64 == 0 &&
         problem.y.token_stride % kLine == 0 && problem.y.head_stride % kLine == 0 &&
         problem.rope_offset % kLine == 0 && problem.rope_dim / 2 % kLine == 0;
}

template <class Group, class T>
HWY_INLINE void run(const RopeProblem& problem, std::int64_t begin, std::int64_t end,
                    float* table) {
  if (may_stream<T>(problem)) {
    rotate_rows<Group, true, T>(problem, begin, end, table);
  } else {
    rotate_rows<Group, false, T>(problem, begin, end, table);
  }
}

void part(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch scratch) {
  const RopeProblem& problem = *static_cast<const RopeProblem*>(context);
  float* table = reinterpret_cast<float*>(scratch.data);
  visit_float(problem.dtype, [&]<class T>(T) {
    if (problem.style == RopeStyle::kNeox) {
      run<NeoxGroup<T>, T>(problem, begin, end, table);
    } else {
      run<GptjGroup<T>, T>(problem, begin, end, table);
    }
  });
}

}  // namespace

void rope(const RopeProblem& problem, int num_threads) {
  // At most four floats a pair, pairs in whole groups.
  const std::int64_t groups = (problem.rope_dim / 2 + 2 * kLanes - 1) / (2 * kLanes);
  simd::parallel_rows(problem.tokens * problem.heads, problem.head_dim, num_threads,
                      static_cast<std::size_t>(groups * 8 * kLanes) * sizeof(float), part,
                      &problem);
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
