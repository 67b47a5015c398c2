#include "apps/halfbyte/floor_cpu.h"

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

// The program is compiled for any processor of the family; the reading loop is worth its widest
// registers.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define HALFBYTE_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HALFBYTE_WIDEST
#endif

namespace halfbyte::app {
namespace {

constexpr std::size_t kLine = 64;

// The sum of what was read goes here: without a use the reads would be removed.
volatile std::uint64_t sink;

HALFBYTE_WIDEST std::uint64_t read_words(const std::uint64_t* words, std::size_t count) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum ^= words[i];
  return sum;
}

// Plain stores: not memset, which changes its ways with the size.
HALFBYTE_WIDEST void write_words(std::uint64_t* words, std::size_t count, std::uint64_t value) {
  for (std::size_t i = 0; i < count; ++i) {
    words[i] = value + i;  // no one pattern, which the compiler would make a memset of
  }
}

void write_bytes(std::byte* data, std::size_t bytes, bool streaming) {
  if (bytes == 0) return;
#ifdef __SSE2__
  if (streaming && reinterpret_cast<std::uintptr_t>(data) % 16 == 0) {
    const __m128i value = _mm_set1_epi8(0x11);
    std::size_t i = 0;
    for (; i + 16 <= bytes; i += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(data + i), value);
    std::memset(data + i, 0x11, bytes - i);
    return;
  }
#endif
  (void)streaming;
  const std::size_t words = bytes / sizeof(std::uint64_t);
  write_words(reinterpret_cast<std::uint64_t*>(data), words, 0x1111111111111111u);
  std::memset(data + words * sizeof(std::uint64_t), 0x11, bytes % sizeof(std::uint64_t));
}

// Chunk `chunk` of `chunks` of a span, cut at cache lines.
template <class Byte>
std::span<Byte> share(std::span<Byte> all, std::size_t chunk, std::size_t chunks) {
  const std::size_t lines = (all.size() + kLine - 1) / kLine;
  const std::size_t begin = std::min(lines * chunk / chunks * kLine, all.size());
  const std::size_t end = std::min(lines * (chunk + 1) / chunks * kLine, all.size());
  return all.subspan(begin, end - begin);
}

}  // namespace

void stream_floor(std::span<const std::span<const std::byte>> reads,
                  std::span<const std::span<std::byte>> writes, FloorVariant variant) {
  std::size_t largest = 1;
  for (const auto& span : reads) largest = std::max(largest, span.size());
  for (const auto& span : writes) largest = std::max(largest, span.size());
  const auto threads = static_cast<std::size_t>(std::max(variant.threads, 1));
  const std::size_t chunks =
      std::max(threads, (largest / variant.chunk_bytes + threads - 1) / threads * threads);
  const auto work = [&](std::size_t first, std::size_t last) {
    std::uint64_t sum = 0;
    for (std::size_t chunk = first; chunk < last; ++chunk) {
      for (const auto& span : reads) {
        const auto part = share(span, chunk, chunks);
        sum ^= read_words(reinterpret_cast<const std::uint64_t*>(part.data()), part.size() / 8);
      }
      for (const auto& span : writes) {
        const auto part = share(span, chunk, chunks);
        write_bytes(part.data(), part.size(), variant.streaming_stores);
      }
    }
#ifdef __SSE2__
    if (variant.streaming_stores) _mm_sfence();
#endif
    sink = sum;
  };
  if (threads == 1) {
    work(0, chunks);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(static_cast <int>(threads))
  for (std::size_t thread = 0; thread < threads; ++thread) {
    work(chunks * thread / threads, chunks * (thread + 1) / threads);
  }
}

}  // namespace halfbyte::app
