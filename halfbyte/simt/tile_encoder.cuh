// The scale of the rows of a tile kernel, of the tensor or of each row, and the code sequence that
// it allows. kRowScales: a row has its own.
#pragma once

#include <cstdint>

#include "halfbyte/simt/leaf_quantizer.cuh"

namespace halfbyte::simt {

// scale = computed: reports the scale that the tensor's amax gives.
__device__ __forceinline__ void put_computed(const TileTarget<formats::Format::kNvfp4>& target,
                                             const RowEncoder<formats::Format::kNvfp4>& encoder) {
  *target.computed_encode = encoder.scale.encode;
  *target.computed_decode = encoder.scale.decode;
}
template <formats::Format F>
__device__ __forceinline__ void put_computed(const TileTarget<F>&, const RowEncoder<F>&) {}

template <formats::Format F, bool kRowScales>
struct TileEncoder {
  RowEncoder<F> encoder;

  // What of_tensor takes: asked for early, so that it is here when the rows are.
  __device__ __forceinline__ static float fetch(const TileTarget<F>& target) {
    if constexpr (kRowScales) return 0.0f;
    return target.from == TileScaleFrom::kGiven  ? *target.given
           : target.from == TileScaleFrom::kAmax ? *target.tensor_amax
                                                 : 0.0f;
  }
  // reports: this thread stores a computed scale.
  __device__ __forceinline__ void of_tensor(const TileTarget<F>& target, float input,
                                            bool reports) {
    if constexpr (!kRowScales) {
      encoder = target.encoder;
      if (target.from == TileScaleFrom::kGiven) {
        encoder = RowEncoder<F>::given(input, target.how);
      } else if (__builtin_expect(target.from == TileScaleFrom::kAmax, 0)) {
        encoder = RowEncoder<F>::from_amax(input, target.how);
        if (reports) put_computed(target, encoder);
      }
    }
  }
  // The scale of a row: given, or of its amax. reports: this thread stores it.
  __device__ __forceinline__ void of_row(const TileTarget<F>& target, std::uint32_t row,
                                         std::uint32_t amax_bits, bool reports) {
    if constexpr (kRowScales) {
      if (target.row_scale == nullptr) {
        encoder = RowEncoder<F>::given(target.given[std::uint64_t{row} * target.given_stride],
                                       target.how);
      } else {
        encoder = RowEncoder<F>::of_row(numerics::bits_float(amax_bits), target.how);
        if (reports) target.row_scale[row] = encoder.decode();
      }
    }
  }
  // body(encode), encode(leaf, amax, codes) -> block scale: the sequence is chosen once for all
  // that the body encodes.
  template <class Body>
  __device__ __forceinline__ void with_sequence(const Body& body) const {
    if (__builtin_expect(encoder.is_fast(), 1)) {
      body([&](const auto& leaf, float amax, LeafCodes& codes) {
        return encoder.encode(leaf, amax, codes);
      });
    } else {
      body([&](const auto& leaf, float amax, LeafCodes& codes) {
        return encoder.encode_any(leaf, amax, codes);
      });
    }
  }
};

}  // namespace halfbyte::simt
