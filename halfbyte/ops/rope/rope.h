// rope: rotary position embedding of each head of each token, forward or inverse.
//
//   (a, b) -> T(a*c - b*s), T(a*s + b*c)       every pair, with c, s of the token's position
//
// Bit-exact (docs/numerics.md, "RoPE"): the same bits whatever the device, threads or batch.
// Arguments are checked first: an error names argument, expected and actual, and nothing is
// written. q and k, which have different numbers of heads, are two calls.
#pragma once

#include "halfbyte/base/execution.h"
#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/ops/rope/rope_math.h"

namespace halfbyte::ops {

using base::TensorView;

struct RopeArgs {
  TensorView x;          // fp32, fp16 or bf16 (T) [M, heads, D], last dimension dense, any strides
  TensorView positions;  // i32 or i64 [M], contiguous, each a row of the tables: 0 .. P - 1
  TensorView cos;        // fp32 [P, rope_dim / 2], last dimension dense, any row stride
  TensorView sin;        // the same
  // out: T, the shape of x, any strides that keep its rows apart. In place: the very view x is.
  // Elements that are not rotated are copied, and in place stay untouched.
  TensorView y;
  RopeStyle style = RopeStyle::kNeox;
  std::int64_t rope_dim = 0;     // elements of a head that are rotated: even, 2 .. D; 0: D
  std::int64_t rope_offset = 0;  // where they start; rope_offset + rope_dim <= D
  bool inverse = false;          // rotate back
};

// A position out of range is an error on the CPU. On CUDA, where the host does not see it, its
// token is left unrotated: untouched in place, else copied.
HALFBYTE_API base::Status rope(const RopeArgs& args, const base::Execution& execution = {});

}  // namespace halfbyte::ops
