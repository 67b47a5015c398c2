// C = A * B^T for few rows of A: prepared NVFP4 weights streamed once, in the order of the
// contract.
//
// A warp multiplies 16 rows of B by its slices of K on fp16 tensor cores. The codes as fp16 are
// exact, so are the activations with their block scales (at most 6 significant bits), and the sum
// of a block fits the fp32 accumulator with bits to spare: acc = fma(sum, S_b, acc) is the
// contract's. Powers of two are taken out at the end: a code counts 2^-14, S_a and S_b 2^7.
//
// The warps of a team share a tile of 16 rows, each with its slices; their sums meet in shared
// memory, two tiles later one of them adds them up in the tree's order. One bulk copy brings a
// team its part of a tile.
#pragma once

#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_cuda_decode_parts.cuh"

namespace halfbyte::ops::cuda {

// An index, as nvcc has no kernel templates over a structure.
template <int kIndex>
__global__ void __launch_bounds__(kDecodeWarps * 32, 1)
    decode_kernel(const __grid_constant__ DecodeArgs args) {
#if __CUDA_ARCH__ >= 900
  constexpr DecodeShape kShape = kDecodeShapes[kIndex];
  constexpr int kTokenTiles = kShape.token_tiles, kShared = kShape.slices_shared;
  constexpr int kGroups = kShape.groups, kWarpsK = kShape.warps_k, kSlices = kShape.slices();
  constexpr bool kOne = kShape.one_token;
  constexpr int kPart = decode_part_floats(kShape), kPend = decode_pend_floats(kShape);
  constexpr int kTeams = kDecodeWarps / kWarpsK, kSlots = decode_slots(kShape), kLag = kSlots / 2;
  constexpr int kStageBytes = kWarpsK * kSlices * kUnitBytes;
  static_assert(kTokenTiles == 1 || kShared == 1);
  static_assert(kTeams <= kDecodeMaxTeams && kWarpsK >= 4);
  extern __shared__ __align__(128) std::uint8_t smem[];
  const DecodePlan& plan = args.plan;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4, warp_k = warp % kWarpsK, team = warp / kWarpsK;
  const int jobs = kOne ? 1 : (args.rows + 1) / 2;  // of 32 outputs
  const std::uint32_t bars = smem_address(smem) + team * kDecodeTeamBarriers * 8;
  const std::uint32_t sum_full = bars + 8 * kDecodeSumBarriers;
  const std::uint32_t sum_added = bars + 8 * kDecodeAddedBarriers;
  // The tiles of this block, and of this team among them.
  const int block = static_cast<int>(blockIdx.x);
  const int begin = block * plan.block_tiles + min(block, plan.more_tiles);
  const int end = begin + plan.block_tiles + (block < plan.more_tiles ? 1 : 0);
  const int first_tile = begin + team, count = (end - first_tile + kTeams - 1) / kTeams;
  auto* c_rows = reinterpret_cast<std::int64_t*>(smem + kDecodeBarrierBytes);
  auto* decode_a = reinterpret_cast<float*>(c_rows + kDecodeMaxTokens);
  float* part = reinterpret_cast<float*>(smem + plan.part_offset) + team * kSlots * kWarpsK * kPart;
  float* pend = reinterpret_cast<float*>(smem + plan.pend_offset) +
                team * plan.group_tiles * plan.levels * kPend;
  const std::uint32_t team_ring =
      smem_address(smem) + plan.ring_offset + team * plan.stages * kStageBytes;
  const std::uint32_t ring = team_ring + warp_k * kSlices * kUnitBytes;
  const std::uint32_t raw = smem_address(smem) + plan.raw_offset + warp * decode_raw_bytes(kShape);

  const std::uint8_t* source =
      args.weights + static_cast<std::int64_t>(first_tile) * plan.slices * kUnitBytes;
  const auto tile_step = static_cast<std::uint32_t>(kTeams * plan.slices * kUnitBytes);
  auto* next_load = reinterpret_cast<DecodeCursor*>(decode_a + kDecodeMaxTokens) + team;
  const int items = count > 0 ? count * plan.rounds : 0;
  const auto issue = [&](int stage) {  // by one lane; the next lane sees the cursor moved on
    DecodeCursor load = *next_load;
    const int skip = load.round * (kWarpsK * kSlices);
    const std::uint32_t bytes = min(kWarpsK * kSlices, plan.slices - skip) * kUnitBytes;
    const std::uint32_t bar = bars + 8 * (kDecodeFullBarriers + stage);
    barrier_expect(bar, bytes);
    bulk_load(team_ring + stage * kStageBytes,
              source + static_cast<std::int64_t>(load.i) * tile_step + skip * kUnitBytes, bytes,
              bar);
    load.next(count, plan);
    *next_load = load;
  };

  // A lane each of four warps for the barriers: a warp's lanes would take turns.
  if (lane == 0 && warp_k < 4) {
    const int arrivals = warp_k == 0 ? 1 : (warp_k == 3 ? jobs : kWarpsK) * kArrivals;
#pragma unroll 1
    for (int x = 0; x < 4; ++x) barrier_init(bars + 8 * (warp_k * 4 + x), arrivals);
    fence_async_proxy();
  }
  // What is asked for later waits behind all that was asked for before: the activations go first.
  fetch_raw<kShape>(args, warp_k * kSlices, lane, raw);
  if (warp_k == 0 && lane == 0) {
    next_load->start(count, plan);
    for (int s = 0; s < min(plan.stages, items); ++s) issue(s);
  }
  for (int m = static_cast<int>(threadIdx.x); m < args.rows; m += kDecodeWarps * 32) {
    decode_a[m] = args.a_scale.decode(args.first_row + m);
    c_rows[m] = args.c_rows.offset(args.first_row + m);
  }
  const float decode_b = args.b_scale.decode(0);
  wait_raw();
  std::uint32_t activations[kGroups][8][kTokenTiles][2];
  make_fragments<kShape>(lane, raw, activations);
  __syncthreads();
  if (plan.rounds > 1) fetch_raw<kShape>(args, (kWarpsK + warp_k) * kSlices, lane, raw);
  if (items == 0) return;

  constexpr int kRoundShift = 20;
  const int own = t * kShared / 4;  // the slice of a group whose columns this lane holds
  int stage = 0, current_round = 0;
  std::uint32_t phase = 0;
  DecodeCursor at;
  at.start(count, plan);
  int before[kLag] = {};  // tiles and rounds of the items before: i | round << kRoundShift
  for (int item = 0; item < items + kLag; ++item) {
    const bool more = item < items;
    if (item > 0 &&
        item - 1 + plan.stages < items) {  // the stage of the item before: to be refilled
      if (warp_k == (item & (kWarpsK - 1)) && lane == 0) {
        const int free_stage = stage == 0 ? plan.stages - 1 : stage - 1;
        barrier_wait(bars + 8 * (kDecodeFreeBarriers + free_stage), stage == 0 ? phase ^ 1 : phase);
        issue(free_stage);
      }
    }
    __syncwarp();
    if (more) {
      if (at.round != current_round) {
        current_round = at.round;
        wait_raw();
        make_fragments<kShape>(opaque(lane), raw, activations);
        __syncwarp();
        const int next = at.round + 1 == plan.rounds ? 0 : at.round + 1;
        fetch_raw<kShape>(args, (next * kWarpsK + warp_k) * kSlices, opaque(lane), raw);
      }
      float4 sum[kGroups][kTokenTiles];
      const int have = plan.slices - (at.round * kWarpsK + warp_k) * kSlices;
      barrier_wait(bars + 8 * (kDecodeFullBarriers + stage), phase);
      multiply<kShape>(ring + stage * kStageBytes, have, own, lane, activations, sum);
      __syncwarp();
      if (lane < kArrivals) barrier_arrive(bars + 8 * (kDecodeFreeBarriers + stage));
      if (++stage == plan.stages) stage = 0, phase ^= 1;
      const int slot = item % kSlots;
      if (item >= kSlots) barrier_wait(sum_added + 8 * slot, (item / kSlots & 1) ^ 1);
      put_sums<kShape>(sum[0], g, t, part + (slot * kWarpsK + warp_k) * kPart);
      __syncwarp();
      if (lane < kArrivals) barrier_arrive(sum_full + 8 * slot);
    }
    const int last_i = before[kLag - 1] & ((1 << kRoundShift) - 1);
    const int last_round = before[kLag - 1] >> kRoundShift;
    int job = (warp_k - last_i * jobs) & (kWarpsK - 1);
    if (item >= kLag && job < jobs) {  // the team's sums of an earlier item
      const int last_slot = (item - kLag) % kSlots;
      barrier_wait(sum_full + 8 * last_slot, (item - kLag) / kSlots & 1);
      const int in_job = opaque(lane), row = in_job & 15;
      const int n = (first_tile + last_i * kTeams) * kTileRows + row;
      for (; job < jobs; job += kWarpsK) {
        const int m = kOne ? 0 : job * 2 + in_job / 16;
        float v = add_sums<kWarpsK>(
            part + last_slot * kWarpsK * kPart + m * kDecodeTokenStride + row, kPart);
        __syncwarp();
        if (lane < kArrivals) barrier_arrive(sum_added + 8 * last_slot);
        // One warp has all rounds of a tile's outputs: no barrier between them.
        const bool mine = !kOne || in_job < 16;
        float* pending = pend + (last_i % plan.group_tiles) * plan.levels * kPend + m * 16 + row;
        if (last_round + 1 == plan.rounds) {
          int level = 0;
          for (int x = last_round; x != 0; x >>= 1, ++level) {
            if ((x & 1) != 0) v = __fadd_rn(pending[kPend * level], v);
          }
          if (mine && m < args.rows) put_output(args, c_rows[m] + n, n, v, decode_a[m], decode_b);
        } else {
          int level = 0;
          for (int x = last_round; (x & 1) != 0; x >>= 1) {
            v = __fadd_rn(pending[kPend * level++], v);
          }
          if (mine) pending[kPend * level] = v;
          __syncwarp();
        }
      }
    }
#pragma unroll
    for (int x = kLag - 1; x > 0; --x) before[x] = before[x - 1];
    before[0] = at.i | at.round << kRoundShift;
    if (more) at.next(count, plan);
  }
#endif
}

}  // namespace halfbyte::ops::cuda
