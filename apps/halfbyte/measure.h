// Timing on the CPU: replays that alternate between what is compared.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace halfbyte::app {

// Microseconds a call, over the replays. The minimum says what the machine can do when nothing
// disturbs it, the median what it did.
struct Timing {
  double median_us = 0;
  double min_us = 0;
};

inline Timing timing_of(std::vector<double> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return {*middle, *std::min_element(times.begin(), times.end())};
}

// Does the work once, on buffers that rotate with `call`.
using TimedCall = std::function<void(std::int64_t call)>;

// A replay makes enough calls to fill kReplayUs; the replays of all candidates alternate, so that a
// disturbance of the machine meets all of them. `call` counts up through everything that is run:
// buffers that rotate with it are as cold as their number allows.
inline std::vector<Timing> time_on_cpu(std::span<const TimedCall> candidates, int replays = 21) {
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
  std::vector<Timing> result;
  for (std::vector<double>& of_one : times) result.push_back(timing_of(std::move(of_one)));
  return result;
}

}  // namespace halfbyte::app
