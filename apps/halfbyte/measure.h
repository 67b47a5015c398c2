// Timing on the CPU: medians of replays that alternate between what is compared.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace halfbyte::app {

// Does the work once, on buffers that rotate with `call`.
using TimedCall = std::function<void(std::int64_t call)>;

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Microseconds a call of each. A replay makes enough calls to fill kReplayUs; the replays of all
// candidates alternate, so that a disturbance of the machine meets all of them. `call` counts up
// through everything that is run: buffers that rotate with it are as cold as their number allows.
inline std::vector<double> median_us(std::span<const TimedCall> candidates, int replays = 21) {
  constexpr double kReplayUs = 1000;  // below a time slice: most replays are undisturbed
  constexpr double kMostCalls = 1000;
  std::int64_t call = 0;
  const auto replay = [&](const TimedCall& work, int calls) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) work(call++);
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    return time.count() / calls;
  };
  std::vector<int> calls;
  for (const TimedCall& work : candidates) {
    replay(work, 2);  // warm-up: code, page tables, threads
    const double once = std::max(replay(work, 3), 0.01);
    calls.push_back(static_cast<int>(std::clamp(kReplayUs / once, 1.0, kMostCalls)));
  }
  std::vector<std::vector<double>> times(candidates.size());
  for (int round = 0; round < replays; ++round) {
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      times[i].push_back(replay(candidates[i], calls[i]));
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& of_one : times) medians.push_back(median(std::move(of_one)));
  return medians;
}

}  // namespace halfbyte::app
