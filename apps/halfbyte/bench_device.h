// What the benchmark does on a CUDA device beside running operators: fills, compares, times. In a
// build without CUDA every function says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "apps/halfbyte/measure.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

// The ranges do not overlap.
base::Status copy_on_device(void* to, const void* from, std::size_t bytes);
base::Status set_on_device(void* address, std::byte value, std::size_t bytes);
// Waits for all work on the device first. Both addresses are aligned to 16 bytes.
base::Result<bool> equal_on_device(const void* a, const void* b, std::size_t bytes);

// Enqueues the work once, on buffers that rotate with `call`. Can be captured in a graph.
using DeviceWork = std::function<base::Status(void* stream, std::int64_t call)>;

// Times graphs of launches by events. Before each replay the L2 is emptied by reading three times
// its size from elsewhere, outside of the time taken: a set of buffers that a replay touches once
// is cold even where all sets together would fit.
class DeviceTimer {
 public:
  static constexpr int kMostCalls = 20;  // launches in a graph

  static base::Result<DeviceTimer> create();
  ~DeviceTimer();
  DeviceTimer(DeviceTimer&& other) noexcept;
  DeviceTimer& operator=(DeviceTimer&& other) noexcept;

  // A graph of clamp(budget_us / t, 1, kMostCalls) launches each; `replays` replays that alternate
  // between the candidates, after a warm-up.
  base::Result<std::vector<Timing>> time(std::span<const DeviceWork> candidates, double budget_us,
                                         int replays);

 private:
  struct State;
  explicit DeviceTimer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::app
