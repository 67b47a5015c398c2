// What the stream kernel is called with.
#pragma once

#include <cstdint>

#include "halfbyte/ops/gemm/gemm_stream_layout.h"
#include "halfbyte/ops/gemm/gemm_stream_plan.h"
#include "halfbyte/ops/gemm/gemm_weights_math.h"

namespace halfbyte::ops::cuda {

// What the kernel wants first lies together: constants come from memory too.
struct StreamArgs {
  const std::uint8_t* weights;
  bool wait;              // for the kernel before this one on the stream
  bool constant_weights;  // B may be read before that
  // A has one stride, row_bytes, blocks can be read whole, and scales have offsets of 32 bits.
  bool regular;
  bool copies;  // the short kernel copies A as it lies, then makes fragments of it
  int pieces;   // of sixteen columns
  StreamPlan plan;
  std::int64_t row_bytes;
  GemmProblem problem;
};

// Whether A has one stride, its columns can be read sixteen at once (8 bytes of codes, 32 of
// values) and its scales lie at offsets of 32 bits: the short way of reading it.
inline bool is_regular_stream(const GemmProblem& problem) {
  const base::RowMap& rows = problem.quantized ? problem.a_rows : problem.x_rows;
  const void* first = problem.quantized ? problem.a_codes : problem.x;
  const std::int64_t to = problem.quantized ? 8 : 16, unit = problem.quantized ? 1 : 2;
  constexpr std::int64_t kMostScales = std::int64_t{1} << 31;
  return rows.inner_rows == rows.rows && reinterpret_cast<std::intptr_t>(first) % to == 0 &&
         rows.inner_stride * unit % to == 0 &&
         (problem.a_scale_rows + 128) * (problem.blocks() + 4) < kMostScales;
}

// `plan`, or the best without the short kernel where the pointers are not as that wants them.
inline StreamPlan stream_plan_of(const GemmProblem& problem, const StreamPlan& plan,
                                 const GemmDevice& device) {
  return plan.simple && plan.chunks != 0 && !is_regular_stream(problem)
             ? plan_stream(problem, device, false)
             : plan;
}

// Whether the columns of A that a CTA of the short kernel has can be copied 16 bytes at a time to
// where a stage of weights lies later, and are more than the threads hold at once: fewer are faster
// without.
inline bool copies_rows(const GemmProblem& problem, const StreamPlan& plan) {
  if (!problem.quantized || !plan.simple) return false;
  const auto is_even = [](const void* p) { return reinterpret_cast<std::intptr_t>(p) % 16 == 0; };
  const std::int64_t columns = problem.k / plan.split, scales = problem.blocks() / plan.split;
  constexpr std::int64_t kHeld = kStreamPiecesAhead * kStreamThreads * 16;  // columns
  return problem.m * columns > kHeld && columns % 256 == 0 && scales % 16 == 0 &&
         scales <= kStreamThreads * 16 && is_even(problem.a_codes) && is_even(problem.a_scales) &&
         problem.a_rows.inner_stride % 16 == 0 &&
         problem.m * (columns / 2 + scales) <= kStreamWarps * 2 * unit_bytes(problem.format);
}

// The same for the kernel for tokens (gemm_cuda_stream_tokens.cuh), which copies all rows.
inline bool copies_tokens(const GemmProblem& problem) {
  const void* first = problem.quantized ? problem.a_codes : problem.x;
  const std::int64_t row_bytes =
      problem.quantized ? problem.a_rows.inner_stride : 2 * problem.x_rows.inner_stride;
  return reinterpret_cast<std::intptr_t>(first) % 16 == 0 && row_bytes % 16 == 0;
}

// Words of scales must lie at multiples of four bytes there.
inline bool has_scale_words(const GemmProblem& problem) {
  return !problem.quantized || reinterpret_cast<std::intptr_t>(problem.a_scales) % 4 == 0;
}

// It waits for nothing.
inline StreamArgs stream_args(const GemmProblem& problem, const StreamPlan& plan) {
  StreamArgs args{};
  args.weights = problem.b_prepared;
  args.plan = plan;
  args.problem = problem;
  args.pieces = static_cast<int>(problem.k / 16);
  args.row_bytes =
      problem.quantized ? problem.a_rows.inner_stride : 2 * problem.x_rows.inner_stride;
  args.regular = is_regular_stream(problem) && (plan.chunk_blocks == 0 || has_scale_words(problem));
  args.copies = args.regular &&
                (plan.chunk_blocks != 0 ? copies_tokens(problem) : copies_rows(problem, plan));
  return args;
}

}  // namespace halfbyte::ops::cuda
