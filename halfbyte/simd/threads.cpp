#include "halfbyte/simd/threads.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "halfbyte/base/float_environment.h"

namespace halfbyte::simd {
namespace {

constexpr std::size_t kAlignment = 64;
// Starting a team of threads costs some microseconds; below this many elements one is faster.
constexpr std::int64_t kMinElemsPerThread = 16 * 1024;

// run(0) .. run(count - 1), on as many threads as the runtime gives: the loop runs every part even
// if those are fewer.
template <class Run>
void run_parts(int count, const Run& run) {
#ifdef __SANITIZE_THREAD__
  // GCC's OpenMP runtime is not instrumented: its barriers would look like races.
  std::vector<std::thread> threads;
  for (int index = 1; index < count; ++index) threads.emplace_back([&run, index] { run(index); });
  run(0);
  for (std::thread& thread : threads) thread.join();
#else
#pragma omp parallel for num_threads(count) schedule(static, 1)
  for (int index = 0; index < count; ++index) run(index);
#endif
}

struct AlignedDelete {
  void operator()(std::byte* data) const {
    ::operator delete[](data, std::align_val_t(kAlignment));
  }
};

}  // namespace

void parallel_rows(std::int64_t rows, std::int64_t row_elems, int num_threads,
                   std::size_t scratch_bytes, RowsBody body, const void* context) {
  if (rows <= 0) return;
  const std::int64_t wanted = num_threads > 0 ? num_threads : omp_get_max_threads();
  const std::int64_t useful = std::max<std::int64_t>(1, rows * row_elems / kMinElemsPerThread);
  const int threads = static_cast<int>(std::min({wanted, useful, rows}));

  // Allocated here, not in the team: an exception may not leave a parallel region.
  const std::size_t stride = (scratch_bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::unique_ptr<std::byte[], AlignedDelete> memory(static_cast<std::byte*>(::operator new[](
      stride* static_cast<std::size_t>(threads) + 1, std::align_val_t(kAlignment))));
  const auto part = [&](int index) {
    const base::IeeeFloatScope ieee;
    const Scratch scratch{memory.get() + stride * static_cast<std::size_t>(index)};
    body(context, rows * index / threads, rows * (index + 1) / threads, scratch);
  };
  if (threads == 1) {
    part(0);
    return;
  }
  run_parts(threads, part);
}

void atomic_max(std::uint32_t* most, std::uint32_t value) {
  std::atomic_ref<std::uint32_t> shared(*most);
  std::uint32_t seen = shared.load(std::memory_order_relaxed);
  while (seen < value && !shared.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

}  // namespace halfbyte::simd
