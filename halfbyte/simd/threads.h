// Rows over threads. A row is one thread's work from start to end, so the number of threads cannot
// change a bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace halfbyte::simd {

// Outputs of at least this many bytes are written past the caches. Such a store does not read the
// line that it overwrites, a third of the traffic less; but then whoever reads the output next
// finds it in no cache. Measured with a 32 MiB last-level cache: an operator and a read of what it
// wrote gain from about here on and lose below.
inline constexpr std::int64_t kStreamBytes = std::int64_t{16} << 20;

// 64-byte aligned memory of one thread, as many bytes as were asked for.
struct Scratch {
  std::byte* data = nullptr;
};

using RowsBody = void (*)(const void* context, std::int64_t begin, std::int64_t end,
                          Scratch scratch);

// Splits [0, rows) into contiguous parts, one a thread, and runs body(context, begin, end, scratch)
// on each under the IEEE floating-point environment. num_threads 0: all that OpenMP gives; never
// more than `rows`, and one thread for work too small to share (row_elems elements a row).
void parallel_rows(std::int64_t rows, std::int64_t row_elems, int num_threads,
                   std::size_t scratch_bytes, RowsBody body, const void* context);

// *most = max(*most, value), among threads.
void atomic_max(std::uint32_t* most, std::uint32_t value);

}  // namespace halfbyte::simd
