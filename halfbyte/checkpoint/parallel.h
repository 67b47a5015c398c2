// Independent pieces of work over threads. Errors and exceptions end the work; the first one is
// the answer.
#pragma once

#include <cstdint>
#include <functional>

#include "halfbyte/base/status.h"

namespace halfbyte::checkpoint {

// The threads that `num_threads` asks for; 0: all that OpenMP gives.
int thread_count(int num_threads);

// body(item, worker) for every item in [0, items), `worker` in [0, thread_count(num_threads)). The
// order is not defined; after an error no further item is started. Out of memory is kIo.
base::Status run_parallel(std::int64_t items, int num_threads,
                          const std::function<base::Status(std::int64_t item, int worker)>& body);

}  // namespace halfbyte::checkpoint
