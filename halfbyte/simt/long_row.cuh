// Rows that do not fit into the registers of a CTA: one lies packed in shared memory, where the
// next one replaces it piece by piece while it is encoded. The Sources and outputs of
// simt/row_tile.cuh.
//
//   memory -> (asynchronous copies) -> shared -> h -> sums of units -> tree -> row_value
//   shared -> source.finish -> y -> RowEncoder -> codes, scales; a unit's next row is asked for
//
// A unit is 64 leaves, two a lane; a warp takes every warps-th. A scale a row needs all of y before
// any of it is encoded: y then replaces h. Sources without a sum come here for such a scale alone.
#pragma once

#include <cstdint>

#include "halfbyte/simt/row_tile.cuh"

namespace halfbyte::simt {

inline constexpr int kUnitLeaves = 64, kMostUnits = 128;

// Shared memory of the collectives: a value a unit, or a warp; two of each, so that one barrier a
// use is enough. What is after the last is zero.
struct LongRowScratch {
  alignas(16) float sums[2][kMostUnits];
  std::uint32_t maxima[2][32];

  __device__ __forceinline__ void clear() {
    for (int i = static_cast<int>(threadIdx.x); i < kMostUnits; i += static_cast<int>(blockDim.x)) {
      sums[0][i] = sums[1][i] = 0.0f;
    }
    if (threadIdx.x < 32) maxima[0][threadIdx.x] = maxima[1][threadIdx.x] = 0;
  }
};

// The tree over the units, in every lane.
__device__ __forceinline__ float tree_of_units(const float (&sums)[kMostUnits], int lane) {
  const float4 four = reinterpret_cast<const float4*>(sums)[lane];
  float sum = numerics::add_rn(numerics::add_rn(four.x, four.y), numerics::add_rn(four.z, four.w));
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
    sum = numerics::add_rn(sum, __shfl_xor_sync(~0u, sum, bit));
  }
  return sum;
}

// A row in shared memory, in groups of 32 leaves as pieces of 16 bytes. A piece's place keeps
// neighbours in memory, and what the lanes read at once, in different banks.
template <class T>
struct StagedRow {
  static constexpr int kPieces = Packed<T>::kWords / 4;  // of a leaf
  uint4* pieces;

  __device__ __forceinline__ uint4* place(int group, int piece) const {
    return pieces + group * (32 * kPieces) + (piece ^ ((piece >> 3) & (kPieces - 1)));
  }
  __device__ __forceinline__ Packed<T> load(int group, int lane) const {
    Packed<T> leaf;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const uint4 piece = *place(group, lane * kPieces + i);
      leaf.words[4 * i] = piece.x;
      leaf.words[4 * i + 1] = piece.y;
      leaf.words[4 * i + 2] = piece.z;
      leaf.words[4 * i + 3] = piece.w;
    }
    return leaf;
  }
  __device__ __forceinline__ void store(const Packed<T>& leaf, int group, int lane) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      *place(group, lane * kPieces + i) = make_uint4(leaf.words[4 * i], leaf.words[4 * i + 1],
                                                     leaf.words[4 * i + 2], leaf.words[4 * i + 3]);
    }
  }
  // Asks for a group of a row, by a whole warp; +0 where the row has ended. To be committed.
  __device__ __forceinline__ void fetch(const T* row, int group, int leaves, int lane) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int piece = i * 32 + lane;
      const int at = group * (32 * kPieces) + piece;
      const bool is_there = at < leaves * kPieces;
      const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(place(group, piece)));
      const uint4* from = reinterpret_cast<const uint4*>(row) + (is_there ? at : 0);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                   "r"(is_there ? 16 : 0)
                   : "memory");
    }
  }
};

// Ends a group of what this thread asks for.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All but the last kPending groups are there.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

template <class Source, bool kRowScales>
__device__ __forceinline__ void run_long_rows(const Source& source,
                                              const TileOutputs<Source::kFormat>& out,
                                              uint4* staged_pieces) {
  using T = typename Source::Element;
  using Y = typename Source::Y;
  constexpr formats::Format kFormat = Source::kFormat;
  constexpr int kCodeBytes = kLeafCodeBytes<kFormat>;
  constexpr int kBlockLeaves = kFormat == formats::Format::kMxfp4 ? 2 : 1;
  using Encoder = TileEncoder<kFormat, kRowScales>;
  static_assert(Source::kSums || kRowScales);
  __shared__ LongRowScratch scratch;
  // What is updated lies beside x, if there is room, and h replaces it; else h replaces x.
  const bool stages_updated = Source::kUpdates && out.stages_updated;
  const StagedRow<T> staged{staged_pieces};
  const StagedRow<T> updated{staged_pieces + (stages_updated
                                                  ? (out.leaves + kUnitLeaves - 1) / kUnitLeaves *
                                                        kUnitLeaves * StagedRow<T>::kPieces
                                                  : 0)};
  const auto& target = out.target;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int units = (out.leaves + kUnitLeaves - 1) / kUnitLeaves;
  const std::uint32_t step = out.row_ctas;
  std::uint32_t row = blockIdx.x;

  if constexpr (Source::kQuantizes) {
    if (__builtin_expect(blockIdx.x >= out.row_ctas, 0)) {
      wait_for_previous_kernel(out.programmatic);
      put_scale_padding(target, std::int64_t{blockIdx.x - out.row_ctas} * blockDim.x + threadIdx.x,
                        std::int64_t{gridDim.x - out.row_ctas} * blockDim.x);
      return;
    }
  }
  // body(i, group, leaf, is_there) of this warp's two groups of 32 leaves in a unit.
  const auto for_groups = [&](int unit, const auto& body) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int group = 2 * unit + i, leaf = group * 32 + lane;
      if (group * 32 < out.leaves) body(i, group, leaf, leaf < out.leaves);
    }
  };

  if (source.constants_first) {
    for (int unit = warp; unit < units; unit += warps) {
      for_groups(unit, [&](int, int, int leaf, bool is_there) {
        if (is_there) source.prefetch_constants(leaf);
      });
    }
  }
  wait_for_previous_kernel(out.programmatic);
  const float scale_input = Source::kQuantizes ? Encoder::fetch(target) : 0.0f;
  // Of the row `from`, if there is one. A unit is committed even if nothing of it was asked for:
  // what is waited for is counted.
  const auto fetch = [&](std::uint32_t from, int group, bool of_x, bool of_updated) {
    if constexpr (Source::kSums) {
      if (from >= out.rows) return;
      if (of_x) staged.fetch(source.x_row(from), group, out.leaves, lane);
      if constexpr (Source::kUpdates) {
        if (of_updated) updated.fetch(source.updated_row(from), group, out.leaves, lane);
      }
    }
  };
  for (int unit = warp; unit < units; unit += warps) {
    fetch(row, 2 * unit, true, stages_updated);
    fetch(row, 2 * unit + 1, true, stages_updated);
    commit_copies();
  }
  scratch.clear();
  Encoder encoder;
  if constexpr (Source::kQuantizes) {
    encoder.of_tensor(target, scale_input, blockIdx.x == 0 && threadIdx.x == 0);
    __syncthreads();  // the cleared scratch
  } else {
    __syncthreads();
  }

  std::uint32_t most = 0;
  int parity = 0;
  for (; row < out.rows; row += step, parity ^= 1) {
    float row_value = 0.0f;
    if constexpr (Source::kSums) {
      for (int unit = warp; unit < units; unit += warps) {
        if (stages_updated) {
          // Before it came x of as many units, after it their h: those may be under way.
          warp + warps < units ? wait_for_copies<1>() : wait_for_copies<0>();
        } else {
          unit + warps < units ? wait_for_copies<1>() : wait_for_copies<0>();
        }
        __syncwarp();
        typename Source::Raw raw[2] = {Source::no_raw(), Source::no_raw()};
        for_groups(unit, [&](int i, int group, int leaf, bool is_there) {
          raw[i].x = staged.load(group, lane);
          if constexpr (Source::kUpdates) {
            if (stages_updated) {
              raw[i].residual = updated.load(group, lane);
            } else if (is_there) {
              source.fetch_updated(row, leaf, raw[i]);
            }
          }
        });
        float sums[2] = {0.0f, 0.0f};
        for_groups(unit, [&](int i, int group, int leaf, bool is_there) {
          const Packed<T> h = source.load(raw[i]);
          if constexpr (Source::kUpdates) {
            source.store_updates(h, row, leaf, out.leaves);
            updated.store(h, group, lane);
          }
          float values[kLeaf];
          unpack(h, values);
          sums[i] = numerics::leaf_sum_of_squares(values);
        });
        const float sum = warp_tree_sum(sums, lane);
        if (lane == 0) scratch.sums[parity][unit] = sum;
        if (stages_updated) {
          __syncwarp();  // every lane has read its leaves
          fetch(row + step, 2 * unit, true, false);
          fetch(row + step, 2 * unit + 1, true, false);
          commit_copies();
        }
      }
      __syncthreads();
      row_value = source.row_value(tree_of_units(scratch.sums[parity], lane));
    }
    [[maybe_unused]] const auto finish = [&](const Packed<T>& h, int leaf, bool is_there, Y& y) {
      if constexpr (Source::kSums) {
        typename Source::Constants constants;
        if (is_there) source.load_constants(leaf, constants);
        float values[kLeaf];
        unpack(h, values);
        source.finish(values, row_value, constants, y);
      }
    };
    if constexpr (kRowScales) {
      std::uint32_t of_row = 0;
      for (int unit = warp; unit < units; unit += warps) {
        for_groups(unit, [&](int, int group, int leaf, bool is_there) {
          Y y;
          if constexpr (Source::kSums) {
            finish(updated.load(group, lane), leaf, is_there, y);
          } else {
            typename Source::Raw raw = Source::no_raw();
            if (is_there) source.fetch(row, leaf, raw);
            source.make(raw, y);
          }
          updated.store(y, group, lane);
          if (is_there) of_row = max(of_row, numerics::abs_bits(leaf_amax(y)));
        });
      }
      if (target.row_scale != nullptr) {
        of_row = __reduce_max_sync(~0u, of_row);
        if (lane == 0) scratch.maxima[parity][warp] = of_row;
        __syncthreads();
        of_row = __reduce_max_sync(~0u, scratch.maxima[parity][lane]);
      }
      encoder.of_row(target, row, of_row, threadIdx.x == 0);
    }

    std::uint8_t* codes = nullptr;
    std::uint64_t scale_offsets[2] = {0, 0};
    T* normed = nullptr;
    if constexpr (Source::kQuantizes) {
      codes = tile_address(target.codes, row, target.code_stride);
      scale_offsets[0] = target.scales[0].row_offset(row);
      if constexpr (!Source::kPlain) scale_offsets[1] = target.scales[1].row_offset(row);
    }
    if constexpr (!Source::kPlain || !Source::kQuantizes) {
      if (out.y != nullptr) normed = tile_address(static_cast<T*>(out.y), row, out.y_stride);
    }
    const auto run = [&](const auto& encode) {
#pragma unroll 1
      for (int unit = warp; unit < units; unit += warps) {
        for_groups(unit, [&](int, int group, int leaf, bool is_there) {
          const Packed<T> kept = updated.load(group, lane);
          __syncwarp();  // every lane has read its leaf
          fetch(row + step, group, !stages_updated, stages_updated);
          Y y;
          if constexpr (kRowScales) {
            static_cast<Packed<T>&>(y) = kept;
          } else {
            finish(kept, leaf, is_there, y);
          }
          if constexpr (!Source::kPlain || !Source::kQuantizes) {
            if (normed != nullptr) store_leaf_of_row(in_order(y), normed, leaf, out.leaves);
          }
          const float amax = leaf_amax(y);
          if (!Source::kPlain && is_there) most = max(most, numerics::abs_bits(amax));
          if constexpr (Source::kQuantizes) {
            LeafCodes words;
            const auto scale = static_cast<std::uint8_t>(encode(y, amax, words));
            if (!is_there) return;
            put_codes<kFormat>(words, codes + leaf * kCodeBytes);
            if (!kHasBlockScales<kFormat> || lane % kBlockLeaves != 0) return;
            const auto column = static_cast<std::uint32_t>(leaf) / kBlockLeaves;
#pragma unroll
            for (int i = 0; i < (Source::kPlain ? 1 : 2); ++i) {
              const TileScales& scales = target.scales[i];
              if (i == 1 && scales.data == nullptr) break;
              scales.data[scale_offsets[i] + scales.column_offset(column)] = scale;
            }
          }
        });
        if constexpr (Source::kSums) commit_copies();
      }
    };
    if constexpr (Source::kQuantizes) {
      encoder.with_sequence(run);
    } else {
      run(0);
    }
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

// 1024 threads: rows of which a multiprocessor holds one alone; else 512.
inline constexpr int kLongRowThreads = 1024;

template <class Source, bool kRowScales>
__global__ void __launch_bounds__(kLongRowThreads, 1)
    long_row_kernel(const __grid_constant__ Source source,
                    const __grid_constant__ TileOutputs<Source::kFormat> out) {
  extern __shared__ uint4 staged_pieces[];
  run_long_rows<Source, kRowScales>(source, out, staged_pieces);
}

}  // namespace halfbyte::simt
