// The pipeline of every row operator whose rows fit into the registers of a CTA: a row of
// H = 16 * leaves elements lies over its warps, kLeaves leaves a lane.
//
//   memory -> source.load -> h -> leaf sums -> tree -> source.finish -> y
//      the next row's loads are on their way meanwhile        |
//   y -> memory, amax, RowEncoder -> codes, scales <----------+
//
// Leaf (warp * kLeaves + j) * 32 + lane is the j-th of a lane: a warp's leaves are neighbours, and
// a subtree of the canonical sum. Rows of one warp share a CTA and meet no barrier. Where nothing
// of a row is summed, it may be split over CTAs; where something is and rows are few, several CTAs
// read all of a row, and each writes a part. A Source gives a room's part:
//
//   using Element = T, Y = Packed<T> or PairedLeaf<T>;    struct Raw, Constants;
//   static constexpr bool kQuantizes, kPlain, kSums;      static constexpr Format kFormat;
//   static constexpr bool kUpdates                        a row is read and written: the residual
//   bool constants_first                                  no kernel writes them: fetch early
//   void prefetch_constants(int leaf) const               before the wait, if so
//   void load_constants(int leaf, Constants&) const       what all rows share: the weight
//   Packed<T> packed_constants(int leaf) const            the same, kSums and kPlain
//   void fetch(row, leaf, Raw&) const                     loads alone
//   void fetch_updated(row, leaf, Raw&) const             of what is updated
//   Packed<T> load(raw) const                             kSums: h
//   void store_update(h, row, leaf) const                 kUpdates
//   void store_updates(h, row, leaf, leaves) const        the same by a whole warp, if it is there
//   float row_value(float sum) const                      kSums: rstd
//   void finish(h, row_value, constants, Y& y) const      kSums
//   void make(raw, Y& y) const                            not kSums
//
// kPlain: y is quantized into one layout, or stored, and nothing else; the code of other wishes is
// absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "halfbyte/numerics/row_sum.h"
#include "halfbyte/simt/tile_collectives.cuh"
#include "halfbyte/simt/tile_encoder.cuh"

namespace halfbyte::simt {

// What becomes of y. Any of y, codes, amax may be wanted. Rows are at equal distances everywhere.
template <formats::Format F>
struct TileOutputs {
  std::uint32_t rows = 0;
  int leaves = 0;
  std::uint32_t row_ctas = 0;   // the CTAs after them write the scales' padding
  std::uint32_t row_split = 1;  // CTAs of a row
  bool stages_updated = false;  // simt/long_row.cuh
  bool programmatic = false;    // launched so: wait for the kernel before, before the first read
  std::uint32_t nothing = 0;    // 0, but the compiler does not know it
  std::uint32_t y_stride = 0;   // bytes
  void* y = nullptr;
  float* amax = nullptr;  // of the tensor; holds +0 before the launch
  TileTarget<F> target;   // where Source::kQuantizes
};

// Waits for the results of the kernel before, where this one was launched programmatically.
__device__ __forceinline__ void wait_for_previous_kernel(bool programmatic) {
#if __CUDA_ARCH__ >= 900
  if (programmatic) asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel of such a chain begin; after the last write of the CTA.
__device__ __forceinline__ void release_next_kernel(bool programmatic) {
#if __CUDA_ARCH__ >= 900
  if (programmatic) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <formats::Format F>
inline constexpr int kLeafCodeBytes = F == formats::Format::kFp8 ? 16 : 8;
template <formats::Format F>
inline constexpr bool kHasBlockScales = F != formats::Format::kFp8;

// The address of element 16 * leaf of a row; strides in bytes.
template <class T>
__device__ __forceinline__ T* tile_address(T* first, std::uint32_t row, std::uint32_t stride) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(first) + std::uint64_t{row} * stride);
}

// kWarp: blockDim.y rows a CTA. kRowScales: a scale a row.
template <class Source, int kLeaves, TileScope kScope, bool kRowScales>
__device__ __forceinline__ void run_row_tiles(const Source& source,
                                              const TileOutputs<Source::kFormat>& out) {
  using T = typename Source::Element;
  constexpr formats::Format kFormat = Source::kFormat;
  constexpr int kCodeBytes = kLeafCodeBytes<kFormat>;
  constexpr int kBlockLeaves = kFormat == formats::Format::kMxfp4 ? 2 : 1;
  constexpr bool kOneWarp = kScope == TileScope::kWarp, kSplit = kScope == TileScope::kSplit,
                 kShared = kScope == TileScope::kShared;
  static_assert(!kSplit || (!Source::kSums && !kRowScales));
  static_assert(!kShared || !Source::kUpdates);  // others might read what one has updated
  // Four leaves a lane as floats would need more registers than there are: they stay packed from
  // the sum to the end, and the constants come from the cache each time.
  constexpr bool kKeepsPacked = kLeaves == 4;
  __shared__ TileScratch scratch;
  const auto& target = out.target;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = kOneWarp ? 1 : static_cast<int>(blockDim.x) / 32;  // of a row in this CTA
  const int warp = (kOneWarp ? 0 : static_cast<int>(threadIdx.x) / 32) +
                   (kSplit ? static_cast<int>(blockIdx.x % out.row_split) * warps : 0);
  const std::uint32_t step = kOneWarp            ? out.row_ctas * blockDim.y
                             : kSplit || kShared ? out.row_ctas / out.row_split
                                                 : out.row_ctas;
  std::uint32_t row = kOneWarp            ? blockIdx.x * blockDim.y + threadIdx.y
                      : kSplit || kShared ? blockIdx.x / out.row_split
                                          : blockIdx.x;
  // kShared: whether this warp's part of the row is the CTA's to write.
  const bool writes = !kShared || warp * out.row_split / warps == blockIdx.x % out.row_split;
  const int first_leaf = warp * kLeaves * 32 + lane;
  bool active[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) active[j] = first_leaf + j * 32 < out.leaves;

  if constexpr (Source::kQuantizes) {
    if (__builtin_expect(blockIdx.x >= out.row_ctas, 0)) {
      const int threads = blockDim.x * blockDim.y;
      wait_for_previous_kernel(out.programmatic);
      put_scale_padding(target,
                        std::int64_t{blockIdx.x - out.row_ctas} * threads +
                            threadIdx.y * blockDim.x + threadIdx.x,
                        std::int64_t{gridDim.x - out.row_ctas} * threads);
      return;
    }
  }

  typename Source::Constants constants[kKeepsPacked ? 1 : kLeaves];
  typename Source::Raw raw[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) raw[j] = Source::no_raw();
  // What is updated is fetched with the rest where there are registers for it; else half way
  // through the encoding of the row before.
  constexpr bool kUpdates = Source::kUpdates, kFetchesTwice = kKeepsPacked && kUpdates;
  const auto fetch_updated = [&](std::uint32_t from) {
    if constexpr (kUpdates) {
#pragma unroll
      for (int j = 0; j < kLeaves; ++j) {
        if (kFetchesTwice) source.clear_updated(raw[j]);  // so that nothing is kept in between
        if (active[j] && from < out.rows) source.fetch_updated(from, first_leaf + j * 32, raw[j]);
      }
    }
  };
  const auto fetch = [&](std::uint32_t from) {
#pragma unroll
    for (int j = 0; j < kLeaves; ++j) {
      if (active[j]) source.fetch(from, first_leaf + j * 32, raw[j]);
    }
    if constexpr (!kFetchesTwice) fetch_updated(from);
  };
  if (source.constants_first) source.prefetch_constants(first_leaf);
  wait_for_previous_kernel(out.programmatic);
  using Encoder = TileEncoder<kFormat, kRowScales>;
  const float scale_input = Source::kQuantizes ? Encoder::fetch(target) : 0.0f;
  if (row < out.rows) {
    fetch(row);
    if constexpr (kFetchesTwice) fetch_updated(row);
  }
  if constexpr (!kKeepsPacked) {
#pragma unroll
    for (int j = 0; j < kLeaves; ++j) {
      if (active[j]) source.load_constants(first_leaf + j * 32, constants[j]);
    }
  }

  if (!kOneWarp && (Source::kSums || kRowScales)) scratch.pad(warps, lane);
  Encoder encoder;
  std::uint8_t* code_column = nullptr;
  std::uint8_t* scale_columns[2] = {nullptr, nullptr};
  if constexpr (Source::kQuantizes) {
    encoder.of_tensor(target, scale_input, blockIdx.x == 0 && threadIdx.x == 0 && threadIdx.y == 0);
    code_column = target.codes + first_leaf * kCodeBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const TileScales& scales = target.scales[i];
      if (scales.data != nullptr) {
        scale_columns[i] = scales.data + scales.column_offset(
                                             static_cast<std::uint32_t>(first_leaf) / kBlockLeaves);
      }
    }
  }

  std::uint32_t most = 0;
  int parity = 0;
  while (row < out.rows) {
    const std::uint32_t next = row + step;
    typename Source::Y y[kLeaves];
    [[maybe_unused]] Packed<T> packed[Source::kSums ? kLeaves : 1];
    if constexpr (Source::kSums) {
      // Opaque, so that they are kept as they are, not made again of each other.
      float h[kKeepsPacked ? 1 : kLeaves][kLeaf];
      float sums[kLeaves];
#pragma unroll
      for (int j = 0; j < kLeaves; ++j) {
        packed[j] = source.load(raw[j]);
        if constexpr (kUpdates && kLeaves > 1) {
          source.store_updates(packed[j], row, first_leaf + j * 32, out.leaves);
        } else if constexpr (kUpdates) {
          if (active[j]) source.store_update(packed[j], row, first_leaf + j * 32);
        }
        float(&values)[kLeaf] = h[kKeepsPacked ? 0 : j];
        unpack(packed[j], values);
        if constexpr (!kKeepsPacked) {
#pragma unroll
          for (int i = 0; i < kLeaf; ++i) asm("" : "+f"(values[i]));
        }
        sums[j] = numerics::leaf_sum_of_squares(values);
      }
      if (next < out.rows) fetch(next);
      float value = warp_tree_sum(sums, lane);
      if constexpr (!kOneWarp) {
        if (lane == 0) scratch.sums[parity][warp] = value;
        __syncthreads();
        value = tree_of_warps(scratch.sums[parity], warps);
      }
      if (kShared && !kRowScales && !writes) {
        parity ^= 1;
        row = next;
        continue;
      }
      value = source.row_value(value);
#pragma unroll
      for (int j = 0; j < kLeaves; ++j) {
        if constexpr (kKeepsPacked) {
          if (active[j]) source.load_constants(first_leaf + j * 32, constants[0]);
            // Or they would be kept unpacked from the sum on.
#pragma unroll
          for (std::uint32_t& word : packed[j].words) word ^= out.nothing;
          unpack(packed[j], h[0]);
        }
        constexpr bool kOne = kKeepsPacked;
        source.finish(h[kOne ? 0 : j], value, constants[kOne ? 0 : j], y[j]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kLeaves; ++j) source.make(raw[j], y[j]);
      if (next < out.rows) fetch(next);
    }

    if constexpr (!Source::kPlain || !Source::kQuantizes) {
      if (Source::kPlain || out.y != nullptr) {
        T* to = tile_address(static_cast<T*>(out.y), row, out.y_stride);
#pragma unroll
        for (int j = 0; j < kLeaves; ++j) {
          store_leaf_of_row(in_order(y[j]), to, first_leaf + j * 32, out.leaves);
        }
      }
    }
    float amaxes[kLeaves];
    if constexpr (!Source::kPlain || Source::kQuantizes) {
#pragma unroll
      for (int j = 0; j < kLeaves; ++j) amaxes[j] = leaf_amax(y[j]);
    }
    if constexpr (!Source::kPlain) {
      if (out.amax != nullptr) {
#pragma unroll
        for (int j = 0; j < kLeaves; ++j) {
          if (active[j]) most = max(most, numerics::abs_bits(amaxes[j]));
        }
      }
    }
    if constexpr (Source::kQuantizes) {
      if constexpr (kRowScales) {
        std::uint32_t of_row = 0;
        if (target.row_scale != nullptr) {
#pragma unroll
          for (int j = 0; j < kLeaves; ++j) {
            if (active[j]) of_row = max(of_row, numerics::abs_bits(amaxes[j]));
          }
          of_row = __reduce_max_sync(~0u, of_row);
          if constexpr (!kOneWarp) {
            if (lane == 0) scratch.maxima[parity][warp] = of_row;
            __syncthreads();
            of_row = __reduce_max_sync(~0u, scratch.maxima[parity][lane]);
          }
        }
        encoder.of_row(target, row, of_row, writes && first_leaf == 0);
      }
      std::uint8_t* codes = tile_address(code_column, row, target.code_stride);
      std::uint8_t* scale_row = scale_columns[0] + target.scales[0].row_offset(row);
      const auto put = [&](int j, const LeafCodes& words, std::uint32_t scale) {
        if (!active[j]) return;
        put_codes<kFormat>(words, codes + j * 32 * kCodeBytes);
        if (!kHasBlockScales<kFormat> || lane % kBlockLeaves != 0) return;
        const std::uint32_t tiles = j * (8 / kBlockLeaves);  // of four scale columns
        scale_row[tiles * target.scales[0].column_step] = static_cast<std::uint8_t>(scale);
        if (!Source::kPlain && scale_columns[1] != nullptr) {
          scale_columns[1][target.scales[1].row_offset(row) +
                           tiles * target.scales[1].column_step] = static_cast<std::uint8_t>(scale);
        }
      };
      if (writes) {
        encoder.with_sequence([&](const auto& encode) {
#pragma unroll
          for (int j = 0; j < kLeaves; ++j) {
            if (kFetchesTwice && j == kLeaves / 2) fetch_updated(next);
            LeafCodes words;
            const std::uint32_t scale = encode(y[j], amaxes[j], words);
            put(j, words, scale);
          }
        });
      }
    }
    if constexpr (kFetchesTwice && !Source::kQuantizes) fetch_updated(next);
    parity ^= 1;
    row = next;
  }
  if constexpr (!Source::kPlain) {
    if (out.amax != nullptr) {
      most = __reduce_max_sync(~0u, most);
      // The bits of magnitudes order as the magnitudes do, NaN above all.
      if (lane == 0) atomicMax(reinterpret_cast<unsigned*>(out.amax), most);
    }
  }
  release_next_kernel(out.programmatic);
}

}  // namespace halfbyte::simt
