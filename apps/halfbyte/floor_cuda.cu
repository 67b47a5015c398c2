#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "apps/halfbyte/floor_cuda.h"

namespace halfbyte::app {
namespace {

constexpr int kSpans = 12;

struct Pieces {
  uint4* data[kSpans];
  std::size_t end[kSpans];  // pieces of 16 bytes in the spans up to and with this one
  int spans;
};

template <bool Streaming>
__device__ uint4 load(const uint4* address) {
  return Streaming ? __ldcs(address) : *address;
}
template <bool Streaming>
__device__ void store(uint4* address, uint4 value) {
  if (Streaming) {
    __stcs(address, value);
  } else {
    *address = value;
  }
}

// Piece `i` of all spans as one range.
__device__ uint4* piece(const Pieces& pieces, std::size_t i) {
  int span = 0;
  while (i >= pieces.end[span]) ++span;
  return pieces.data[span] + (span == 0 ? i : i - pieces.end[span - 1]);
}

__device__ void add(uint4& sum, uint4 value) {
  sum.x ^= value.x;
  sum.y ^= value.y;
  sum.z ^= value.z;
  sum.w ^= value.w;
}

// What was read is written, so that no read can be removed.
template <bool Streaming, bool AtOnce>
__global__ void floor_kernel(const __grid_constant__ Pieces reads,
                             const __grid_constant__ Pieces writes) {
  const std::size_t first = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x;
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  uint4 sum = make_uint4(0, 0, 0, 0);
  if constexpr (AtOnce) {
    const std::size_t all_reads = reads.spans == 0 ? 0 : reads.end[reads.spans - 1];
    const std::size_t all_writes = writes.spans == 0 ? 0 : writes.end[writes.spans - 1];
    for (std::size_t i = first; i < all_reads; i += step) {
      add(sum, load<Streaming>(piece(reads, i)));
    }
    for (std::size_t i = first; i < all_writes; i += step) store<Streaming>(piece(writes, i), sum);
  } else {
    for (int span = 0; span < reads.spans; ++span) {
      const std::size_t count = reads.end[span] - (span == 0 ? 0 : reads.end[span - 1]);
#pragma unroll 4
      for (std::size_t i = first; i < count; i += step) {
        add(sum, load<Streaming>(reads.data[span] + i));
      }
    }
    for (int span = 0; span < writes.spans; ++span) {
      const std::size_t count = writes.end[span] - (span == 0 ? 0 : writes.end[span - 1]);
#pragma unroll 4
      for (std::size_t i = first; i < count; i += step) {
        store<Streaming>(writes.data[span] + i, sum);
      }
    }
  }
}

template <class Spans>
Pieces pieces_of(const Spans& spans) {
  Pieces result{};
  std::size_t end = 0;
  for (const auto& span : spans) {
    if (result.spans == kSpans) break;
    if (span.empty()) continue;
    end += (span.size() + sizeof(uint4) - 1) / sizeof(uint4);
    result.data[result.spans] = reinterpret_cast<uint4*>(const_cast<std::byte*>(span.data()));
    result.end[result.spans++] = end;
  }
  return result;
}

using Kernel = void (*)(Pieces, Pieces);

Kernel kernel_of(CudaFloorVariant variant) {
  if (variant.at_once) {
    return variant.streaming ? floor_kernel<true, true> : floor_kernel<false, true>;
  }
  return variant.streaming ? floor_kernel<true, false> : floor_kernel<false, false>;
}

}  // namespace

std::vector<CudaFloorVariant> cuda_floor_variants(std::size_t bytes) {
  constexpr std::size_t kSmall = 4 << 20, kLarge = 32 << 20;  // what is worth a try changes here
  int device = 0, multiprocessors = 1;
  (void)cudaGetDevice(&device);
  (void)cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  std::vector<CudaFloorVariant> variants;
  for (const int eighths : {1, 4, 8, 16, 32, 64, 128, 256}) {  // CTAs a multiprocessor, times 8
    const int ctas = std::max(1, multiprocessors * eighths / 8);
    if (bytes > kLarge && eighths < 8) continue;
    for (const int threads : {256, 512}) {
      // More threads than pieces: only the smallest such grid.
      const std::size_t pieces_taken = static_cast<std::size_t>(ctas) * threads / 2;
      if (eighths > 1 && pieces_taken * sizeof(uint4) > bytes) continue;
      for (const bool streaming : {false, true}) {
        if (bytes <= kLarge) variants.push_back({ctas, threads, streaming, true});
        if (bytes > kSmall) variants.push_back({ctas, threads, streaming, false});
      }
    }
  }
  return variants;
}

base::Status cuda_stream_floor(std::span<const std::span<const std::byte>> reads,
                               std::span<const std::span<std::byte>> writes,
                               CudaFloorVariant variant, void* stream) {
  kernel_of(variant)<<<static_cast<unsigned>(variant.ctas), static_cast<unsigned>(variant.threads),
                       0, static_cast<cudaStream_t>(stream)>>>(pieces_of(reads), pieces_of(writes));
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return {};
  return {base::StatusCode::kCuda, std::string("floor_kernel: ") + cudaGetErrorString(error)};
}

}  // namespace halfbyte::app
