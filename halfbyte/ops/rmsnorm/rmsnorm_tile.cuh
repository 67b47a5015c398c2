// The room's part of simt/row_tile.cuh: rows that fit into the registers of a CTA, with every
// address aligned to 16 bytes. rmsnorm_cuda.cuh has the kernel for all other rows.
#pragma once

#include <type_traits>

#include "halfbyte/ops/rmsnorm/rmsnorm_kernels.h"
#include "halfbyte/simt/row_tile.cuh"

namespace halfbyte::ops::cuda {

// rmsnorm_rstd with one question about the range in place of one an operation.
__device__ __forceinline__ float rmsnorm_ordinary_rstd(float sum, float columns,
                                                       float columns_reciprocal, float eps) {
  using namespace numerics;
  if (__builtin_expect(!device::is_ordinary(sum) || !(device::is_ordinary(eps) || is_zero(eps)),
                       0)) {
    return rmsnorm_rstd(sum, static_cast<std::int64_t>(columns), eps);
  }
  const float mean = device::divide_ordinary(sum, columns, columns_reciprocal);
  return device::reciprocal(device::ordinary_square_root(add_rn(mean, eps)));
}

template <class T, bool kResidual>
struct NormTileRaw {
  simt::Packed<T> x, residual;
};
template <class T>
struct NormTileRaw<T, false> {
  simt::Packed<T> x;
};

// What a kernel is compiled for. Plain: the weight is T without bias, rounding is float32.
template <class T, bool kResidual_, bool kQuantizes_, formats::Format F, bool kPlain_>
struct NormTileSource {
  using Element = T;
  using Y = std::conditional_t<kQuantizes_ || !kPlain_, simt::PairedLeaf<T>, simt::Packed<T>>;
  using Raw = NormTileRaw<T, kResidual_>;
  struct Constants {
    float weight[simt::kLeaf];  // w'
  };
  static constexpr bool kSums = true, kQuantizes = kQuantizes_, kPlain = kPlain_;
  static constexpr bool kUpdates = kResidual_;
  static constexpr formats::Format kFormat = F;

  const T* x;
  T* residual;
  std::uint32_t x_stride, residual_stride;  // bytes
  const void* weight;
  bool weight_is_fp32, weight_bias, constants_first;
  Rounding rounding;
  float eps;
  float columns, columns_reciprocal;  // H and fl(1 / H)

  __device__ __forceinline__ void prefetch_constants(int leaf) const {
    const char* address = static_cast<const char*>(weight) +
                          leaf * simt::kLeaf * (weight_is_fp32 ? sizeof(float) : sizeof(T));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
  }
  __device__ __forceinline__ void load_constants(int leaf, Constants& constants) const {
    if (!kPlain && weight_is_fp32) {
      unpack(simt::load_leaf(static_cast<const float*>(weight) + leaf * simt::kLeaf),
             constants.weight);
    } else {
      unpack(simt::load_leaf(static_cast<const T*>(weight) + leaf * simt::kLeaf), constants.weight);
    }
    if constexpr (!kPlain) {
#pragma unroll
      for (int i = 0; i < simt::kLeaf; ++i) {
        constants.weight[i] = rmsnorm_weight(constants.weight[i], weight_bias);
      }
    }
  }

  // Of plain sources: as it lies in memory.
  __device__ __forceinline__ simt::Packed<T> packed_constants(int leaf) const {
    return simt::load_leaf(static_cast<const T*>(weight) + leaf * simt::kLeaf);
  }

  static __device__ __forceinline__ Raw no_raw() {
    Raw raw;
    raw.x = simt::zero_leaf<T>();
    if constexpr (kUpdates) raw.residual = simt::zero_leaf<T>();
    return raw;
  }
  __device__ __forceinline__ T* residual_leaf(std::uint32_t row, int leaf) const {
    return simt::tile_address(residual, row, residual_stride) + leaf * simt::kLeaf;
  }
  // Where long rows come from.
  __device__ __forceinline__ const T* x_row(std::uint32_t row) const {
    return simt::tile_address(x, row, x_stride);
  }
  __device__ __forceinline__ const T* updated_row(std::uint32_t row) const {
    return simt::tile_address(residual, row, residual_stride);
  }
  __device__ __forceinline__ void fetch(std::uint32_t row, int leaf, Raw& raw) const {
    raw.x = simt::load_leaf(simt::tile_address(x, row, x_stride) + leaf * simt::kLeaf);
  }
  static __device__ __forceinline__ void clear_updated(Raw& raw) {
    raw.residual = simt::zero_leaf<T>();
  }
  __device__ __forceinline__ void fetch_updated(std::uint32_t row, int leaf, Raw& raw) const {
    raw.residual = simt::load_leaf(residual_leaf(row, leaf));
  }
  __device__ __forceinline__ simt::Packed<T> load(const Raw& raw) const {
    if constexpr (!kUpdates) {
      return raw.x;
    } else {
      float h[simt::kLeaf], residual_values[simt::kLeaf];
      unpack(raw.x, h);
      unpack(raw.residual, residual_values);
#pragma unroll
      for (int i = 0; i < simt::kLeaf; ++i) h[i] = numerics::add_rn(h[i], residual_values[i]);
      simt::Packed<T> rounded;
      pack(h, rounded);
      return rounded;
    }
  }
  __device__ __forceinline__ void store_update(const simt::Packed<T>& h, std::uint32_t row,
                                               int leaf) const {
    simt::store_leaf(h, residual_leaf(row, leaf));
  }

  __device__ __forceinline__ void store_updates(const simt::Packed<T>& h, std::uint32_t row,
                                                int leaf, int leaves) const {
    simt::store_leaf_of_row(h, residual_leaf(row, 0), leaf, leaves);
  }

  __device__ __forceinline__ float row_value(float sum) const {
    return rmsnorm_ordinary_rstd(sum, columns, columns_reciprocal, eps);
  }

  __device__ __forceinline__ void finish(const float (&h)[simt::kLeaf], float rstd,
                                         const Constants& constants, Y& result) const {
    float y[simt::kLeaf];
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) y[i] = numerics::mul_rn(h[i], rstd);
    if (!kPlain && rounding == Rounding::kHuggingFace) {
      pack(y, result);
      unpack(result, y);
    }
#pragma unroll
    for (int i = 0; i < simt::kLeaf; ++i) y[i] = numerics::mul_rn(y[i], constants.weight[i]);
    pack(y, result);
  }
};

}  // namespace halfbyte::ops::cuda
