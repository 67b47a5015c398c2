// The room's part of simt/row_tile.cuh: rows that fit into the registers of a CTA, with every
// address aligned to 16 bytes. quantize_cuda.cuh has the kernels for all other rows.
#pragma once

#include "halfbyte/ops/quantize/quantize_kernels.h"
#include "halfbyte/simt/tile_launch.cuh"

namespace halfbyte::ops::cuda {

// kQuantize = false: the tensor's amax alone.
template <class T, bool kQuantizes_, formats::Format F, bool kPlain_>
struct QuantizeTileSource {
  using Element = T;
  using Y = simt::Packed<T>;
  using Raw = simt::Packed<T>;
  struct Constants {};
  static constexpr bool kSums = false, kUpdates = false, kQuantizes = kQuantizes_, kPlain = kPlain_;
  static constexpr formats::Format kFormat = F;
  static constexpr bool constants_first = false;

  const T* x;
  std::uint32_t stride;  // bytes

  __device__ __forceinline__ void prefetch_constants(int) const {}
  __device__ __forceinline__ void load_constants(int, Constants&) const {}
  static __device__ __forceinline__ Raw no_raw() { return simt::zero_leaf<T>(); }
  __device__ __forceinline__ void fetch(std::uint32_t row, int leaf, Raw& raw) const {
    raw = simt::load_leaf(simt::tile_address(x, row, stride) + leaf * simt::kLeaf);
  }
  __device__ __forceinline__ void make(const Raw& raw, Y& y) const { y = raw; }
};

inline simt::TilePlan quantize_tile_plan(const Rows& x, const formats::RowTarget* target,
                                         const simt::DeviceProperties& device) {
  if (!simt::takes_tiles(x.data, x.map, base::dtype_bytes(x.dtype)) ||
      x.map.rows >= std::int64_t{1} << 31 || (target != nullptr && !simt::takes_tiles(*target))) {
    return {};
  }
  return simt::tile_plan(
      {.rows = x.map.rows,
       .columns = x.columns,
       .multiprocessors = device.multiprocessors,
       .shared_bytes = simt::most_shared_bytes(),
       .element_bytes = base::dtype_bytes(x.dtype),
       .whole_rows = target != nullptr && target->scale_a_row(),
       .plain = target != nullptr && x.dtype != base::DType::kF32 && simt::is_plain(*target),
       .row_scales = target != nullptr && target->scale_a_row()});
}

template <class Source>
base::Status launch_quantize_tiles(const Rows& x, const formats::RowTarget* target, float* amax,
                                   const simt::TilePlan& plan, const simt::LaunchOptions& options) {
  using T = typename Source::Element;
  Source source = {};
  source.x = static_cast<const T*>(x.data);
  source.stride = simt::stride_bytes(x.map, sizeof(T));
  auto out = simt::tile_outputs<Source::kFormat>(x.map.rows, x.columns, target);
  out.amax = amax;
  return simt::launch_row_tiles(source, out, plan, options);
}

template <class T>
base::Status launch_quantize_tiles(const Rows& x, const formats::RowTarget& target,
                                   const simt::TilePlan& plan, const simt::LaunchOptions& options) {
  return simt::visit_format(target.format, [&](auto format) {
    constexpr formats::Format kFormat = decltype(format)::value;
    if constexpr (sizeof(T) == 2) {
      if (plan.plain) {
        return launch_quantize_tiles<QuantizeTileSource<T, true, kFormat, true>>(
            x, &target, nullptr, plan, options);
      }
    }
    return launch_quantize_tiles<QuantizeTileSource<T, true, kFormat, false>>(x, &target, nullptr,
                                                                              plan, options);
  });
}

}  // namespace halfbyte::ops::cuda
