// Measures one operator at any number of shapes: checked answers, the operator, its unfused path
// and the streaming floor, in one run.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/halfbyte/bench_buffers.h"
#include "apps/halfbyte/bench_device.h"
#include "apps/halfbyte/bench_table.h"
#include "apps/halfbyte/floor_cpu.h"
#include "apps/halfbyte/floor_cuda.h"
#include "apps/halfbyte/measure.h"
#include "apps/halfbyte/op_tensors.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

struct BenchTiming {
  Timing fused;
  std::optional<Timing> unfused;  // absent where the operator is one step
  Timing floor;
  std::string floor_variant;         // what the sweep chose
  std::int64_t bytes_read = 0;       // that the operator must read
  std::int64_t bytes_written = 0;    // and write
  bool bits_equal = false;           // everything that was compared
  std::int64_t rows_referenced = 0;  // rows compared with the reference; the rest with unfused

  std::int64_t bytes() const { return bytes_read + bytes_written; }
  double ratio() const { return fused.median_us / floor.median_us; }
  double ratio_min() const { return fused.min_us / floor.min_us; }
  double gb_per_s() const { return static_cast<double>(bytes()) / fused.median_us / 1e3; }
};

class Bench {
 public:
  // Errors: the backend is not there.
  static base::Result<Bench> create(const BenchOperator& op, const BenchOptions& options);

  // `norm`: its tensors in place of random ones. Buffers rotate over three times the last-level
  // cache; DeviceTimer says what CUDA does.
  base::Result<BenchTiming> measure(BenchShape shape, const ModelNorm* norm = nullptr);

 private:
  using FloorKey = std::pair<std::int64_t, std::int64_t>;  // bytes read and written

  Bench(const BenchOperator& op, const BenchOptions& options) : op_(&op), options_(options) {}
  base::Status check(BenchShape shape, float scale, const BenchCase& bench_case,
                     BenchTiming& timing);
  base::Status time_cpu(const BenchCase& bench_case, BenchTiming& timing);
  base::Status time_cuda(const BenchCase& bench_case, BenchTiming& timing);
  // The best variants of a sweep, which is made once for these numbers of bytes.
  std::vector<FloorVariant> cpu_floors(const Buffers& buffers, std::int64_t sets, FloorKey key);
  base::Result<std::vector<CudaFloorVariant>> cuda_floors(const Buffers& buffers, std::int64_t sets,
                                                          FloorKey key);

  const BenchOperator* op_;
  BenchOptions options_;
  base::Execution execution_;
  base::Device device_;
  BenchData data_;
  OwnedTensor workspace_;
  std::optional<DeviceTimer> timer_;
  std::map<FloorKey, std::vector<FloorVariant>> cpu_floors_;
  std::map<FloorKey, std::vector<CudaFloorVariant>> cuda_floors_;
  std::map<std::string, bool> references_;  // by the name of their shape
};

// CPU threads that a call with `num_threads` gets.
int resolved_threads(int num_threads);

}  // namespace halfbyte::app
