// How the tensor-core kernel (gemm_cuda_tensor_core.cuh) divides a product: a pure function of
// shapes and the device's properties.
#pragma once

#include <cstdint>
#include <string>

#include "halfbyte/ops/gemm/gemm_weights_math.h"

namespace halfbyte::ops {

struct GemmProblem;
struct GemmDevice;

// What the operands become: weights and activations in fp16 (NVFP4 weights with NVFP4 or fp16
// activations) or bf16 (NVFP4 weights with bf16 activations; MXFP4 weights).
enum class TensorCoreKind { kFp16, kBf16, kMxfp4 };

// A tile: rows of A, and warps that multiply, each of which has 16 rows of N.
struct TensorCoreShape {
  int tokens = 0, warps = 0;
  constexpr bool operator==(const TensorCoreShape&) const = default;
  constexpr int rows() const { return warps * kTileRows; }  // of N
};
// The compiled ones; rows in groups have those of kTensorCoreMaxWarps.
inline constexpr int kTensorCoreMaxWarps = 16;
inline constexpr TensorCoreShape kTensorCoreShapes[] = {{16, 16},  {32, 16},  {64, 16}, {96, 16},
                                                        {128, 16}, {128, 12}, {16, 8},  {32, 8},
                                                        {64, 8},   {128, 8}};
// What the operands are scaled by: NVFP4 weights, and NVFP4 A, by 2^-7, MXFP4 weights by 2^-64.
inline constexpr int kTensorCoreNvfp4Exponent = 7, kTensorCoreMxfp4Exponent = 64;
inline constexpr int kTensorCoreMaxStages = 8;
inline constexpr int kTensorCoreMaxSplit = 8;
inline constexpr int kTensorCoreMaxGroups = 1024;  // of rows (experts)

struct TensorCorePlan {
  int tokens = 0, warps = 0;     // of a tile (TensorCoreShape); tokens == 0: no plan
  int split = 1;                 // blocks of a cluster, which divide K
  int tiles_m = 0, tiles_n = 0;  // of C; with groups tiles_m is what there may be at most
  int groups = 0;                // of rows
  int slices = 0;                // of K, 128 columns
  int group_m = 0;               // tiles of M next to each other in time
  int blocks = 0;                // a multiple of split
  bool shares = false;           // blocks share the slices of the tiles that are no full wave
  int stages = 0;                // slices in flight
  int shared_bytes = 0;

  HALFBYTE_HD constexpr int rows() const { return warps * kTileRows; }  // of N a tile
};

constexpr int tensor_core_stage_bytes(formats::Format format, TensorCoreShape shape) {
  return shape.tokens * kUnitColumns * 2 + shape.warps * unit_bytes(format);
}
// The ring's alignment, and what lies behind it: 32 tokens of 64 rows of N for each four warps, on
// their way to C; the stages' barriers (full, free).
inline constexpr int kTensorCoreAlign = 1024;
inline constexpr int kTensorCoreStagedTokens = 32;
inline constexpr int kTensorCoreStagedBytes = kTensorCoreStagedTokens * 128;  // of four warps
inline constexpr int kTensorCoreBehind =
    kTensorCoreMaxWarps / 4 * kTensorCoreStagedBytes + 2 * kTensorCoreMaxStages * 8;
// And of each group: its rows, its tiles, its two scales (gemm_cuda_tensor_core_groups.cuh).
inline constexpr int kTensorCoreGroupBytes = 20;

TensorCoreKind tensor_core_kind(const GemmProblem& problem);
// nullptr: the kernel takes the problem.
const char* no_tensor_core(const GemmProblem& problem, const GemmDevice& device);
// Clusters of `split` blocks that run together.
int tensor_core_clusters(const GemmDevice& device, int split);
TensorCorePlan plan_tensor_core(const GemmProblem& problem, const GemmDevice& device);
// Tiles of M, over all groups: what their rows need at most, and about what they are to be.
struct TensorCoreTiles {
  std::int64_t most = 0, likely = 0;
};
TensorCoreTiles tensor_core_tiles_m(const GemmProblem& problem, int tokens);
// About what it takes, to compare plans.
std::int64_t tensor_core_nanoseconds(const GemmProblem& problem, const TensorCorePlan& plan,
                                     const GemmDevice& device);
// With numbers of the caller's; tokens == 0: it does not fit.
TensorCorePlan plan_tensor_core(const GemmProblem& problem, const GemmDevice& device,
                                TensorCoreShape shape, int split, bool shares = false);

// Of a plan that shares, in the workspace: a block's sums, and a flag of each of its warps.
constexpr std::int64_t tensor_core_part_bytes(const TensorCorePlan& plan) {
  return plan.shares ? std::int64_t{plan.blocks} * plan.tokens * plan.rows() * 4 : 0;
}
constexpr int tensor_core_flags(const TensorCorePlan& plan) {
  return plan.shares ? plan.blocks * plan.warps : 0;
}

std::string to_string(const TensorCorePlan& plan);

}  // namespace halfbyte::ops
