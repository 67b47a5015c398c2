// What the stream kernel is called with.
#pragma once

#include <cstdint>

#include "halfbyte/ops/gemm/gemm_stream_plan.h"

namespace halfbyte::ops::cuda {

// What the kernel wants first lies together: constants come from memory too.
struct StreamArgs {
  const std::uint8_t* weights;
  bool wait;              // for the kernel before this one on the stream
  bool constant_weights;  // B may be read before that
  // A has one stride, row_bytes, blocks can be read whole, and scales have offsets of 32 bits.
  bool regular;
  int halves;  // of blocks: eight columns
  StreamPlan plan;
  std::int64_t row_bytes;
  GemmProblem problem;
};

// Whether A has one stride, its columns can be read eight at once (4 bytes of codes, 16 of values)
// and its scales lie at offsets of 32 bits: the short way of reading it.
inline bool is_regular_stream(const GemmProblem& problem) {
  const base::RowMap& rows = problem.quantized ? problem.a_rows : problem.x_rows;
  const void* first = problem.quantized ? problem.a_codes : problem.x;
  const std::int64_t to = problem.quantized ? 4 : 16, unit = problem.quantized ? 1 : 2;
  constexpr std::int64_t kMostScales = std::int64_t{1} << 31;
  return rows.inner_rows == rows.rows && reinterpret_cast<std::intptr_t>(first) % to == 0 &&
         rows.inner_stride * unit % to == 0 &&
         (problem.a_scale_rows + 128) * (problem.blocks() + 4) < kMostScales;
}

// It waits for nothing.
inline StreamArgs stream_args(const GemmProblem& problem, const StreamPlan& plan) {
  StreamArgs args{};
  args.weights = problem.b_prepared;
  args.plan = plan;
  args.problem = problem;
  args.halves = static_cast<int>(problem.k / 8);
  args.row_bytes =
      problem.quantized ? problem.a_rows.inner_stride : 2 * problem.x_rows.inner_stride;
  args.regular = is_regular_stream(problem);
  return args;
}

}  // namespace halfbyte::ops::cuda
