// How rows are laid over CTAs by simt/row_tile.cuh: a pure function of the problem, printable and
// testable without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace halfbyte::simt {

// A row of 16 * leaves elements over `split` CTAs of `warps` warps, leaves_a_lane leaves a lane.
struct TilePlan {
  int leaves_a_lane = 0;  // 1, 2, 4; 0: no such plan, the general kernel takes these rows
  int warps = 0;          // of a CTA and a row, 1 to 16; of a long row 16 or 32
  int rows_a_cta = 0;     // at once: more than 1 for rows of one warp alone
  int split = 1;          // CTAs of a row
  bool shared = false;    // each of them reads all of it, and writes a part
  int rows_each = 0;      // one after the other; 0: CTAs stay and take rows while there are any
  bool once = false;      // a CTA a row, simt/row_once.cuh
  int shared_bytes = 0;   // not 0: a long row, which lies in that much shared memory
  bool stages_updated = false;  // and what is updated beside it
  bool plain = true;            // by the kernels for plain problems
  bool cluster = false;         // the CTAs of a row are one: simt/row_cluster.cuh
  bool pipelined = false;       // simt/row_pipeline.cuh

  explicit operator bool() const { return leaves_a_lane != 0; }
  int threads() const { return warps * 32 * rows_a_cta; }
  bool operator==(const TilePlan&) const = default;
};

inline constexpr int kMostTileWarps = 16;
inline constexpr int kLongRowScratchBytes = 1280;  // beside a long row

struct TileProblem {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  int multiprocessors = 0;
  std::int64_t shared_bytes = 0;  // that a CTA can have
  std::int64_t element_bytes = 2;
  bool whole_rows = true;     // something of a row is summed or compared: one CTA has all of it
  bool updates_rows = false;  // rows of T are read and written: the residual
  bool plain = true;          // y is quantized into one layout, or stored, and nothing else
  bool quantizes = true;
  bool row_scales = false;  // a scale a row
  bool clusters = false;    // there is simt/row_cluster.cuh for it: a sum, on sm_90 or later
};

// simt/long_row.cuh: 64 leaves are a unit. Two CTAs a multiprocessor, where there is room, fill
// each other's waits.
inline TilePlan long_row_layout(const TileProblem& problem) {
  constexpr std::int64_t kUnitColumns = 1024, kMostUnits = 128, kReservedBytes = 1024;  // of a CTA
  const std::int64_t units = (problem.columns + kUnitColumns - 1) / kUnitColumns;
  std::int64_t row_bytes = units * kUnitColumns * problem.element_bytes;
  const bool stages_updated =
      problem.updates_rows && 2 * row_bytes + kLongRowScratchBytes <= problem.shared_bytes;
  if (stages_updated) row_bytes *= 2;
  const std::int64_t bytes = row_bytes + kLongRowScratchBytes;
  if (units > kMostUnits || bytes > problem.shared_bytes) return {};
  const bool two = 2 * (bytes + kReservedBytes) <= problem.shared_bytes + kReservedBytes &&
                   problem.rows > problem.multiprocessors;
  TilePlan plan{2, two ? 16 : 32, 1};
  plan.shared_bytes = static_cast<int>(row_bytes);
  plan.stages_updated = stages_updated;
  return plan;
}

// Of rows of so many leaves.
struct TileWidths {
  int leaves;

  int warps(int leaves_a_lane) const {
    return (leaves + 32 * leaves_a_lane - 1) / (32 * leaves_a_lane);
  }
  bool fit(int leaves_a_lane) const { return warps(leaves_a_lane) <= kMostTileWarps; }
};

// Few rows, that are long: the CTAs of a row tell each other their sums. What they exchange takes
// half a microsecond, twice where a row has a scale of its own, and from some rows on a
// multiprocessor has work enough without it (docs/performance.md).
inline TilePlan cluster_layout(const TileProblem& problem, TileWidths of) {
  if (!problem.clusters || !problem.plain || !problem.quantizes || problem.rows == 0) return {};
  const bool wide = problem.columns > 16384;
  const std::int64_t shortest = problem.row_scales ? 16384 : problem.updates_rows ? 5120 : 12288;
  const int rows_share = problem.row_scales || problem.columns > 32768      ? 4
                         : problem.updates_rows && problem.columns >= 16384 ? 1
                         : problem.updates_rows || wide                     ? 2
                                                                            : 4;
  if (problem.columns <= shortest || problem.rows * rows_share > problem.multiprocessors) return {};
  const int leaves_a_lane = problem.columns > 32768 ? 2 : 1,
            split = problem.columns > 12288 ? 8 : 4;
  const int warps = (of.warps(leaves_a_lane) + split - 1) / split;
  if (warps > kMostTileWarps) return {};
  TilePlan plan{leaves_a_lane, warps, 1, split};
  plan.cluster = true;
  return plan;
}

// Few rows that are read alone: several CTAs read one. Not where one could read what another has
// updated, and not for a row's own scale, of which each would need all.
inline TilePlan shared_layout(const TileProblem& problem, TileWidths of) {
  const bool few = problem.rows * 4 <= problem.multiprocessors && of.warps(1) > 4;
  if (!few || problem.updates_rows || problem.row_scales || !problem.plain) return {};
  const int leaves_a_lane = of.fit(1) ? 1 : of.fit(2) ? 2 : 4;
  if (!of.fit(leaves_a_lane) || (leaves_a_lane == 4 && !problem.quantizes)) return {};
  const int warps = of.warps(leaves_a_lane);
  const int split = leaves_a_lane == 1                            ? std::min(4, (warps + 3) / 4)
                    : problem.rows * 8 <= problem.multiprocessors ? std::min(8, (warps + 1) / 2)
                                                                  : 4;
  return {leaves_a_lane, warps, 1, split, true};
}

// A norm that is not quantized is bound by memory: many CTAs of a row each, unless there are few
// rows for each multiprocessor.
inline TilePlan norm_layout(const TileProblem& problem, TileWidths of) {
  const std::int64_t multiprocessors = problem.multiprocessors;
  const bool some_each = problem.rows > 2 * multiprocessors && problem.rows < 16 * multiprocessors;
  const bool one_leaf =
      problem.updates_rows || problem.columns <= 4096 || problem.rows <= 2 * multiprocessors;
  if (some_each && !problem.updates_rows && of.fit(2)) return {2, of.warps(2), 1};
  if (one_leaf && of.fit(1)) return {1, of.warps(1), 1, 1, false, 0, true};
  if (of.fit(2)) return {2, of.warps(2), 1, 1, false, 0, true};
  return long_row_layout(problem);
}

// Measured on an H200 (docs/performance.md): two leaves a lane share the work of a row; few rows
// want more warps, and more multiprocessors; what reads as much as it writes runs faster as short
// CTAs, which drift apart, than as resident ones, which read and write all at the same time.
inline TilePlan tile_layout(const TileProblem& problem) {
  constexpr int kRowsOfOneWarp = 4;
  constexpr std::int64_t kLongest = std::int64_t{1} << 28;
  if (problem.columns % 16 != 0 || problem.columns < 16 || problem.columns > kLongest) return {};
  const std::int64_t rows = problem.rows, multiprocessors = problem.multiprocessors;
  const TileWidths of{static_cast<int>(problem.columns / 16)};
  if (of.leaves <= 32) return {1, 1, kRowsOfOneWarp};
  const bool takes_one_leaf = problem.plain && of.fit(1);
  if (!problem.whole_rows) {
    if (problem.plain && rows <= 2 * multiprocessors) {
      const bool splits = !of.fit(1) || (rows * 2 <= multiprocessors && of.warps(1) > 4);
      return splits ? TilePlan{1, 4, 1, (of.warps(1) + 3) / 4} : TilePlan{1, of.warps(1), 1};
    }
    // Parts of four warps: of larger ones, the last may be half empty.
    return of.fit(2) ? TilePlan{2, of.warps(2), 1} : TilePlan{2, 4, 1, (of.warps(2) + 3) / 4};
  }
  if (const TilePlan plan = cluster_layout(problem, of)) return plan;
  if (const TilePlan plan = shared_layout(problem, of)) return plan;
  if (problem.plain && !problem.quantizes) return norm_layout(problem, of);
  const bool few = rows * (problem.updates_rows ? 1 : 8) <= 2 * multiprocessors;
  // The last: two leaves a lane would leave a fifth of the lanes without any.
  const bool wants_one_leaf = (few && !problem.row_scales) ||
                              (!problem.updates_rows && 4 * 64 * of.warps(2) > 5 * of.leaves);
  if (takes_one_leaf && wants_one_leaf) return {1, of.warps(1), 1};
  if (of.fit(2)) {
    const bool small = problem.columns <= 4096 && rows * problem.columns <= std::int64_t{1} << 24;
    const int rows_each = !problem.updates_rows || rows < 4 * multiprocessors ? 0 : small ? 1 : 2;
    return {2, of.warps(2), 1, 1, false, rows_each};
  }
  if (!of.fit(4)) return long_row_layout(problem);
  TilePlan plan{4, of.warps(4), 1};
  // Dealt to sixteen warps, a fourth leaf is all that some have and others not.
  plan.pipelined = problem.plain && !problem.updates_rows && !problem.row_scales &&
                   rows > multiprocessors && of.leaves > 3 * 32 * kMostTileWarps;
  if (plan.pipelined) plan.warps = kMostTileWarps;
  return plan;
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
         (plan.shared ? " that each read all of it" : "") + (plan.cluster ? ", a cluster" : "") +
         (plan.pipelined ? ", the next row's sum within this one's encoding" : "") +
         (plan.once ? ", a CTA a row" : "") + (plan.shared_bytes != 0 ? ", in shared memory" : "") +
         (plan.rows_each != 0 ? ", rows one after the other: " + std::to_string(plan.rows_each)
                              : "");
}

}  // namespace halfbyte::simt
