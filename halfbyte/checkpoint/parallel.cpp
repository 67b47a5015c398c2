#include "halfbyte/checkpoint/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

namespace halfbyte::checkpoint {
namespace {

int threads_for(std::int64_t items, int num_threads) {
  return static_cast<int>(std::clamp<std::int64_t>(items, 1, thread_count(num_threads)));
}

}  // namespace

int thread_count(int num_threads) { return num_threads > 0 ? num_threads : omp_get_max_threads(); }

base::Status run_parallel(std::int64_t items, int num_threads,
                          const std::function<base::Status(std::int64_t, int)>& body) {
  base::Status first;
  std::mutex mutex;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic) num_threads(threads_for(items, num_threads))
  for (std::int64_t item = 0; item < items; ++item) {
    if (failed) continue;
    base::Status status;
    try {
      status = body(item, omp_get_thread_num());
    } catch (const std::exception& error) {  // must not leave the parallel region
      status = {base::StatusCode::kIo, error.what()};
    }
    if (status.ok()) continue;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failed) first = std::move(status);
    failed = true;
  }
  return first;
}

}  // namespace halfbyte::checkpoint
