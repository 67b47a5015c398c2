// The canonical row sum (numerics/row_sum.h) over vectors: one leaf a lane.
#pragma once

#include "halfbyte/simd/vectors.h"

namespace halfbyte::simd::HALFBYTE_LEVEL {

// Floats of scratch that sum_of_squares needs for a row of `columns`.
HWY_INLINE std::int64_t row_sum_scratch(std::int64_t columns) {
  std::int64_t leaves = kLanes;
  while (leaves * 16 < columns) leaves *= 2;
  return leaves;
}

// Floats that a row of h must hold, the ones past `columns` zero: whole groups of kLanes leaves.
HWY_INLINE std::int64_t padded_row_elems(std::int64_t columns) {
  const std::int64_t group = 16 * kLanes;
  return (columns + group - 1) / group * group;
}

namespace row_sum_detail {

// A vector whose 128-bit block b is the four floats at p + b * stride.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* p, std::int64_t stride) {
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

// The leaves 0 .. kLanes - 1 that start at h, one a lane.
HWY_INLINE Vf leaf_sums(const float* h) {
  const Df d;
  const hn::Repartition<std::uint64_t, Df> d64;
  Vf even = hn::Zero(d), odd = hn::Zero(d);
  for (int quarter = 0; quarter < 4; ++quarter) {
    // Block b of r[j] holds four elements of leaf 4b + j; transposing inside each block makes lane
    // 4b + j of t[i] their element i.
    Vf r[4];
    for (int j = 0; j < 4; ++j) r[j] = load_blocks(d, h + j * 16 + quarter * 4, 64);
    const auto lower01 = hn::BitCast(d64, hn::InterleaveLower(d, r[0], r[1]));
    const auto upper01 = hn::BitCast(d64, hn::InterleaveUpper(d, r[0], r[1]));
    const auto lower23 = hn::BitCast(d64, hn::InterleaveLower(d, r[2], r[3]));
    const auto upper23 = hn::BitCast(d64, hn::InterleaveUpper(d, r[2], r[3]));
    const Vf t0 = hn::BitCast(d, hn::InterleaveLower(d64, lower01, lower23));
    const Vf t1 = hn::BitCast(d, hn::InterleaveUpper(d64, lower01, lower23));
    const Vf t2 = hn::BitCast(d, hn::InterleaveLower(d64, upper01, upper23));
    const Vf t3 = hn::BitCast(d, hn::InterleaveUpper(d64, upper01, upper23));
    // fma(h, h, +0) is fl(h^2), as the first link of the chain.
    even = hn::MulAdd(t2, t2, hn::MulAdd(t0, t0, even));
    odd = hn::MulAdd(t3, t3, hn::MulAdd(t1, t1, odd));
  }
  return hn::Add(even, odd);
}

}  // namespace row_sum_detail

// `h` has padded_row_elems(columns) floats, zero past `columns`; `leaves` row_sum_scratch(columns).
HWY_INLINE float sum_of_squares(const float* h, std::int64_t columns, float* leaves) {
  const std::int64_t width = row_sum_scratch(columns);
  const std::int64_t filled = padded_row_elems(columns) / 16;
  for (std::int64_t leaf = 0; leaf < filled; leaf += kLanes) {
    hn::StoreU(row_sum_detail::leaf_sums(h + leaf * 16), Df(), leaves + leaf);
  }
  for (std::int64_t leaf = filled; leaf < width; ++leaf) leaves[leaf] = 0.0f;
  for (std::int64_t n = width; n > 1; n /= 2) {
    for (std::int64_t i = 0; i < n / 2; ++i) leaves[i] = leaves[2 * i] + leaves[2 * i + 1];
  }
  return leaves[0];
}

}  // namespace halfbyte::simd::HALFBYTE_LEVEL
