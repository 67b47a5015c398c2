#include "halfbyte/ops/gemm/gemm_tensor_core_plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "halfbyte/ops/gemm/gemm_plan.h"

namespace halfbyte::ops {

TensorCoreKind tensor_core_kind(const GemmProblem& problem) {
  if (problem.format == Format::kMxfp4) return TensorCoreKind::kMxfp4;
  return problem.quantized || problem.x_dtype == base::DType::kF16 ? TensorCoreKind::kFp16
                                                                   : TensorCoreKind::kBf16;
}

const char* no_tensor_core(const GemmProblem& problem, const GemmDevice& device) {
  if (device.compute_capability != 90) return "the device is not sm_90";
  if (!device.has_sm_90a) return "this build has no code for sm_90a";
  if (problem.form != WeightForm::kPrepared) return "the weights are not prepared";
  if (problem.groups > kTensorCoreMaxGroups) return "there are too many groups";
  if (problem.k == 0) return "K is 0";
  if (problem.format == Format::kMxfp4 && !problem.quantized &&
      problem.x_dtype == base::DType::kF16)
    return "MXFP4 weights are not exact in fp16";
  constexpr std::int64_t kMost = std::int64_t{1} << 24;
  if (problem.m > kMost || problem.n > kMost || problem.k > kMost) return "M, N or K is too large";
  return nullptr;
}

TensorCoreTiles tensor_core_tiles_m(const GemmProblem& problem, int tokens) {
  const std::int64_t m = problem.m;
  if (problem.groups == 0) return {ceil_div(m, tokens), ceil_div(m, tokens)};
  const std::int64_t active = std::min(m, problem.groups);  // that have rows, at most
  TensorCoreTiles found{(m + active * (tokens - 1)) / tokens, m / tokens + active / 2};
  if (m >= 8 * tokens * active) return found;  // a group's last tile is half full
  // Few tiles a group: rows about normal, as random tokens' are, and some groups preferred.
  const double mean = static_cast<double>(m) / static_cast<double>(active);
  const double preferred = 0.3 * mean, deviation = std::sqrt(mean + preferred * preferred);
  double tiles = 1.0;  // and one more for each multiple of `tokens` that the rows exceed
  const auto most = static_cast<std::int64_t>(mean + 5 * deviation);
  for (std::int64_t full = tokens; full <= most; full += tokens) {
    const double over = static_cast<double>(full) + 0.5 - mean;
    tiles += 0.5 * std::erfc(over / (deviation * std::sqrt(2.0)));
  }
  found.likely = static_cast<std::int64_t>(static_cast<double>(active) * tiles);
  return found;
}

TensorCorePlan plan_tensor_core(const GemmProblem& problem, const GemmDevice& device,
                                TensorCoreShape shape, int split, bool shares) {
  const int tokens = shape.tokens;
  TensorCorePlan plan;
  plan.slices = ceil_div(problem.k, kSliceColumns);
  plan.split = std::min(split, plan.slices);
  plan.tiles_m = static_cast<int>(tensor_core_tiles_m(problem, tokens).most);
  plan.groups = static_cast<int>(problem.groups);
  plan.tiles_n = ceil_div(problem.n, shape.rows());
  const int stage_bytes = tensor_core_stage_bytes(problem.format, shape);
  const int besides = kTensorCoreAlign + kTensorCoreBehind + plan.groups * kTensorCoreGroupBytes;
  plan.stages = std::min((device.shared_bytes - besides) / stage_bytes, kTensorCoreMaxStages);
  // A cluster's sums lie in the ring: each block has those of the tokens that are its own, 16 or a
  // multiple.
  const int sum_bytes = ceil_div(tokens / 16, plan.split) * plan.split * shape.rows() * 64;
  if (plan.stages < 2 || plan.stages * stage_bytes < sum_bytes) return plan;
  if (problem.groups != 0 && shape.warps != kTensorCoreMaxWarps) return plan;  // not compiled
  plan.tokens = shape.tokens, plan.warps = shape.warps;
  plan.shared_bytes = besides + plan.stages * stage_bytes;
  const std::int64_t tiles = std::int64_t{plan.tiles_m} * plan.tiles_n;
  plan.shares = shares && plan.split == 1;
  const std::int64_t units = tiles * (plan.shares ? plan.slices : 1);
  plan.blocks = static_cast<int>(
      plan.split > 1 ? tiles * plan.split : std::min<std::int64_t>(units, device.multiprocessors));
  // As many bytes of A as of weights for the tiles that run together.
  plan.group_m = std::min(plan.tiles_m, 1024 / tokens);
  return plan;
}

namespace {

// Nanoseconds: a slice, in fp16 and in bf16, and a tile's start and end.
struct Cost {
  TensorCoreShape shape;
  int slice, slice_bf16, tile;
};
constexpr Cost kCosts[] = {{{16, 16}, 618, 755, 2820},    {{32, 16}, 673, 817, 2970},
                           {{64, 16}, 876, 1030, 3530},   {{96, 16}, 1130, 1298, 1250},
                           {{128, 16}, 1425, 1505, 2550}, {{128, 12}, 1045, 1112, 2950},
                           {{16, 8}, 359, 432, 1900},     {{32, 8}, 394, 452, 1800},
                           {{64, 8}, 468, 536, 2650},     {{128, 8}, 692, 770, 2450}};
// Of groups, by an earlier fit.
constexpr Cost kGroupCosts[] = {{{16, 16}, 570, 720, 2500},
                                {{32, 16}, 630, 800, 2800},
                                {{64, 16}, 810, 950, 4000},
                                {{96, 16}, 1020, 1140, 5500},
                                {{128, 16}, 1280, 1350, 7500}};

const Cost& cost_of(const GemmProblem& problem, TensorCoreShape shape) {
  const auto is = [&](const Cost& c) { return c.shape == shape; };
  if (problem.groups == 0) return *std::find_if(std::begin(kCosts), std::end(kCosts), is);
  return *std::find_if(std::begin(kGroupCosts), std::end(kGroupCosts), is);
}

}  // namespace

// Fitted to an H200 (docs/performance.md): among the measured divisions of a product the one with
// the least of this is 0.5% slower than the fastest, on average. A slice, at the tensor cores' or
// the dequantization's pace; a tile's start and end; the exchange of sums.
std::int64_t tensor_core_nanoseconds(const GemmProblem& problem, const TensorCorePlan& plan,
                                     const GemmDevice& device) {
  constexpr int kLaunch = 2040, kCluster = 1275, kShare = 4074;
  const Cost& cost = cost_of(problem, {plan.tokens, plan.warps});
  const std::int64_t slice =
      tensor_core_kind(problem) == TensorCoreKind::kFp16 ? cost.slice : cost.slice_bf16;
  const int clusters = tensor_core_clusters(device, plan.split);
  const std::int64_t tiles = tensor_core_tiles_m(problem, plan.tokens).likely * plan.tiles_n;
  const std::int64_t tile = ceil_div(plan.slices, plan.split) * slice + cost.tile;
  const int sums = plan.tokens * plan.rows();
  if (plan.shares) {
    const std::int64_t rest = tiles % clusters;
    return kLaunch + tiles / clusters * tile +
           (rest == 0 ? 0
                      : ceil_div(rest * plan.slices, clusters) * slice + cost.tile + kShare +
                            48 * sums / 256);
  }
  // How many tiles groups have is not known: half a wave more, where there is more than one.
  const std::int64_t all = problem.groups == 0 ? ceil_div(tiles, clusters) * tile
                           : tiles <= clusters ? tile
                                               : tiles * tile / clusters + tile / 2;
  return kLaunch + all +
         (plan.split == 1 ? 0 : kCluster + 33 * sums / 256 * (plan.split - 1) / plan.split);
}

TensorCorePlan plan_tensor_core(const GemmProblem& problem, const GemmDevice& device) {
  TensorCorePlan best;
  std::int64_t least = 0;
  for (const TensorCoreShape& shape : kTensorCoreShapes) {
    for (int split = 1; split <= kTensorCoreMaxSplit; ++split) {
      for (const bool shares : {false, true}) {
        if (shares && problem.groups != 0) continue;  // how many tiles are left is not known
        const TensorCorePlan plan = plan_tensor_core(problem, device, shape, split, shares);
        if (plan.tokens == 0 || plan.split != split || plan.shares != shares) continue;
        const std::int64_t tiles = std::int64_t{plan.tiles_m} * plan.tiles_n;
        if (split > 1 && tiles > tensor_core_clusters(device, split)) continue;  // all at once
        const std::int64_t time = tensor_core_nanoseconds(problem, plan, device);
        if (best.tokens == 0 || time < least) best = plan, least = time;
      }
    }
  }
  return best;
}

int tensor_core_clusters(const GemmDevice& device, int split) {
  // A cluster lies within a group of multiprocessors, some of which have fewer: of 132 (H200), as
  // cudaOccupancyMaxActiveClusters says.
  constexpr int kOf132[kTensorCoreMaxSplit] = {132, 66, 39, 30, 22, 17, 15, 15};
  return std::max(1, kOf132[split - 1] * device.multiprocessors / 132);
}

std::string to_string(const TensorCorePlan& plan) {
  const std::string of =
      plan.groups == 0 ? std::string() : std::to_string(plan.groups) + " groups, at most ";
  return "tensor_core " + std::to_string(plan.tokens) + " tokens by " +
         std::to_string(plan.rows()) + ", " + of + std::to_string(plan.tiles_m) + " x " +
         std::to_string(plan.tiles_n) + " tiles, " + std::to_string(plan.slices) + " slices in " +
         std::to_string(plan.split) +
         (plan.shares       ? " part, the last tiles shared, "
          : plan.split == 1 ? " part, "
                            : " parts, ") +
         std::to_string(plan.stages) + " stages, " + std::to_string(plan.blocks) + " blocks of " +
         std::to_string(plan.shared_bytes) + " bytes";
}

}  // namespace halfbyte::ops
