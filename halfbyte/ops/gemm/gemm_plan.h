// Which kernel computes a product on a CUDA device, with which numbers, and why: a pure function of
// shapes, types and the device's properties.
#pragma once

#include <cstdint>
#include <string>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/gemm/gemm_device.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/ops/gemm/gemm_stream_plan.h"
#include "halfbyte/ops/gemm/gemm_tensor_core_plan.h"

namespace halfbyte::ops {

// How the decode kernel (gemm_cuda_decode.cuh) divides its work. `tokens` rows of A at once, in
// `token_tiles` tiles of 8; `slices_shared` slices of K share the eight columns of a product.
struct DecodeShape {
  int token_tiles = 1;
  bool one_token = false;
  int slices_shared = 1;
  int groups = 1;    // of shared slices a warp takes at once
  int warps_k = 16;  // warps along K

  HALFBYTE_HD constexpr int tokens() const {
    return one_token ? 1 : token_tiles * 8 / slices_shared;
  }
  HALFBYTE_HD constexpr int slices() const { return slices_shared * groups; }
  constexpr bool operator==(const DecodeShape&) const = default;
};

inline constexpr int kDecodeWarps = 16;
inline constexpr int kDecodeMaxTokens = 32;  // rows of A a launch
// The shapes that are compiled.
inline constexpr DecodeShape kDecodeShapes[] = {
    {1, true, 4, 1, 8},   {1, true, 4, 1, 16},  {1, false, 4, 1, 8},
    {1, false, 4, 1, 16}, {1, false, 2, 1, 16}, {1, false, 2, 2, 16},
    {1, false, 1, 2, 16}, {2, false, 1, 2, 16}, {4, false, 1, 1, 16},
};

struct DecodePlan {
  DecodeShape shape;
  int blocks = 0;
  int tiles = 0, slices = 0;  // of the weights: 16 rows, 128 columns
  int block_tiles = 0;        // of a block; one more in the first `more_tiles` blocks
  int more_tiles = 0;
  int rounds = 0;       // passes over K
  int levels = 0;       // of the tree above the rounds
  int group_tiles = 0;  // tiles of a team before the next pass
  int stages = 0;       // of weights in flight
  int shared_bytes = 0;
  int part_offset = 0, pend_offset = 0, raw_offset = 0, ring_offset = 0;
};

enum class GemmKernelKind { kDecode, kStream, kAny, kDequantize, kTensorCore, kFp8, kBlockScaled };

// Rows of A from which kAuto takes a bounded way (docs/performance.md): the tensor-core kernel, or,
// where that is impossible, cuBLASLt. W4A16 is bounded in any case.
inline constexpr std::int64_t kTensorCoreFromRows = 17, kTensorCoreFromRows16Bit = 9;
inline constexpr std::int64_t kDequantizeRows = 65;
// The same for rows in groups, of which that many fall to a group on average: the tensor-core
// kernel.
inline constexpr std::int64_t kTensorCoreFromGroupRows = 2, kTensorCoreFromGroupRows16Bit = 2;
struct GemmPlan {
  GemmKernelKind kind = GemmKernelKind::kAny;
  DecodePlan decode;
  StreamPlan stream;
  TensorCorePlan tensor_core;
  int launches = 1;  // of decode
  std::string why;
};

// Errors: a method that this build or device has not, saying which it has.
base::Result<GemmPlan> gemm_plan(const GemmProblem& problem, const GemmDevice& device);

// The decode kernel's numbers for `rows` rows of A (1 to kDecodeMaxTokens); stages == 0: it does
// not fit.
DecodePlan plan_decode(const DecodeShape& shape, std::int64_t n, std::int64_t k,
                       const GemmDevice& device);
DecodeShape choose_decode_shape(int rows, std::int64_t n, std::int64_t k, const GemmDevice& device);

std::string to_string(const GemmPlan& plan);

}  // namespace halfbyte::ops
