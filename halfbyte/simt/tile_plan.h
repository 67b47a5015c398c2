// How rows are laid over CTAs by simt/row_tile.cuh: a pure function of the problem, printable and
// testable without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace halfbyte::simt {

// A row of 16 * leaves elements over `split` CTAs of `warps` warps, leaves_a_lane leaves a lane.
struct TilePlan {
  int leaves_a_lane = 0;   // 1, 2, 4; 0: no such plan, the general kernel takes these rows
  int warps = 0;           // of a CTA and a row, 1 to 16
  int rows_a_cta = 0;      // more than 1 for rows of one warp alone
  int split = 1;           // CTAs of a row
  bool shared = false;     // each of them reads all of it, and writes a part
  bool persistent = true;  // CTAs stay and take rows while there are any; else two rows each
  bool plain = true;       // by the kernels for plain problems

  explicit operator bool() const { return leaves_a_lane != 0; }
  int threads() const { return warps * 32 * rows_a_cta; }
  bool operator==(const TilePlan&) const = default;
};

inline constexpr int kMostTileWarps = 16;
inline constexpr std::int64_t kMostTileColumns = 16 * 32 * 4 * kMostTileWarps;  // of a CTA

struct TileProblem {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  int multiprocessors = 0;
  bool whole_rows = true;     // something of a row is summed or compared: one CTA has all of it
  bool updates_rows = false;  // reads and writes rows of T: bound by memory, not by instructions
  bool plain = true;          // y is quantized into one layout, and nothing else is wanted
};

// Measured on an H200 (docs/performance.md): two leaves a lane share the work of a row; few rows
// want more warps, and more multiprocessors; what reads as much as it writes runs faster as short
// CTAs, which drift apart, than as resident ones, which read and write all at the same time.
inline TilePlan tile_layout(const TileProblem& problem) {
  constexpr int kRowsOfOneWarp = 4;
  constexpr std::int64_t kLongest = std::int64_t{1} << 28;
  const std::int64_t most = problem.whole_rows ? kMostTileColumns : kLongest;
  if (problem.columns % 16 != 0 || problem.columns < 16 || problem.columns > most) return {};
  const auto leaves = static_cast<int>(problem.columns / 16);
  const auto warps = [&](int leaves_a_lane) {
    return (leaves + 32 * leaves_a_lane - 1) / (32 * leaves_a_lane);
  };
  if (leaves <= 32) return {1, 1, kRowsOfOneWarp};
  const bool takes_one_leaf = problem.plain && warps(1) <= kMostTileWarps;
  if (takes_one_leaf && !problem.whole_rows &&
      problem.rows <= 2 * std::int64_t{problem.multiprocessors}) {
    const bool splits = problem.rows * 2 <= problem.multiprocessors && warps(1) > 4;
    return splits ? TilePlan{1, 4, 1, (warps(1) + 3) / 4} : TilePlan{1, warps(1), 1};
  }
  if (takes_one_leaf && problem.whole_rows && problem.rows * 4 <= problem.multiprocessors) {
    // Not where one CTA could read what another has updated.
    const bool shares = warps(1) > 4 && !problem.updates_rows;
    return shares ? TilePlan{1, warps(1), 1, std::min(4, (warps(1) + 3) / 4), true}
                  : TilePlan{1, warps(1), 1};
  }
  if (warps(2) <= kMostTileWarps) {
    const bool persistent = !problem.updates_rows || problem.rows < 16 * problem.multiprocessors;
    return {2, warps(2), 1, 1, false, persistent};
  }
  if (!problem.whole_rows) return {2, 8, 1, (warps(2) + 7) / 8};
  return {4, warps(4), 1};
}

inline TilePlan tile_plan(const TileProblem& problem) {
  TilePlan plan = tile_layout(problem);
  plan.plain = problem.plain && plan.rows_a_cta == 1;
  return plan;
}

inline std::string to_string(const TilePlan& plan) {
  if (!plan) return "general kernel";
  return std::to_string(plan.rows_a_cta) + " rows a CTA, " + std::to_string(plan.warps) +
         " warps, " + std::to_string(plan.leaves_a_lane) + " leaves a lane" +
         (plan.split > 1 ? ", " + std::to_string(plan.split) + " CTAs a row" : "") +
         (plan.shared ? " that each read all of it" : "") +
         (plan.persistent ? "" : ", two rows a CTA");
}

}  // namespace halfbyte::simt
