#include "apps/halfbyte/bench_run.h"

#include <fmt/format.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <span>
#include <vector>

#include "apps/halfbyte/bench_check.h"
#include "apps/halfbyte/device_copy.h"

namespace halfbyte::app {
namespace {

using base::Result;
using base::Status;

constexpr std::byte kUnwritten{0x11};

// The kernel's figure first: in a virtual machine sysconf may give the whole socket's.
std::int64_t last_level_cache_bytes() {
  constexpr std::int64_t kUnknown = 32 << 20, kMost = 512 << 20;
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  std::int64_t kib = 0;
  if (file >> kib && kib > 0) return std::min(kib * 1024, kMost);
  const auto bytes = static_cast<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE));
  return bytes > 0 ? std::min(bytes, kMost) : kUnknown;
}

std::int64_t sets_beyond(std::int64_t cache_bytes, std::int64_t bytes) {
  const std::int64_t one = std::max<std::int64_t>(bytes, 1);
  return std::max<std::int64_t>(1, (3 * cache_bytes + one - 1) / one);
}

// The first error of calls that cannot return one.
struct FirstError {
  Status status;
  void keep(const Status& other) {
    if (status.ok()) status = other;
  }
};

TimedCall floor_call(const Buffers& buffers, std::int64_t sets, FloorVariant variant) {
  return [&buffers, sets, variant](std::int64_t call) {
    stream_floor(buffers.reads(call % sets), buffers.writes(call % sets), variant);
  };
}

DeviceWork cuda_floor_work(const Buffers& buffers, std::int64_t sets, CudaFloorVariant variant) {
  return [&buffers, sets, variant](void* stream, std::int64_t call) {
    return cuda_stream_floor(buffers.reads(call % sets), buffers.writes(call % sets), variant,
                             stream);
  };
}

// What a short sweep found fastest, by minima, which a disturbance does not move: some of them, for
// a longer measurement beside the operator.
template <class Variant>
std::vector<Variant> best_of(std::span<const Variant> variants, std::span<const Timing> times) {
  constexpr std::size_t kKept = 3;
  std::vector<std::size_t> order(variants.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return times[a].min_us < times[b].min_us; });
  order.resize(std::min(order.size(), kKept));
  std::vector<Variant> best;
  for (const std::size_t index : order) best.push_back(variants[index]);
  return best;
}

// Of the times of operator, `floors` variants of the floor, unfused path: the floor is the fastest
// variant, whose number is returned.
std::size_t take_times(std::span<const Timing> times, std::size_t floors, BenchTiming& timing) {
  timing.fused = times[0];
  const std::span<const Timing> of_floors = times.subspan(1, floors);
  const auto best = std::min_element(of_floors.begin(), of_floors.end(),
                                     [](Timing a, Timing b) { return a.median_us < b.median_us; });
  timing.floor = *best;
  if (times.size() > 1 + floors) timing.unfused = times[1 + floors];
  return static_cast<std::size_t>(best - of_floors.begin());
}

}  // namespace

int resolved_threads(int num_threads) {
  return num_threads > 0 ? num_threads : omp_get_max_threads();
}

Result<Bench> Bench::create(const BenchOperator& op, const BenchOptions& options) {
  Bench bench(op, options);
  bench.execution_.backend = options.backend;
  bench.execution_.num_threads = options.num_threads;
  bench.execution_.cpu_level = options.cpu_level;
  if (options.backend != base::Backend::kCuda) return bench;
  bench.device_ = kCudaDevice;
  const std::int64_t shape[] = {base::kComputedWorkspaceBytes};
  Result<OwnedTensor> workspace = OwnedTensor::create(base::DType::kU8, shape, kCudaDevice);
  if (!workspace.ok()) return workspace.status();
  bench.workspace_ = std::move(workspace).value();
  bench.execution_.workspace = bench.workspace_.view().data;
  bench.execution_.workspace_bytes = bench.workspace_.size_bytes();
  Result<DeviceTimer> timer = DeviceTimer::create();
  if (!timer.ok()) return timer.status();
  bench.timer_.emplace(std::move(timer).value());
  return bench;
}

Result<BenchTiming> Bench::measure(BenchShape shape, const ModelNorm* norm) {
  options_.norm = norm;
  const Result<float> scale = fit_scale(*op_, options_, shape, data_);
  if (!scale.ok()) return scale.status();
  const BenchCase bench_case = op_->make(options_, shape);
  *bench_case.scale = scale.value();
  BenchTiming timing;
  timing.bytes_read = bench_case.bytes_read();
  timing.bytes_written = bench_case.bytes_written();
  HALFBYTE_RETURN_IF_ERROR(check(shape, scale.value(), bench_case, timing));
  HALFBYTE_RETURN_IF_ERROR(device_ == kHost ? time_cpu(bench_case, timing)
                                            : time_cuda(bench_case, timing));
  return timing;
}

Status Bench::check(BenchShape shape, float scale, const BenchCase& bench_case,
                    BenchTiming& timing) {
  timing.bits_equal = true;
  if (bench_case.unfused) {
    const Result<bool> equal = equals_unfused(bench_case, device_, execution_, data_);
    if (!equal.ok()) return equal.status();
    timing.bits_equal = equal.value();
  }
  timing.rows_referenced = reference_rows(shape);
  BenchShape referenced = shape;
  referenced.rows = timing.rows_referenced;
  const auto known = references_.find(referenced.name());
  if (options_.norm == nullptr && known != references_.end()) {
    timing.bits_equal = timing.bits_equal && known->second;
    return {};
  }
  const Result<bool> equal =
      equals_reference(*op_, options_, referenced, scale, device_, execution_, data_);
  if (!equal.ok()) return equal.status();
  references_[referenced.name()] = equal.value();
  timing.bits_equal = timing.bits_equal && equal.value();
  return {};
}

// The fastest ways to move the bytes: 1, 2, 4 .. threads, plain or streaming stores, what is read
// at a time before as much is written.
std::vector<FloorVariant> Bench::cpu_floors(const Buffers& buffers, std::int64_t sets,
                                            FloorKey key) {
  if (const auto known = cpu_floors_.find(key); known != cpu_floors_.end()) return known->second;
  constexpr int kReplays = 7;
  const int threads = resolved_threads(options_.num_threads);
  std::vector<FloorVariant> variants;
  for (int n = 1; n < 2 * threads; n *= 2) {
    for (const std::size_t chunk_bytes : {2048, 16384}) {
      for (const bool streaming : {false, true}) {
        variants.push_back({std::min(n, threads), chunk_bytes, streaming});
      }
    }
  }
  std::vector<TimedCall> candidates;
  for (const FloorVariant variant : variants)
    candidates.push_back(floor_call(buffers, sets, variant));
  return cpu_floors_[key] = best_of<FloorVariant>(variants, time_on_cpu(candidates, kReplays));
}

Status Bench::time_cpu(const BenchCase& bench_case, BenchTiming& timing) {
  const std::int64_t sets = sets_beyond(last_level_cache_bytes(), bench_case.footprint());
  const Result<Buffers> made = Buffers::create(bench_case, data_, sets, kHost, kUnwritten);
  if (!made.ok()) return made.status();
  const Buffers& buffers = made.value();
  const std::vector<FloorVariant> floors =
      cpu_floors(buffers, sets, {timing.bytes_read, timing.bytes_written});
  FirstError error;
  const auto operation = [&](const BenchCall& work) -> TimedCall {
    return [&](std::int64_t call) { error.keep(work(buffers.set(call % sets), execution_)); };
  };
  std::vector<TimedCall> candidates = {operation(bench_case.fused)};
  for (const FloorVariant floor : floors) candidates.push_back(floor_call(buffers, sets, floor));
  if (bench_case.unfused) candidates.push_back(operation(bench_case.unfused));
  const std::vector<Timing> times = time_on_cpu(candidates);
  HALFBYTE_RETURN_IF_ERROR(error.status);
  const FloorVariant floor = floors[take_times(times, floors.size(), timing)];
  timing.floor_variant = fmt::format(
      "{} thread{}, {} stores, chunks of {} bytes", floor.threads, floor.threads == 1 ? "" : "s",
      floor.streaming_stores ? "streaming" : "plain", floor.chunk_bytes);
  return {};
}

Result<std::vector<CudaFloorVariant>> Bench::cuda_floors(const Buffers& buffers, std::int64_t sets,
                                                         FloorKey key) {
  if (const auto known = cuda_floors_.find(key); known != cuda_floors_.end()) {
    return known->second;
  }
  const double budget_us = options_.quick ? 500 : 2000;
  const int replays = options_.quick ? 3 : 5;
  const std::vector<CudaFloorVariant> variants =
      cuda_floor_variants(static_cast<std::size_t>(key.first + key.second));
  std::vector<DeviceWork> candidates;
  for (const CudaFloorVariant variant : variants) {
    candidates.push_back(cuda_floor_work(buffers, sets, variant));
  }
  const Result<std::vector<Timing>> times = timer_->time(candidates, budget_us, replays);
  if (!times.ok()) return times.status();
  return cuda_floors_[key] = best_of<CudaFloorVariant>(variants, times.value());
}

Status Bench::time_cuda(const BenchCase& bench_case, BenchTiming& timing) {
  const double budget_us = options_.quick ? 5'000 : 20'000;
  const int replays = options_.quick ? 7 : 11;
  const auto l2 = static_cast<std::int64_t>(device_l2_bytes());
  const std::int64_t sets =
      std::min<std::int64_t>(sets_beyond(l2, bench_case.footprint()), DeviceTimer::kMostCalls);
  const Result<Buffers> made = Buffers::create(bench_case, data_, sets, kCudaDevice, kUnwritten);
  if (!made.ok()) return made.status();
  const Buffers& buffers = made.value();
  const Result<std::vector<CudaFloorVariant>> floors =
      cuda_floors(buffers, sets, {timing.bytes_read, timing.bytes_written});
  if (!floors.ok()) return floors.status();
  const auto operation = [&](const BenchCall& work) -> DeviceWork {
    return [&, execution = execution_](void* stream, std::int64_t call) mutable {
      execution.stream = stream;
      return work(buffers.set(call % sets), execution);
    };
  };
  std::vector<DeviceWork> candidates = {operation(bench_case.fused)};
  for (const CudaFloorVariant floor : floors.value()) {
    candidates.push_back(cuda_floor_work(buffers, sets, floor));
  }
  if (bench_case.unfused) candidates.push_back(operation(bench_case.unfused));
  const Result<std::vector<Timing>> times = timer_->time(candidates, budget_us, replays);
  if (!times.ok()) return times.status();
  const CudaFloorVariant floor =
      floors.value()[take_times(times.value(), floors.value().size(), timing)];
  timing.floor_variant =
      fmt::format("{} CTAs x {}, {}{}", floor.ctas, floor.threads,
                  floor.streaming ? "streaming" : "plain", floor.at_once ? ", one range" : "");
  return {};
}

}  // namespace halfbyte::app
