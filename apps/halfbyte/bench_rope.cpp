// Cases of rope, in place as engines call it: M tokens of H = heads x head_dim, each token at a
// position of its own, so that every row of the tables must be read.
#include <string>

#include "apps/halfbyte/bench_cases.h"
#include "halfbyte/ops/rope/rope.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Execution;
using base::Status;

// What was asked for; else what is common and divides H.
std::int64_t head_dim_of(const BenchOptions& options, std::int64_t columns) {
  if (options.head_dim != 0) return options.head_dim;
  for (const std::int64_t common : {128, 64}) {
    if (columns % common == 0) return common;
  }
  return columns;
}

}  // namespace

BenchCase bench_rope(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const std::int64_t rows = shape.rows, columns = shape.columns;
  const std::int64_t head_dim = head_dim_of(options, columns);
  const bool gptj = options.gptj;
  const int x =
      result.add(Role::kUpdate, options.dtype, {rows, columns / head_dim, head_dim}, Fill::kNormal);
  const int positions = result.add(Role::kRead, DType::kI32, {rows}, Fill::kIndex);
  const int cos = result.add(Role::kRead, DType::kF32, {rows, head_dim / 2}, Fill::kCos);
  const int sin = result.add(Role::kRead, DType::kF32, {rows, head_dim / 2}, Fill::kSin);
  result.fused = [=](const TensorSet& set, const Execution& execution) -> Status {
    if (columns % head_dim != 0) {
      return base::invalid_argument("--head-dim", "a divisor of H = " + std::to_string(columns),
                                    std::to_string(head_dim));
    }
    ops::RopeArgs args;
    args.x = set[x];
    args.y = args.x;
    args.positions = set[positions];
    args.cos = set[cos];
    args.sin = set[sin];
    args.style = gptj ? ops::RopeStyle::kGptj : ops::RopeStyle::kNeox;
    return ops::rope(args, execution);
  };
  return result;
}

}  // namespace halfbyte::app
