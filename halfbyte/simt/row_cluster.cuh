// Few long rows: one lies over the CTAs of a thread-block cluster (sm_90 and later), each of which
// reads, sums and writes its part alone. The plain Sources of simt/row_tile.cuh that sum and
// quantize.
//
//   a warp's leaves -> h -> sums -> tree of the warp --> shared memory of every CTA of the cluster
//   all warps' sums -> tree -> source.finish -> y -> RowEncoder -> codes, scales
//
// A warp's leaves are a subtree of the canonical sum. Its sum is sent to every CTA (st.async),
// where a barrier counts the bytes: a CTA that has them all is not written to any more, and nobody
// reads another's memory, so that CTAs may end without waiting for each other.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "halfbyte/simt/row_tile.cuh"
#include "halfbyte/simt/tile_plan.h"

namespace halfbyte::simt {

inline constexpr int kMostClusterWarps = 128;

#if __CUDA_ARCH__ >= 900

// What the CTAs of a cluster tell each other once a row: a word a warp.
struct ClusterWords {
  alignas(16) std::uint32_t words[kMostClusterWarps];
  std::uint64_t arrived;

  __device__ __forceinline__ std::uint32_t barrier() const {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(&arrived));
  }
  // By one thread; before the cluster's barrier.
  __device__ __forceinline__ void prepare() {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier()) : "memory");
  }
  // By one thread; after it. Words that have come before are counted.
  __device__ __forceinline__ void expect(int parts) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier()),
                 "r"(parts * 4)
                 : "memory");
  }
  // By a whole warp: its word to every CTA, a lane each.
  __device__ __forceinline__ void send(std::uint32_t word, int part, int lane, int ctas) const {
    if (lane >= ctas) return;
    const auto here = static_cast<std::uint32_t>(__cvta_generic_to_shared(&words[part]));
    std::uint32_t there, bar;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(lane));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bar) : "r"(barrier()), "r"(lane));
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(there),
        "r"(word), "r"(bar)
        : "memory");
  }
  // Waits until all words are here; then four of them, zeros behind the last.
  __device__ __forceinline__ uint4 receive(int lane, int parts) const {
    if (lane == 0) {
      asm volatile(
          "{\n.reg .pred p;\nwait_%=:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n"
          "@!p bra wait_%=;\n}" ::"r"(barrier())
          : "memory");
    }
    __syncwarp();
    uint4 four = make_uint4(0, 0, 0, 0);
    if (4 * lane < parts) four = reinterpret_cast<const uint4*>(words)[lane];
    if (4 * lane + 1 >= parts) four.y = 0;
    if (4 * lane + 2 >= parts) four.z = 0;
    if (4 * lane + 3 >= parts) four.w = 0;
    return four;
  }
};

template <class Source, int kLeaves, bool kRowScales>
__device__ __forceinline__ void run_row_cluster(const Source& source,
                                                const TileOutputs<Source::kFormat>& out) {
  using T = typename Source::Element;
  constexpr formats::Format kFormat = Source::kFormat;
  constexpr int kCodeBytes = kLeafCodeBytes<kFormat>;
  constexpr int kBlockLeaves = kFormat == formats::Format::kMxfp4 ? 2 : 1;
  using Encoder = TileEncoder<kFormat, kRowScales>;
  static_assert(Source::kSums && Source::kQuantizes && Source::kPlain);
  __shared__ ClusterWords sums, maxima;
  const auto& target = out.target;
  if (__builtin_expect(blockIdx.x >= out.row_ctas, 0)) {  // whole clusters
    wait_for_previous_kernel(out.programmatic);
    put_scale_padding(target, std::int64_t{blockIdx.x - out.row_ctas} * blockDim.x + threadIdx.x,
                      std::int64_t{gridDim.x - out.row_ctas} * blockDim.x);
    return;
  }
  const int ctas = static_cast<int>(out.row_split);
  const std::uint32_t row = blockIdx.x / out.row_split;
  const int rank = static_cast<int>(blockIdx.x % out.row_split);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int part = rank * warps + static_cast<int>(threadIdx.x) / 32;
  const int first_leaf = part * kLeaves * 32 + lane;
  bool active[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) active[j] = first_leaf + j * 32 < out.leaves;

  if (source.constants_first && active[0]) source.prefetch_constants(first_leaf);
  wait_for_previous_kernel(out.programmatic);
  const float scale_input = Encoder::fetch(target);
  typename Source::Raw raw[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    raw[j] = Source::no_raw();
    if (!active[j]) continue;
    source.fetch(row, first_leaf + j * 32, raw[j]);
    if constexpr (Source::kUpdates) source.fetch_updated(row, first_leaf + j * 32, raw[j]);
  }
  typename Source::Constants constants[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    if (active[j]) source.load_constants(first_leaf + j * 32, constants[j]);
  }
  const int parts = ctas * warps;
  if (threadIdx.x == 0) {
    sums.prepare();
    if constexpr (kRowScales) maxima.prepare();
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncwarp();
  // Relaxed: what the others must see is the barriers; a release would wait for the row's loads.
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  Encoder encoder;
  encoder.of_tensor(target, scale_input, blockIdx.x == 0 && threadIdx.x == 0);

  Packed<T> h[kLeaves];
  float leaf_sums[kLeaves];
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    h[j] = source.load(raw[j]);
    if constexpr (Source::kUpdates) {
      source.store_updates(h[j], row, first_leaf + j * 32, out.leaves);
    }
    float values[kLeaf];
    unpack(h[j], values);
    leaf_sums[j] = numerics::leaf_sum_of_squares(values);
  }
  float value = warp_tree_sum(leaf_sums, lane);
  // Every CTA of the cluster has begun, and its barriers are there.
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  if (threadIdx.x == 0) {
    sums.expect(parts);
    if constexpr (kRowScales) maxima.expect(parts);
  }
  __syncwarp();
  sums.send(numerics::float_bits(value), part, lane, ctas);
  {
    using numerics::add_rn;
    using numerics::bits_float;
    const uint4 four = sums.receive(lane, parts);
    value = add_rn(add_rn(bits_float(four.x), bits_float(four.y)),
                   add_rn(bits_float(four.z), bits_float(four.w)));
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
      value = add_rn(value, __shfl_xor_sync(~0u, value, bit));
    }
  }
  value = source.row_value(value);
  typename Source::Y y[kLeaves];
  float amaxes[kLeaves];
  std::uint32_t of_row = 0;
#pragma unroll
  for (int j = 0; j < kLeaves; ++j) {
    float values[kLeaf];
    unpack(h[j], values);
    source.finish(values, value, constants[j], y[j]);
    amaxes[j] = leaf_amax(y[j]);
    if (active[j]) of_row = max(of_row, numerics::abs_bits(amaxes[j]));
  }
  if constexpr (kRowScales) {
    if (target.row_scale != nullptr) {
      of_row = __reduce_max_sync(~0u, of_row);
      maxima.send(of_row, part, lane, ctas);
      const uint4 four = maxima.receive(lane, parts);
      of_row = __reduce_max_sync(~0u, max(max(four.x, four.y), max(four.z, four.w)));
    }
    encoder.of_row(target, row, of_row, rank == 0 && threadIdx.x == 0);
  }
  std::uint8_t* codes = tile_address(target.codes, row, target.code_stride);
  const TileScales& scales = target.scales[0];
  std::uint8_t* scale_row = scales.data + scales.row_offset(row);
  encoder.with_sequence([&](const auto& encode) {
#pragma unroll
    for (int j = 0; j < kLeaves; ++j) {
      LeafCodes words;
      const std::uint32_t scale = encode(y[j], amaxes[j], words);
      if (!active[j]) continue;
      const int leaf = first_leaf + j * 32;
      put_codes<kFormat>(words, codes + leaf * kCodeBytes);
      if (!kHasBlockScales<kFormat> || lane % kBlockLeaves != 0) continue;
      scale_row[scales.column_offset(static_cast<std::uint32_t>(leaf) / kBlockLeaves)] =
          static_cast<std::uint8_t>(scale);
    }
  });
  release_next_kernel(out.programmatic);
}

#endif  // __CUDA_ARCH__ >= 900

template <class Source, int kLeaves, bool kRowScales>
__global__ void __launch_bounds__(32 * kMostTileWarps, kLeaves == 1 ? 2 : 1)
    row_cluster_kernel(const __grid_constant__ Source source,
                       const __grid_constant__ TileOutputs<Source::kFormat> out) {
#if __CUDA_ARCH__ >= 900
  run_row_cluster<Source, kLeaves, kRowScales>(source, out);
#endif
}

// Whether the code that the current device runs is that of sm_90 or later: where a build has none,
// the device compiles an older one's PTX, whose row_cluster_kernel is empty.
template <int = 0>
__global__ void cluster_probe_kernel() {}

inline bool has_cluster_code() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices] = {};  // 1: no, 2: yes
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kDevices) return false;
  int value = known[device].load(std::memory_order_relaxed);
  if (value == 0) {
    cudaFuncAttributes attributes = {};
    if (cudaFuncGetAttributes(&attributes, cluster_probe_kernel<>) != cudaSuccess) {
      (void)cudaGetLastError();  // the launch will say it
      return false;
    }
    value = attributes.ptxVersion >= 90 ? 2 : 1;
    known[device].store(value, std::memory_order_relaxed);
  }
  return value == 2;
}

}  // namespace halfbyte::simt
