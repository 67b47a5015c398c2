// Which tiles and slices a block of the tensor-core kernel has, and how blocks that share a tile
// add up their sums.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_tensor_core_parts.cuh"

namespace halfbyte::ops::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Slices first to last - 1 of a tile, then of the next. Whole waves of tiles go to the blocks in
// turn. Of the others, where the plan shares, the slices are one range, of which each block has as
// much, the last blocks what is first: then the block with a tile's first slices waits for blocks
// before it alone, which have started when it has.
struct TensorCoreWalk {
  int tile, first, last;  // tile < 0: no more
  int step, whole, from, to;

  __device__ __forceinline__ TensorCoreWalk(const TensorCorePlan& plan, int tiles) {
    const int split = plan.split, block = static_cast<int>(blockIdx.x), rank = block % split;
    const int slices = plan.slices;
    step = static_cast<int>(gridDim.x) / split;
    tile = block / split;
    first = static_cast<int>(std::int64_t{slices} * rank / split);
    last = static_cast<int>(std::int64_t{slices} * (rank + 1) / split);
    whole = tiles, from = to = 0;
    if (plan.shares) {
      whole = tiles / step * step;
      from = start(plan, tiles, step - 1 - block);
      to = start(plan, tiles, step - block);
    }
    if (tile >= whole) share(slices);
  }
  // Where the share of the block that is the i-th from the end begins.
  __device__ __forceinline__ static int start(const TensorCorePlan& plan, int tiles, int i) {
    const int blocks = static_cast<int>(gridDim.x), units = tiles % blocks * plan.slices;
    return units / blocks * i + min(i, units % blocks);
  }
  __device__ __forceinline__ void share(int slices) {
    tile = -1;
    if (from == to) return;
    tile = whole + from / slices;
    first = from % slices;
    last = min(slices, first + to - from);
    from += last - first;
  }
  __device__ __forceinline__ void next(int slices) {
    if (tile < whole) tile += step;
    if (tile >= whole) share(slices);
  }
};

// Sums of a warp: of a lane kTokens / 8 times four.
template <int kTokens>
__device__ __forceinline__ float4* warp_parts(const TensorCoreArgs& args, int block) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  return args.parts + (block * args.plan.warps + warp) * (kTokens / 8 * 32) + lane;
}

template <int kTokens>
__device__ __forceinline__ void give_sums(const TensorCoreArgs& args,
                                          const float (&sums)[kTokens / 2]) {
  const int block = static_cast<int>(blockIdx.x), warp = static_cast<int>(threadIdx.x) / 32;
  float4* to = warp_parts<kTokens>(args, block);
#pragma unroll
  for (int i = 0; i < kTokens / 8; ++i) {
    asm volatile("st.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(to + i * 32), "f"(sums[4 * i]),
                 "f"(sums[4 * i + 1]), "f"(sums[4 * i + 2]), "f"(sums[4 * i + 3])
                 : "memory");
  }
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    asm volatile("fence.acq_rel.gpu;\nst.relaxed.gpu.global.u32 [%0], 1;" ::"l"(
                     args.flags + block * args.plan.warps + warp)
                 : "memory");
  }
}

// Adds those of the other slices of shared tile `tile`, of which this block has the first: the
// blocks before it, in the order of K.
template <int kTokens>
__device__ __forceinline__ void take_sums(const TensorCoreArgs& args, int tiles, int tile,
                                          float (&sums)[kTokens / 2]) {
  const int blocks = static_cast<int>(gridDim.x);
  const int end = (tile - tiles / blocks * blocks + 1) * args.plan.slices;
  int block = static_cast<int>(blockIdx.x);
#pragma unroll 1
  while (TensorCoreWalk::start(args.plan, tiles, blocks - block) < end) {  // of the block before
    --block;
    const std::uint32_t* flag = args.flags + block * args.plan.warps + threadIdx.x / 32;
    std::uint32_t there;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(flag) : "memory");
    } while (__any_sync(kWholeWarp, there == 0));  // a branch that the compiler knows as uniform
    const float4* from = warp_parts<kTokens>(args, block);
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
      float4 v;
      asm volatile("ld.global.v4.f32 {%0,%1,%2,%3}, [%4];"
                   : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                   : "l"(from + i * 32)
                   : "memory");
      sums[4 * i] = __fadd_rn(sums[4 * i], v.x);
      sums[4 * i + 1] = __fadd_rn(sums[4 * i + 1], v.y);
      sums[4 * i + 2] = __fadd_rn(sums[4 * i + 2], v.z);
      sums[4 * i + 3] = __fadd_rn(sums[4 * i + 3], v.w);
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace halfbyte::ops::cuda
