// Products on warpgroup tensor cores (wgmma, sm_90a). Weights are dequantized on the way, from
// prepared units in shared memory to the registers that are the product's 64-row operand; A lies in
// shared memory as fp16 or bf16. A block: kWarps * 16 rows of N by kTokens rows of A; one
// thread keeps a ring of slices of K filled by tensor copies, kWarps warps multiply. The blocks of
// a cluster divide K.
#pragma once

#include <cuda.h>

#include "halfbyte/ops/gemm/gemm_cuda_bulk.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core_groups.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core_parts.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core_walk.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_wgmma.cuh"

namespace halfbyte::ops::cuda {

constexpr int tensor_core_threads(int warps) { return (warps + 4) * 32; }

// What is known of a kernel when it is compiled.
template <TensorCoreKind kOfKind, int kOfTokens, int kOfWarps, bool kOfGroups>
struct TensorCoreForm {
  static constexpr TensorCoreKind kKind = kOfKind;
  static constexpr int kTokens = kOfTokens, kWarps = kOfWarps, kRows = kWarps * kTileRows;
  static constexpr bool kGrouped = kOfGroups;  // rows are in groups, each with weights of its own
  static constexpr bool kBf16 = kKind != TensorCoreKind::kFp16;
  static constexpr int kUnit = tensor_core_unit_bytes(kKind);
  static constexpr int kBoxBytes = kTokens * 128;  // of A: 64 columns
  static constexpr int kStageBytes = 2 * kBoxBytes + kWarps * kUnit;
  // Groups of kGroup products of 16 columns; while one is made, the one before is under way.
  static constexpr int kGroup = kTokens >= 96 ? 2 : 4, kParts = 8 / kGroup;
  // Registers suffice for what could be made anew.
  static constexpr bool kKeeps = kWarps < 16 || (kTokens != 64 && kTokens != 128);
  // Registers of a thread that multiplies, and of the others: together what the block starts with.
  static constexpr int kRegisters = kWarps == 8 ? 208 : kWarps == 12 ? 152 : 112;
  static constexpr int kOtherRegisters = kWarps == 8 ? 88 : kWarps == 12 ? 56 : 32;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

struct TensorCoreShared {
  std::uint32_t ring, staged, full, free;
  TensorCoreGroups groups;
};

// Both by one thread, or by a warp.
template <class Shape, bool kByWarp>
__device__ __forceinline__ int tile_count(const TensorCoreArgs& args, const TensorCoreShared& at) {
  if constexpr (!Shape::kGrouped) return args.plan.tiles_m * args.plan.tiles_n;
  return kByWarp ? __reduce_max_sync(kWholeWarp, at.groups.tiles()) : at.groups.tiles();
}
template <class Shape, bool kByWarp>
__device__ __forceinline__ TensorCoreTile tile_at(const TensorCoreArgs& args,
                                                  const TensorCoreShared& at, int index) {
  if constexpr (Shape::kGrouped) return find_tile<kByWarp>(args.plan, at.groups, index);
  const int2 place = tensor_core_place(args.plan, args.plan.tiles_m, index);
  return {place.x * Shape::kTokens, args.m, place.y, 0};
}

// Fills the ring; one thread's.
template <class Shape>
struct TensorCoreLoader {
  static constexpr int kUnit = Shape::kUnit, kBoxBytes = Shape::kBoxBytes;

  const TensorCoreArgs& args;
  const CUtensorMap &a_map, &b_map;
  const TensorCoreShared& at;

  __device__ __forceinline__ void load_b(int stage, int slice, int row) const {
    const std::uint32_t bar = at.full + stage * 8;
    barrier_expect(bar, Shape::kStageBytes);
    tensor_load(at.ring + stage * Shape::kStageBytes + 2 * kBoxBytes, b_map, slice * (kUnit / 8),
                row, bar);
  }
  __device__ __forceinline__ void load_a(int stage, int slice, int row) const {
    const std::uint32_t bar = at.full + stage * 8, to = at.ring + stage * Shape::kStageBytes;
    tensor_load(to, a_map, slice * kUnitColumns, row, bar);
    tensor_load(to + kBoxBytes, a_map, slice * kUnitColumns + 64, row, bar);
  }
  // Of B, in tiles. Behind the last rows of a group's weights are others': they give no element of
  // C.
  __device__ __forceinline__ int b_row(const TensorCoreTile& tile) const {
    return (Shape::kGrouped ? tile.group * args.tiles_n : 0) + tile.tile_n * Shape::kWarps;
  }
  // The first slices, before any other thread need know the barriers: of the weights alone where A
  // depends on the kernel before. What is asked for later waits behind them, so they are few.
  __device__ __forceinline__ int load_first() const {
    constexpr int kEarly = 2;
    const TensorCoreWalk walk(args.plan, tile_count<Shape, false>(args, at));
    if (walk.tile < 0) return 0;
    const int count = min(min(args.plan.stages, kEarly), walk.last - walk.first);
    const TensorCoreTile tile = tile_at<Shape, false>(args, at, walk.tile);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      load_b(i, walk.first + i, b_row(tile));
      if (!args.programmatic) load_a(i, walk.first + i, tile.first_row);
    }
    return count;
  }
  // All, of which load_first has begun as many.
  __device__ __forceinline__ void load(int begun) const {
    const TensorCorePlan& plan = args.plan;
    TensorCoreWalk walk(plan, tile_count<Shape, false>(args, at));
    if (args.programmatic) asm volatile("griddepcontrol.wait;" ::: "memory");
    int stage = 0;
    std::uint32_t parity = 1;
    for (; walk.tile >= 0; walk.next(plan.slices)) {
      const TensorCoreTile tile = tile_at<Shape, false>(args, at, walk.tile);
      const int of_a = tile.first_row, of_b = b_row(tile);
#pragma unroll 1
      for (int slice = walk.first; slice < walk.last; ++slice) {
        if (begun == 0) {
          barrier_wait(at.free + stage * 8, parity);
          load_b(stage, slice, of_b);
        }
        if (begun == 0 || args.programmatic) load_a(stage, slice, of_a);
        if (begun > 0) --begun;
        if (++stage == plan.stages) stage = 0, parity ^= 1;
      }
    }
  }
};

// One tile a block. Tokens 16 i to 16 i + 15 are block i % split's: it gets all sums of them, into
// its ring, and adds them up by rank. `lines`: C takes whole lines, through `staged`.
template <class Shape, class FourSums>
__device__ __forceinline__ void add_cluster(const TensorCoreArgs& args, const TensorCoreShared& at,
                                            const TensorCoreOutput<Shape::kGrouped>& output,
                                            const FourSums& four_sums, bool lines,
                                            std::uint32_t staged) {
  constexpr std::uint32_t kStride = Shape::kWarps * 512;
  // Not known before: nothing of this is made ahead of the slices.
  const int split = static_cast<int>(kept<true>(static_cast<std::uint32_t>(args.plan.split)));
  const int rank = static_cast<int>(blockIdx.x) % split;
  const std::uint32_t mine = at.ring + threadIdx.x * 16, turn = split * 2 * kStride;
  cluster_sync();  // no ring is in use any more
  int owner = 0;
  std::uint32_t place = mine + rank * 2 * kStride;
#pragma unroll
  for (int i = 0; i < Shape::kTokens / 16; ++i) {
    store_cluster16(place, owner, four_sums(2 * i));
    store_cluster16(place + kStride, owner, four_sums(2 * i + 1));
    if (++owner == split) owner = 0, place += turn;
  }
  cluster_sync_stores();
  place = mine;
  int to = 0;
#pragma unroll 1
  for (int i = rank; i < Shape::kTokens / 16; i += split, place += turn, to ^= 16) {
    float4 low = load_sums(place), high = load_sums(place + kStride);
#pragma unroll 1
    for (std::uint32_t r = 2 * kStride; r < turn; r += 2 * kStride) {
      low = add4(low, load_sums(place + r));
      high = add4(high, load_sums(place + r + kStride));
    }
    if (lines) {  // the next ones go to the other half of `staged`
      output.stage16(args, 2 * i, low, high, staged, to);
      warpgroup_sync(static_cast<int>(threadIdx.x) / 128);
      output.template put_lines<16>(args, 16 * i, staged, to);
    } else {
      output.put(args, 2 * i, low);
      output.put(args, 2 * i + 1, high);
    }
  }
}

template <class Shape>
__device__ __forceinline__ void multiply_slices(const TensorCoreArgs& args,
                                                const TensorCoreShared& at) {
  constexpr TensorCoreKind kKind = Shape::kKind;
  constexpr int kTokens = Shape::kTokens, kBoxBytes = Shape::kBoxBytes, kGroup = Shape::kGroup;
  const TensorCorePlan& plan = args.plan;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tiles = tile_count<Shape, true>(args, at);
  TensorCoreWalk walk(plan, tiles);
  TensorCoreOutput<Shape::kGrouped> output(lane);
  if constexpr (Shape::kKeeps && !Shape::kGrouped) output.load_scales(args);
  std::uint32_t weights[2][kGroup][4];
  const auto release_before = [&](int stage) {
    if (lane == 0) barrier_arrive(at.free + (stage == 0 ? plan.stages - 1 : stage - 1) * 8);
  };
  // In the first stage.
  const std::uint32_t unit = at.ring + 2 * kBoxBytes + warp * Shape::kUnit;
  const std::uint32_t lane_codes = kept<Shape::kKeeps>(unit + lane * 16);
  const std::uint32_t lane_scales =
      kept<Shape::kKeeps>(UnitScales<kKind, Shape::kKeeps>::place(unit + kUnitCodeBytes, lane));
  const std::uint32_t first_tile = tile_descriptor_low(at.ring);
  int stage = 0;
  std::uint32_t parity = 0;
  for (; walk.tile >= 0; walk.next(plan.slices)) {
    // The first product starts from zero. Not carried from tile to tile: the compiler would have
    // each product wait for the one before if anything else wrote what it starts from.
    float sums[kTokens / 2];
#pragma unroll 1
    for (int left = walk.last - walk.first; left > 0; --left) {
      const bool later = left != walk.last - walk.first;
      const std::uint32_t tile = first_tile + stage * (Shape::kStageBytes / 16);
      const std::uint32_t codes_at = lane_codes + stage * Shape::kStageBytes;
      barrier_wait(at.full + stage * 8, parity);
      const UnitScales<kKind, Shape::kKeeps> scales(lane_scales + stage * Shape::kStageBytes);
      uint4 codes;
#pragma unroll
      for (int part = 0; part < Shape::kParts; ++part) {
        std::uint32_t(&a)[kGroup][4] = weights[part % 2];
#pragma unroll
        for (int x = 0; x < kGroup; x += 2) {  // 32 columns
          const int pair = part * (kGroup / 2) + x / 2;
          if (pair % 2 == 0) codes = load_shared16(codes_at + pair / 2 * 512);
          if (x == 0) {
            wgmma_wait<1>();  // these registers are no longer read
            if (part == 1 && later) release_before(stage);
          }
          std::uint32_t even, odd;
          scales.pair(pair, even, odd);
          dequantize<kKind>(pair % 2 == 0 ? codes.x : codes.z, even, a[x]);
          dequantize<kKind>(pair % 2 == 0 ? codes.y : codes.w, odd, a[x + 1]);
        }
        wgmma_fence();
#pragma unroll
        for (int x = 0; x < kGroup; ++x) {
          const int block = part * kGroup + x;
          wgmma<kTokens, Shape::kBf16>(
              sums, a[x], tile_descriptor(tile + block / 4 * (kBoxBytes / 16) + block % 4 * 2),
              block != 0 || later);
        }
        wgmma_commit();
      }
      if (++stage == plan.stages) stage = 0, parity ^= 1;
    }
    const TensorCoreTile place = tile_at<Shape, true>(args, at, walk.tile);
    if constexpr (Shape::kGrouped) {
      output.a_decode = at.groups.a_decode[place.group];
      output.b_decode = at.groups.b_decode[place.group];
    } else if constexpr (!Shape::kKeeps) {
      output.load_scales(args);
    }
    output.start(args, place, place.tile_n * Shape::kRows + warp * kTileRows);
    wgmma_wait<0>();
    release_before(stage);
    const bool shared = walk.tile >= walk.whole;
    if (shared && walk.first == 0) take_sums<kTokens>(args, tiles, walk.tile, sums);
    const auto four_sums = [&](int i) {  // of tokens 8 i to 8 i + 7
      return make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    };
    const bool lines = args.lines && (place.tile_n + 1) * Shape::kRows <= args.n;
    const std::uint32_t staged = at.staged + warp / 4 * kTensorCoreStagedBytes;
    if (shared && walk.first > 0) {
      give_sums<kTokens>(args, sums);
    } else if (plan.split > 1) {
      add_cluster<Shape>(args, at, output, four_sums, lines, staged);
    } else if (lines) {
      output.template put_staged<kTokens>(args, four_sums, staged);
    } else {
#pragma unroll
      for (int i = 0; i < kTokens / 8; ++i) output.put(args, i, four_sums(i));
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

template <TensorCoreKind kKind, int kTokens, int kWarps, bool kGrouped>
__global__ void __launch_bounds__(tensor_core_threads(kWarps), 1)
    tensor_core_kernel(const __grid_constant__ TensorCoreArgs args,
                       const __grid_constant__ CUtensorMap a_map,
                       const __grid_constant__ CUtensorMap b_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Shape = TensorCoreForm<kKind, kTokens, kWarps, kGrouped>;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  const std::uint32_t from = smem_address(shared);
  const std::uint32_t ring = (from + kTensorCoreAlign - 1) / kTensorCoreAlign * kTensorCoreAlign;
  const std::uint32_t staged = ring + args.plan.stages * Shape::kStageBytes;
  const std::uint32_t full = staged + kTensorCoreMaxWarps / 4 * kTensorCoreStagedBytes;
  const std::uint32_t free = full + kTensorCoreMaxStages * 8;
  const std::uint32_t behind = free + kTensorCoreMaxStages * 8;
  const TensorCoreShared at{ring, staged, full, free, {shared + (behind - from), args.plan.groups}};
  const TensorCoreLoader<Shape> loader{args, a_map, b_map, at};
  const bool loads = threadIdx.x == kWarps * 32;
  int begun = 0;
  if (loads) {
    prefetch_map(b_map);
    prefetch_map(a_map);
    for (int i = 0; i < args.plan.stages; ++i) {
      barrier_init(at.full + i * 8, 1);
      barrier_init(at.free + i * 8, kWarps);
    }
    fence_async_proxy();
    if constexpr (!kGrouped) begun = loader.load_first();
  }
  if constexpr (kGrouped) {
    find_groups(args, at.groups);
    __syncthreads();
    if (threadIdx.x / 32 == 0) sum_tiles(at.groups);
  }
  __syncthreads();
  if (threadIdx.x >= kWarps * 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Shape::kOtherRegisters));
    if (loads) {
      if constexpr (kGrouped) begun = loader.load_first();
      loader.load(begun);
    }
    if constexpr (kGrouped) {
      const int warp = static_cast<int>(threadIdx.x) / 32 - kWarps;
      if (warp > 0) zero_other_rows(args, at.groups, warp - 1, 3);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Shape::kRegisters));
    multiply_slices<Shape>(args, at);
  }
#endif
}

using TensorCoreKernel = void (*)(TensorCoreArgs, CUtensorMap, CUtensorMap);

template <TensorCoreKind kKind, bool kGrouped>
TensorCoreKernel tensor_core_kernel_of(TensorCoreShape shape) {
  if constexpr (!kGrouped) {
    if (shape.warps == 12) return tensor_core_kernel<kKind, 128, 12, false>;
    if (shape.warps == 8) {
      return shape.tokens == 16   ? tensor_core_kernel<kKind, 16, 8, false>
             : shape.tokens == 32 ? tensor_core_kernel<kKind, 32, 8, false>
             : shape.tokens == 64 ? tensor_core_kernel<kKind, 64, 8, false>
                                  : tensor_core_kernel<kKind, 128, 8, false>;
    }
  }
  switch (shape.tokens) {
    case 16:
      return tensor_core_kernel<kKind, 16, 16, kGrouped>;
    case 32:
      return tensor_core_kernel<kKind, 32, 16, kGrouped>;
    case 64:
      return tensor_core_kernel<kKind, 64, 16, kGrouped>;
    case 96:
      return tensor_core_kernel<kKind, 96, 16, kGrouped>;
    default:
      return tensor_core_kernel<kKind, 128, 16, kGrouped>;
  }
}
template <bool kGrouped>
TensorCoreKernel tensor_core_kernel_of(TensorCoreKind kind, TensorCoreShape shape) {
  return kind == TensorCoreKind::kFp16
             ? tensor_core_kernel_of<TensorCoreKind::kFp16, kGrouped>(shape)
         : kind == TensorCoreKind::kBf16
             ? tensor_core_kernel_of<TensorCoreKind::kBf16, kGrouped>(shape)
             : tensor_core_kernel_of<TensorCoreKind::kMxfp4, kGrouped>(shape);
}
// Of groups; compiled in a file of its own.
TensorCoreKernel grouped_tensor_core_kernel(TensorCoreKind kind, TensorCoreShape shape);

}  // namespace halfbyte::ops::cuda
