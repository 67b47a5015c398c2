// How rows are laid over CTAs by simt/row_tile.cuh: a pure function of the problem, printable and
// testable without a GPU.
#pragma once

#include <cstdint>
#include <string>

namespace halfbyte::simt {

// A row of 16 * leaves elements over `warps` warps, leaves_a_lane leaves a lane.
struct TilePlan {
  int leaves_a_lane = 0;  // 1, 2, 4; 0: no such plan, the general kernel takes these rows
  int warps = 0;          // of a row, 1 to 16
  int rows_a_cta = 0;     // more than 1 for rows of one warp alone

  explicit operator bool() const { return leaves_a_lane != 0; }
  int threads() const { return warps * 32 * rows_a_cta; }
  bool operator==(const TilePlan&) const = default;
};

inline constexpr int kMostTileWarps = 16;
inline constexpr std::int64_t kMostTileColumns = 16 * 32 * 4 * kMostTileWarps;

// What of an operator decides: one that is bound by instructions wants two leaves a lane, which
// share the work of a row; one that is bound by memory, or has few rows, wants many warps.
struct TileProblem {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  int multiprocessors = 0;
  bool memory_bound = false;  // two or more reads of T an element
};

inline TilePlan tile_plan(const TileProblem& problem) {
  constexpr int kRowsOfOneWarp = 4;
  if (problem.columns % 16 != 0 || problem.columns < 16 || problem.columns > kMostTileColumns) {
    return {};
  }
  const auto leaves = static_cast<int>(problem.columns / 16);
  const auto warps = [&](int leaves_a_lane) {
    return (leaves + 32 * leaves_a_lane - 1) / (32 * leaves_a_lane);
  };
  if (leaves <= 32) return {1, 1, kRowsOfOneWarp};
  const bool few_rows = problem.rows <= 2 * problem.multiprocessors;
  if ((few_rows || problem.memory_bound) && warps(1) <= kMostTileWarps) return {1, warps(1), 1};
  for (const int leaves_a_lane : {2, 4}) {
    if (warps(leaves_a_lane) <= kMostTileWarps) return {leaves_a_lane, warps(leaves_a_lane), 1};
  }
  return {};
}

inline std::string to_string(const TilePlan& plan) {
  if (!plan) return "general kernel";
  return std::to_string(plan.rows_a_cta) + " rows a CTA, " + std::to_string(plan.warps) +
         " warps a row, " + std::to_string(plan.leaves_a_lane) + " leaves a lane";
}

}  // namespace halfbyte::simt
