// The host's side of simt/row_tile.cuh: which arguments its kernels take, and the launch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>

#include "halfbyte/simt/launch.cuh"
#include "halfbyte/simt/long_row.cuh"
#include "halfbyte/simt/row_cluster.cuh"
#include "halfbyte/simt/row_once.cuh"
#include "halfbyte/simt/row_pipeline.cuh"
#include "halfbyte/simt/tile_plan.h"

namespace halfbyte::simt {

// Rows of T at equal distances below 2^32 bytes, every one aligned to 16 bytes.
inline bool takes_tiles(const void* data, const base::RowMap& map, std::int64_t element_bytes,
                        std::uintptr_t alignment = 16) {
  const std::int64_t stride = map.inner_stride * element_bytes;
  return reinterpret_cast<std::uintptr_t>(data) % alignment == 0 && map.inner_rows == map.rows &&
         stride >= 0 && stride < (std::int64_t{1} << 32) &&
         stride % static_cast<std::int64_t>(alignment) == 0;
}

inline bool takes_tiles(const formats::RowTarget& target) {
  const bool fp8 = target.format == formats::Format::kFp8;
  if (target.groups != 0 || !takes_tiles(target.codes, target.code_rows, 1, fp8 ? 16 : 8)) {
    return false;
  }
  for (const formats::ScaleArray& array : target.scales) {
    // The padding of tiles is written 16 bytes at a time.
    if (array.layout != formats::ScaleLayout::kLinear &&
        reinterpret_cast<std::uintptr_t>(array.data) % 16 != 0) {
      return false;
    }
  }
  return fp8 || target.scales[0].data != nullptr;
}

inline std::uint32_t stride_bytes(const base::RowMap& map, std::int64_t element_bytes) {
  return static_cast<std::uint32_t>(map.inner_stride * element_bytes);
}

// What every room says of its rows; y and amax are the room's to add.
template <formats::Format F>
TileOutputs<F> tile_outputs(std::int64_t rows, std::int64_t columns,
                            const formats::RowTarget* target) {
  TileOutputs<F> out;
  out.rows = static_cast<std::uint32_t>(rows);
  out.leaves = static_cast<int>(columns / kLeaf);
  if (target != nullptr) out.target = tile_target<F>(*target);
  return out;
}

// CTAs of a kernel that fit on a multiprocessor at once. kKernel has a memory of its own.
template <auto kKernel>
int resident_ctas(int threads) {
  static std::atomic<int> known[1024 / 32 + 1] = {};
  std::atomic<int>& slot = known[threads / 32];
  int count = slot.load(std::memory_order_relaxed);
  if (count == 0) {
    if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kKernel, threads, 0) != cudaSuccess) {
      (void)cudaGetLastError();  // the launch will say it
      return 1;
    }
    count = std::max(count, 1);
    slot.store(count, std::memory_order_relaxed);
  }
  return count;
}

// visitor(std::integral_constant<Format, ..>) of a format.
template <class Visitor>
base::Status visit_format(formats::Format format, const Visitor& visitor) {
  using formats::Format;
  switch (format) {
    case Format::kNvfp4:
      return visitor(std::integral_constant<Format, Format::kNvfp4>());
    case Format::kMxfp4:
      return visitor(std::integral_constant<Format, Format::kMxfp4>());
    default:
      return visitor(std::integral_constant<Format, Format::kFp8>());
  }
}

template <class Source, int kLeaves, TileScope kScope, bool kRowScales>
__global__ void __launch_bounds__(kScope == TileScope::kWarp ? 128 : 32 * kMostTileWarps,
                                  kScope == TileScope::kCta && kLeaves == 1 && !Source::kUpdates
                                      ? 2
                                      : 1)
    row_tile_kernel(const __grid_constant__ Source source,
                    const __grid_constant__ TileOutputs<Source::kFormat> out) {
  run_row_tiles<Source, kLeaves, kScope, kRowScales>(source, out);
}

// Launches kKernel, of which `a_multiprocessor` CTAs are resident.
template <auto kKernel, class Source>
base::Status launch_row_ctas(const char* name, const Source& source,
                             TileOutputs<Source::kFormat> out, const TilePlan& plan,
                             int a_multiprocessor, const LaunchOptions& options) {
  const std::int64_t rows = (std::int64_t{out.rows} + plan.rows_a_cta - 1) / plan.rows_a_cta;
  const std::int64_t resident = std::int64_t{options.device.multiprocessors} * a_multiprocessor;
  std::int64_t row_ctas =
      std::min(rows, plan.rows_each != 0 ? (rows + plan.rows_each - 1) / plan.rows_each
                                         : std::max<std::int64_t>(resident / plan.split, 1));
  std::int64_t padding_ctas = 0;
  if constexpr (Source::kQuantizes) {
    const std::int64_t padding = scale_padding_threads(out.target);
    padding_ctas = std::min((padding + plan.threads() - 1) / plan.threads(), resident);
    // With no rows there is still a scale to report.
    if (out.target.from == TileScaleFrom::kAmax) row_ctas = std::max<std::int64_t>(row_ctas, 1);
  }
  row_ctas *= plan.split;
  out.row_split = static_cast<std::uint32_t>(plan.split);
  if (row_ctas + padding_ctas == 0) return {};
  out.row_ctas = static_cast<std::uint32_t>(row_ctas);
  out.programmatic = options.programmatic;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(row_ctas + padding_ctas));
  shape.block =
      dim3(static_cast<unsigned>(plan.warps * 32), static_cast<unsigned>(plan.rows_a_cta));
  shape.shared_bytes = plan.shared_bytes;
  shape.static_bytes = static_cast<int>(kLongRowScratchBytes);
  return launch_as(name, kKernel, shape, options, source, out);
}

template <class Source, int kLeaves, TileScope kScope, bool kRowScales>
base::Status launch_row_tile_kernel(const Source& source, const TileOutputs<Source::kFormat>& out,
                                    const TilePlan& plan, const LaunchOptions& options) {
  constexpr auto kKernel = row_tile_kernel<Source, kLeaves, kScope, kRowScales>;
  return launch_row_ctas<kKernel>("row_tile_kernel", source, out, plan,
                                  resident_ctas<kKernel>(plan.threads()), options);
}

template <class Source, int kLeaves>
base::Status launch_row_once(const Source& source, TileOutputs<Source::kFormat> out,
                             const TilePlan& plan, const LaunchOptions& options) {
  if (out.rows == 0) return {};
  out.programmatic = options.programmatic;
  return launch<row_once_kernel<Source, kLeaves>>("row_once_kernel", dim3(out.rows),
                                                  dim3(static_cast<unsigned>(plan.threads())),
                                                  options, source, out);
}

template <class Source, bool kRowScales>
base::Status launch_long_rows(const Source& source, TileOutputs<Source::kFormat> out,
                              const TilePlan& plan, const LaunchOptions& options) {
  constexpr auto kKernel = long_row_kernel<Source, kRowScales>;
  const int ctas = 32 / plan.warps;  // of a multiprocessor
  // What is left of that memory caches the constants.
  static_assert(sizeof(LongRowScratch) == kLongRowScratchBytes);
  const std::int64_t wanted = ctas * (plan.shared_bytes + kLongRowScratchBytes + 1024);
  const std::int64_t percent =
      std::min<std::int64_t>(100, wanted * 100 / (most_shared_bytes() + 1024) + 1);
  HALFBYTE_RETURN_IF_ERROR(
      cuda_status("long_row_kernel",
                  cudaFuncSetAttribute(kKernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                       static_cast<int>(percent))));
  out.stages_updated = plan.stages_updated;
  return launch_row_ctas<kKernel>("long_row_kernel", source, out, plan, ctas, options);
}

template <class Source, int kLeaves, bool kRowScales>
base::Status launch_row_cluster(const Source& source, TileOutputs<Source::kFormat> out,
                                const TilePlan& plan, const LaunchOptions& options) {
  const auto split = static_cast<std::uint32_t>(plan.split);
  // The padding's CTAs are whole clusters too.
  const std::int64_t wanted = (scale_padding_threads(out.target) + plan.threads() - 1) /
                              static_cast<std::int64_t>(plan.threads());
  const auto padding_ctas = static_cast<std::uint32_t>(
      std::min<std::int64_t>(wanted, options.device.multiprocessors) + split - 1);
  out.row_ctas = out.rows * split;
  out.row_split = split;
  out.programmatic = options.programmatic;
  LaunchShape shape;
  shape.grid = dim3(out.row_ctas + padding_ctas / split * split);
  shape.block = dim3(static_cast<unsigned>(plan.threads()));
  shape.cluster = plan.split;
  return launch_as("row_cluster_kernel", row_cluster_kernel<Source, kLeaves, kRowScales>, shape,
                   options, source, out);
}

template <class Source>
base::Status launch_row_pipeline(const Source& source, const TileOutputs<Source::kFormat>& out,
                                 TilePlan plan, const LaunchOptions& options) {
  constexpr auto kKernel = row_pipeline_kernel<Source>;
  plan.shared_bytes = plan.warps * kPipelineLeaves * kKeptBytes;
  return launch_row_ctas<kKernel>("row_pipeline_kernel", source, out, plan,
                                  resident_ctas<kKernel>(plan.threads()), options);
}

// The kernel of a plan; tile_plan.h knows which there are.
template <bool kRowScales, class Source>
base::Status launch_row_tiles_of(const Source& source, const TileOutputs<Source::kFormat>& out,
                                 const TilePlan& plan, const LaunchOptions& options) {
  constexpr bool kWholeRows = Source::kSums || kRowScales;
  constexpr bool kOnlyWritten = Source::kSums && Source::kPlain && !Source::kQuantizes;
  const auto with = [&]<int kLeaves, TileScope kScope>() {
    return launch_row_tile_kernel<Source, kLeaves, kScope, kRowScales>(source, out, plan, options);
  };
  if constexpr (!kWholeRows) {
    if (plan.split > 1) {
      if constexpr (Source::kPlain) {
        if (plan.leaves_a_lane == 1) return with.template operator()<1, TileScope::kSplit>();
      }
      return with.template operator()<2, TileScope::kSplit>();
    }
  } else {
    if (plan.shared_bytes != 0) {
      return launch_long_rows<Source, kRowScales>(source, out, plan, options);
    }
    if constexpr (kOnlyWritten) {
      if (plan.once) {
        return plan.leaves_a_lane == 1 ? launch_row_once<Source, 1>(source, out, plan, options)
                                       : launch_row_once<Source, 2>(source, out, plan, options);
      }
    }
    if constexpr (Source::kPlain && Source::kSums && Source::kQuantizes) {
      if (plan.cluster) {
        return plan.leaves_a_lane == 1
                   ? launch_row_cluster<Source, 1, kRowScales>(source, out, plan, options)
                   : launch_row_cluster<Source, 2, kRowScales>(source, out, plan, options);
      }
    }
    if constexpr (Source::kPlain && Source::kSums && Source::kQuantizes && !Source::kUpdates &&
                  !kRowScales) {
      if (plan.pipelined) return launch_row_pipeline(source, out, plan, options);
    }
    if constexpr (Source::kPlain && Source::kSums && !Source::kUpdates && !kRowScales) {
      if (plan.shared) {
        if (plan.leaves_a_lane == 1) return with.template operator()<1, TileScope::kShared>();
        if (plan.leaves_a_lane == 2) return with.template operator()<2, TileScope::kShared>();
        if constexpr (!kOnlyWritten) return with.template operator()<4, TileScope::kShared>();
      }
    }
    if constexpr (!kOnlyWritten) {
      if (plan.leaves_a_lane == 4) return with.template operator()<4, TileScope::kCta>();
    }
  }
  if constexpr (!Source::kPlain) {
    if (plan.rows_a_cta > 1) return with.template operator()<1, TileScope::kWarp>();
  } else if constexpr (!kOnlyWritten) {
    if (plan.leaves_a_lane == 1) return with.template operator()<1, TileScope::kCta>();
  }
  return with.template operator()<2, TileScope::kCta>();
}

template <class Source>
base::Status launch_row_tiles(const Source& source, const TileOutputs<Source::kFormat>& out,
                              const TilePlan& plan, const LaunchOptions& options) {
  // Plain kernels with a scale a row: those of NVFP4. MXFP4 has no fp32 scale.
  constexpr bool kHasRowScales = Source::kPlain ? Source::kFormat == formats::Format::kNvfp4
                                                : Source::kFormat != formats::Format::kMxfp4;
  if constexpr (Source::kQuantizes && kHasRowScales) {
    if (out.target.scale_a_row()) return launch_row_tiles_of<true>(source, out, plan, options);
  }
  return launch_row_tiles_of<false>(source, out, plan, options);
}

// Whether a plain source can do what is wanted, as far as the target says.
inline bool is_plain(const formats::RowTarget& target) {
  const bool has_scale = !target.scale_a_row() || (target.mode == formats::ScaleMode::kRow &&
                                                   target.format == formats::Format::kNvfp4);
  return has_scale && target.scales[1].data == nullptr;
}

}  // namespace halfbyte::simt
