// The room's part of simt/row_tile.cuh: rows that fit into the registers of a CTA, with every
// address aligned to 16 bytes. silu_mul_cuda.cuh has the kernel for all other rows.
#pragma once

#include "halfbyte/ops/silu_mul/silu_mul_kernels.h"
#include "halfbyte/simt/row_tile.cuh"

namespace halfbyte::ops::cuda {

// numerics::exp for |x| <= kOrdinaryExp: nothing is clamped, and the power of two is normal, so
// that it can be added to the exponent.
inline constexpr float kOrdinaryExp = 80.0f;
__device__ __forceinline__ float ordinary_exp(float x) {
  // Leaves round(x / ln 2) in the low 9 bits.
  constexpr float kShift = numerics::ExpConstants::kShift - 254.0f;
  float shifted;
  const float p = numerics::exp_fraction(x, kShift, shifted);
  return numerics::bits_float(numerics::float_bits(p) + (numerics::float_bits(shifted) << 23));
}

// Plain: no clamp, alpha 1, no up_bias, rounding float32, gate and up in halves.
template <class T, bool kQuantizes_, formats::Format F, bool kPlain_>
struct SiluMulTileSource {
  using Element = T;
  using Y = simt::PairedLeaf<T>;
  struct Raw {
    simt::Packed<T> first, second;  // gate and up; interleaved: the 32 neighbours
  };
  struct Constants {};
  static constexpr bool kSums = false, kUpdates = false, kQuantizes = kQuantizes_, kPlain = kPlain_;
  static constexpr formats::Format kFormat = F;
  static constexpr bool constants_first = false;

  const T* gate_up;
  std::uint32_t stride;  // bytes
  std::int32_t columns;
  int interleave;
  SiluMulRule rule;
  bool clamps;

  __device__ __forceinline__ void prefetch_constants(int) const {}
  __device__ __forceinline__ void load_constants(int, Constants&) const {}
  static __device__ __forceinline__ Raw no_raw() {
    return {simt::zero_leaf<T>(), simt::zero_leaf<T>()};
  }
  __device__ __forceinline__ void fetch(std::uint32_t row, int leaf, Raw& raw) const {
    const bool halves = kPlain || interleave == 0;
    const T* from =
        simt::tile_address(gate_up, row, stride) + (halves ? 1 : 2) * leaf * simt::kLeaf;
    raw = {simt::load_leaf(from), simt::load_leaf(from + (halves ? columns : simt::kLeaf))};
  }

  __device__ __forceinline__ void make(const Raw& raw, Y& result) const {
    float gate[simt::kLeaf], up[simt::kLeaf], y[simt::kLeaf];
    unpack(raw.first, gate);
    unpack(raw.second, up);
    // Bits of magnitudes order as they do, NaN above: of the gates, or of gates and ups together.
    std::uint32_t bits = numerics::float_bits(leaf_amax(raw.first));
    if (!kPlain && interleave != 0) {
      take_apart(gate, up);
      bits = max(bits, numerics::float_bits(leaf_amax(raw.second)));
    }
    const float most = numerics::bits_float(bits);
    const float alpha = kPlain ? 1.0f : rule.alpha;
    const bool ordinary = bits <= numerics::float_bits(kOrdinaryExp) &&
                          (kPlain || numerics::abs_bits(numerics::mul_rn(most, alpha)) <=
                                         numerics::float_bits(kOrdinaryExp));
    if (__builtin_expect(!ordinary, 0)) {
      apply_any(gate, up, y);
      pack(y, result);
      return;
    }
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) {
      if (!kPlain && clamps) {
        gate[i] = clamp_gate(gate[i], rule.clamp);
        up[i] = clamp_up(up[i], rule.clamp);
      }
      const float e = ordinary_exp(-(kPlain ? gate[i] : numerics::mul_rn(alpha, gate[i])));
      y[i] = numerics::mul_rn(gate[i], numerics::device::reciprocal(numerics::add_rn(1.0f, e)));
      if (!kPlain && !numerics::is_zero(rule.up_bias))
        up[i] = numerics::add_rn(up[i], rule.up_bias);
    }
    if (!kPlain && rule.rounding == Rounding::kHuggingFace) {
      pack(y, result);
      unpack(result, y);
    }
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) y[i] = numerics::mul_rn(y[i], up[i]);
    pack(y, result);
  }

 private:
  // From 32 neighbours, gate group first, to gates and ups.
  __device__ __forceinline__ void take_apart(float (&gate)[simt::kLeaf],
                                             float (&up)[simt::kLeaf]) const {
    float all[2 * simt::kLeaf];
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) {
      all[i] = gate[i];
      all[simt::kLeaf + i] = up[i];
    }
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) {
      const int of_8 = i / 8 * 16 + i % 8;
      gate[i] = interleave == 1 ? all[2 * i] : all[of_8];
      up[i] = interleave == 1 ? all[2 * i + 1] : all[of_8 + 8];
    }
  }

  // The definition, for gates at the ends of the range: rare, so small; what is indexed at run time
  // lies in memory.
  __device__ __forceinline__ void apply_any(const float (&gate)[simt::kLeaf],
                                            const float (&up)[simt::kLeaf],
                                            float (&y)[simt::kLeaf]) const {
    float gates[simt::kLeaf], ups[simt::kLeaf], results[simt::kLeaf];
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) {
      gates[i] = gate[i];
      ups[i] = up[i];
    }
#pragma unroll 1
    for (int i = 0; i < simt::kLeaf; ++i) {
      results[i] = numerics::to_float(silu_mul_apply<T>(gates[i], ups[i], rule));
    }
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) y[i] = results[i];
  }
};

}  // namespace halfbyte::ops::cuda
