// How rows are laid over a GPU: a pure function of the problem, printable and testable without one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace halfbyte::simt {

// One CTA a row, looping where there are more rows than CTAs; a thread takes 16 elements at a time.
struct RowPlan {
  int threads = 0;  // a CTA, a power of two from 32 to 256
  int ctas = 0;     // 0: nothing to launch

  bool operator==(const RowPlan&) const = default;
};

inline RowPlan row_plan(std::int64_t rows, std::int64_t columns) {
  constexpr int kMaxThreads = 256;
  constexpr std::int64_t kMaxCtas = (std::int64_t{1} << 31) - 1;
  RowPlan plan{32, static_cast<int>(std::min(rows, kMaxCtas))};
  while (plan.threads < kMaxThreads && plan.threads * std::int64_t{16} < columns) plan.threads *= 2;
  return plan;
}

inline std::string to_string(const RowPlan& plan) {
  return std::to_string(plan.ctas) + " CTAs of " + std::to_string(plan.threads) + " threads";
}

}  // namespace halfbyte::simt
