// The canonical order of a row's sum of squares (docs/numerics.md, "Canonical order of a row sum").
// It depends on the row's values and length alone, so CPU, GPU, any batch and any number of threads
// give the same bits.
#pragma once

#include <cstdint>

#include "halfbyte/base/macros.h"
#include "halfbyte/numerics/rounding.h"

namespace halfbyte::numerics {

inline constexpr int kLeafElements = 16;

// The sum of squares of one leaf of 16 values: the even and the odd elements, each a chain of fma.
// A last short leaf is padded with +0.
HALFBYTE_HD float leaf_sum_of_squares(const float* h) {
  float even = mul_rn(h[0], h[0]);
  float odd = mul_rn(h[1], h[1]);
  for (int i = 2; i < kLeafElements; i += 2) {
    even = fma_rn(h[i], h[i], even);
    odd = fma_rn(h[i + 1], h[i + 1], odd);
  }
  return add_rn(even, odd);
}

// Adds nodes of equal height, given left to right, in a balanced binary tree, lowest bit first,
// padded with +0 to a power of two. Works like a binary counter: partial[l] waits for its sibling.
class TreeSum {
 public:
  HALFBYTE_HD void add(float node) {
    int level = 0;
    for (std::uint64_t carry = count_; (carry & 1u) != 0; carry >>= 1) {
      node = add_rn(partial_[level++], node);
    }
    partial_[level] = node;
    ++count_;
  }

  // Adding the +0 of the padding changes no partial sum (a sum of squares is never -0), so the
  // total folds the waiting partials from the right, lowest level first.
  HALFBYTE_HD float total() const {
    float sum = 0.0f;
    bool any = false;
    int level = 0;
    for (std::uint64_t carry = count_; carry != 0; carry >>= 1, ++level) {
      if ((carry & 1u) == 0) continue;
      sum = any ? add_rn(partial_[level], sum) : partial_[level];
      any = true;
    }
    return sum;
  }

 private:
  float partial_[48];
  std::uint64_t count_ = 0;
};

}  // namespace halfbyte::numerics
