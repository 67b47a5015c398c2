// The canonical row sum (numerics/row_sum.h) over vectors: one leaf a lane.
#pragma once

#include "halfbyte/simd/vectors.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

// Elements of kLanes leaves, and the floats of scratch that sum_of_squares needs for a row.
inline constexpr std::int64_t kLeafGroup = 16 * kLanes;
HWY_INLINE std::int64_t row_sum_scratch(std::int64_t columns) {
  std::int64_t leaves = 2 * kLanes;
  while (leaves * 16 < columns) leaves *= 2;
  return leaves;
}

// The 4 x 4 words in the 128-bit blocks of four vectors, transposed.
HWY_INLINE void transpose_blocks(const hn::Vec<Du>* r, hn::Vec<Du>* t) {
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

namespace row_sum_detail {

// A vector whose 128-bit block b is the four 32-bit values at p + b * stride.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const hn::TFromD<D>* p, std::int64_t stride) {
  if constexpr (HWY_MAX_BYTES == 16 || sizeof(hn::Vec<D>) == 16) {
    (void)stride;
    return hn::LoadU(d, p);
  } else {
    const hn::Half<D> half;
    const std::int64_t blocks = static_cast<std::int64_t>(hn::Lanes(half)) / 4;
    return hn::Combine(d, load_blocks(half, p + blocks * stride, stride),
                       load_blocks(half, p, stride));
  }
}

// Lane l of t[i] is value i of the four at p + l * stride.
HWY_INLINE void load_transposed(const std::uint32_t* p, std::int64_t stride, hn::Vec<Du>* t) {
  // Block b of r[j] holds four values of lane 4b + j; they are transposed inside each block.
  hn::Vec<Du> r[4];
  for (int j = 0; j < 4; ++j) r[j] = load_blocks(Du(), p + j * stride, 4 * stride);
  transpose_blocks(r, t);
}

// The next link of the leaves' two chains. fma(h, h, +0) is fl(h^2), the first one.
HWY_INLINE void add_squares(Pair h, Pair& sum) {
  sum.even = hn::MulAdd(h.even, h.even, sum.even);
  sum.odd = hn::MulAdd(h.odd, h.odd, sum.odd);
}

// The leaves of kLeafGroup elements, one a lane.
template <class T>
HWY_INLINE Vf leaf_sums(const T* h) {
  constexpr int kWords = 16 * sizeof(T) / 4;  // 32-bit words a leaf
  const auto* words = reinterpret_cast<const std::uint32_t*>(h);
  Pair sum = {hn::Zero(Df()), hn::Zero(Df())};
  for (int word = 0; word < kWords; word += 4) {
    hn::Vec<Du> t[4];
    load_transposed(words + word, kWords, t);
    if constexpr (sizeof(T) == 2) {
      for (const auto& pair_words : t) add_squares(Element<T>::split(pair_words), sum);
    } else {
      add_squares({hn::BitCast(Df(), t[0]), hn::BitCast(Df(), t[1])}, sum);
      add_squares({hn::BitCast(Df(), t[2]), hn::BitCast(Df(), t[3])}, sum);
    }
  }
  return hn::Add(sum.even, sum.odd);
}

}  // namespace row_sum_detail

// The sum of squares of a row that is given kLeafGroup elements at a time, in order.
class RowSum {
 public:
  // `leaves`: row_sum_scratch(columns) floats.
  explicit HWY_INLINE RowSum(float* leaves) : leaves_(leaves) {}

  template <class T>
  HWY_INLINE void add(const T* group) {
    hn::StoreU(row_sum_detail::leaf_sums(group), Df(), leaves_ + count_);
    count_ += kLanes;
  }
  template <class T>
  HWY_INLINE void add_last(const T* group, std::int64_t count) {
    T padded[kLeafGroup] = {};
    std::memcpy(static_cast<void*>(padded), group, static_cast<std::size_t>(count) * sizeof(T));
    add(padded);
  }

  // The tree above the leaves; the object is empty again.
  HWY_INLINE float take() {
    std::int64_t width = 2 * kLanes;
    while (width < count_) width *= 2;
    for (; count_ < width; count_ += kLanes) hn::StoreU(hn::Zero(Df()), Df(), leaves_ + count_);
    for (; width > kLanes; width /= 2) {
      for (std::int64_t i = 0; i < width / 2; i += kLanes) {
        const Vf a = hn::LoadU(Df(), leaves_ + 2 * i),
                 b = hn::LoadU(Df(), leaves_ + 2 * i + kLanes);
        const Vf sum = hn::Add(hn::ConcatEven(Df(), b, a), hn::ConcatOdd(Df(), b, a));
        hn::StoreU(sum, Df(), leaves_ + i);
      }
    }
    Vf sum = hn::LoadU(Df(), leaves_);
    for (; width > 1; width /= 2) {
      sum = hn::Add(hn::ConcatEven(Df(), sum, sum), hn::ConcatOdd(Df(), sum, sum));
    }
    count_ = 0;
    return hn::GetLane(sum);
  }

 private:
  float* leaves_;
  std::int64_t count_ = 0;
};

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
