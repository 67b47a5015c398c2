#include "halfbyte/ops/gemm/gemm_stream_plan.h"

#include <algorithm>
#include <numeric>

#include "halfbyte/ops/gemm/gemm_stream_layout.h"

namespace halfbyte::ops {
namespace {

StreamDeal deal_of(int slices, int part_slices) {
  const int parts = ceil_div(slices, part_slices);
  return {parts, part_slices, 65536 / parts + 1};
}
StreamShare share_of(int slices, int part_slices) {
  StreamShare share;
  share.slices = slices;
  share.deal = deal_of(slices, part_slices);
  // Right where x * slices < 2^32: x counts the slices of a chunk's rows. Not for one slice.
  share.slices_inverse = static_cast<std::uint32_t>((std::uint64_t{1} << 32) / slices + 1);
  return share;
}

bool is_even(const base::RowMap& rows) { return rows.inner_rows == rows.rows; }

// What the short kernel takes. Strides count here, not pointers: the kernel's launch looks at
// those.
bool is_simple(const GemmProblem& problem) {
  if (problem.groups != 0 || !is_even(problem.c_rows)) return false;
  if (ceil_div(problem.k, kSliceColumns) % 2 != 0) return false;
  if (!problem.quantized) return is_even(problem.x_rows);
  return is_even(problem.a_rows) && problem.a_layout == ScaleLayout::kLinear;
}

bool shares_columns(const GemmProblem& problem, const StreamPlan& plan) {
  return stream_shared_slices(problem.format, plan.chunk_rows) > 1;
}

// Fills in what follows from full, stages and split; `tiles` of a cluster.
// False: it does not fit.
bool lay_out(const GemmProblem& problem, const GemmDevice& device, int tiles, StreamPlan& plan) {
  const int pieces = ceil_div(plan.slices, plan.full.slices);
  plan.rounds = plan.split > 1 ? 1 : pieces;
  plan.last = share_of(plan.slices - (pieces - 1) * plan.full.slices, plan.full.deal.part_slices);
  plan.chunk_inverse = 65536 / plan.chunk_rows + 1;
  plan.levels = 0;
  while ((1 << plan.levels) < plan.rounds) ++plan.levels;
  constexpr int kAlign = 128;
  const int factors = stream_factors(problem.format, problem.quantized) * plan.token_tiles * 8;
  const int part_tile = plan.full.deal.parts * plan.chunk_rows * kStreamTokenStride * 4;
  const int pend_tile = plan.levels * plan.chunk_rows * kTileRows * 4;
  plan.header_offset = plan.stages * kStreamWarps * 2 * unit_bytes(problem.format);
  plan.act_offset = round_up(plan.header_offset + kStreamHeaderBytes, kAlign);
  plan.factor_offset = plan.act_offset + plan.full.slices * plan.chunk_rows * kStreamSliceBytes;
  plan.chunk_offset = plan.factor_offset + plan.full.slices * factors * 4;
  const int chunk_bytes = problem.groups != 0 ? static_cast<int>(problem.groups + 1) * 12 : 0;
  plan.part_offset = round_up(plan.chunk_offset + chunk_bytes, kAlign);
  const int left = device.shared_bytes - plan.part_offset;
  for (plan.buffers = 1;; ++plan.buffers) {
    plan.group_tiles =
        std::min(tiles, left < 0 ? 0 : left / (plan.buffers * part_tile + pend_tile));
    const bool one_phase = plan.rounds == 1 && plan.group_tiles == tiles && plan.chunks == 1;
    if (one_phase || plan.buffers == 2) break;
  }
  if (plan.group_tiles == 0) return false;
  plan.pend_offset = plan.part_offset + plan.buffers * plan.group_tiles * part_tile;
  plan.shared_bytes = plan.pend_offset + plan.group_tiles * pend_tile;
  return true;
}

// In the time that a warp takes for a slice (measured on an H200): what the warps with the most
// parts of `tiles` tiles take. Where slices share columns, a slice costs less and a part more.
double cost_of_parts(int tiles, int parts, int part_slices, bool shared) {
  const double part = shared ? 0.6 * part_slices + 1.2 : part_slices + 0.5;
  return ceil_div(std::int64_t{tiles} * parts, kStreamWarps) * part;
}

// fits(tail): the sums of its parts do.
template <class Fits>
StreamTail tail_of(int tiles, int slices, int part_shift, bool shared, const Fits& fits) {
  const int turn = kStreamWarps / std::gcd(slices >> part_shift, kStreamWarps);  // tiles
  StreamTail tail{tiles / turn * turn, part_shift};
  const auto cost = [&](int shift) {
    return cost_of_parts(tiles - tail.first, slices >> shift, 1 << shift, shared);
  };
  // Where all tiles would be the tail the start counts, not the balance: smaller parts are slower.
  for (int shift = part_shift - 1; shift > 0 && tail.first > 0; --shift) {
    if (cost(shift) < cost(tail.part_shift) && fits(StreamTail{tail.first, shift})) {
      tail.part_shift = shift;
    }
  }
  return tail;
}

// Of a plan with one phase for all tiles of a CTA, block_tiles or one more times `unit`, and
// full.slices of each. False: the sums of its parts do not fit.
bool set_tails(const GemmDevice& device, int unit, bool shared, StreamPlan& plan) {
  plan.part_shift = 1;  // K has an even number of slices
  const int most = plan.full.deal.part_slices;
  const int slices = plan.full.slices;
  while (2 << plan.part_shift <= most && slices % (2 << plan.part_shift) == 0) {
    ++plan.part_shift;
  }
  const int all[] = {unit * plan.block_tiles, unit * (plan.block_tiles + (plan.more_tiles != 0))};
  const auto bytes_with = [&](const StreamTail& tail, int tiles) {
    const int parts = tail.first * (slices >> plan.part_shift) +
                      (tiles - tail.first) * (slices >> tail.part_shift);
    return plan.part_offset + parts * plan.chunk_rows * kStreamTokenStride * 4;
  };
  for (const int more : {0, 1}) {
    StreamTail& tail = plan.tails[more];
    tail = tail_of(all[more], slices, plan.part_shift, shared, [&](const StreamTail& of) {
      return bytes_with(of, all[more]) <= device.shared_bytes;
    });
    plan.shared_bytes = std::max(plan.shared_bytes, bytes_with(tail, all[more]));
  }
  return plan.shared_bytes <= device.shared_bytes;
}

// The warps with the most slices, phase by phase, what a phase's barriers and its restaging of A
// cost, and the longer kernel; in the unit of cost_of_parts.
double cost(const StreamPlan& plan, int tiles, bool shared) {
  constexpr double kBarrier = 1.5, kRestage = 6.0, kTwoTiles = 1.45, kGeneral = 5.0;
  const auto group = [&](int of) {
    if (of == 0) return 0.0;
    const StreamTail& tail = plan.tails[1];
    const StreamDeal& deal = plan.full.deal;
    const double slices =
        plan.simple
            ? cost_of_parts(tail.first, plan.full.slices >> plan.part_shift, 1 << plan.part_shift,
                            shared) +
                  cost_of_parts(of - tail.first, plan.full.slices >> tail.part_shift,
                                1 << tail.part_shift, shared)
            : cost_of_parts(of, deal.parts, std::min(deal.part_slices, plan.full.slices), false);
    // The sums of the parts, from both CTAs of a cluster.
    const int turns = ceil_div(std::int64_t{ceil_div(of, plan.split)} * plan.chunk_rows * kTileRows,
                               kStreamThreads);
    const double ends = plan.split > 1 ? 0.5 + turns : 0.5 * turns;
    return plan.rounds * (slices * (plan.token_tiles == 2 ? kTwoTiles : 1.0) + kBarrier + ends +
                          (plan.rounds > 1 ? kRestage : 0.0));
  };
  const int whole = tiles / plan.group_tiles;
  return whole * group(plan.group_tiles) + group(tiles % plan.group_tiles) +
         (plan.simple ? 0.0 : kGeneral);
}

struct Best {
  StreamPlan plan;
  double slices = 0.0;
  bool simple = false;  // the short kernel may be taken
  std::vector<StreamPlan>* all = nullptr;
};

// K in `split` parts, or in rounds of `round_slices`; chunks and their rows are set.
void try_all(const GemmProblem& problem, const GemmDevice& device, int split, int round_slices,
             StreamPlan plan, Best& best) {
  // Of groups, as if each row had an expert of its own: share_of_groups.
  const std::int64_t chunks =
      problem.groups != 0 ? std::min(problem.m, problem.groups) : plan.chunks;
  const std::int64_t total = chunks * plan.tiles;
  const int used = static_cast<int>(std::min<std::int64_t>(total, device.multiprocessors / split));
  const bool one_chunk = problem.groups != 0 && chunks <= used;
  const int tiles =
      std::min(one_chunk ? ceil_div(plan.tiles, used / chunks) : ceil_div(total, used), plan.tiles);
  const int turns = plan.chunks > 1 ? ceil_div(ceil_div(total, used), tiles) : 1;
  plan.split = split;
  plan.blocks = used * split;
  plan.block_tiles = static_cast<int>(total / used);
  plan.more_tiles = static_cast<int>(total % used);
  const int slices =
      split > 1 ? round_up(ceil_div(plan.slices, split), kStreamPartSlices) : round_slices;
  // Both CTAs of a cluster have some; all but the last round have whole parts.
  if (split > 1 && (split - 1) * slices >= plan.slices) return;
  if (split == 1 && slices < plan.slices && slices % kStreamPartSlices != 0) return;
  for (int part_slices = kStreamLongPartSlices; part_slices >= 2; part_slices /= 2) {
    plan.full = share_of(slices, part_slices);
    plan.stages = kStreamStages;
    if (!lay_out(problem, device, tiles, plan)) continue;
    // A cluster's CTAs have halves alike; one or two rows of A fit one CTA.
    const bool halves = split == 2 && plan.slices == 2 * slices && plan.chunk_rows > 2;
    const bool one_phase =
        (split == 1 || halves) && plan.rounds == 1 && plan.chunks == 1 && plan.group_tiles == tiles;
    const bool shared = shares_columns(problem, plan);
    plan.simple = false;
    if (part_slices >= kStreamPartSlices && one_phase && best.simple) {
      StreamPlan simple = plan;
      simple.simple = set_tails(device, 1, shared, simple);
      if (simple.simple) plan = simple;
    }
    if (part_slices > kStreamPartSlices && (!plan.simple || shared)) continue;
    const double cost_of = turns * cost(plan, tiles, shared);
    if (best.all != nullptr) best.all->push_back(plan);
    if (best.plan.stages == 0 || cost_of < best.slices) best.plan = plan, best.slices = cost_of;
    if (plan.simple && part_slices == kStreamPartSlices) break;
  }
}

// What the short kernels for groups have alike: chunks of at most `rows` rows of A, whose fragments
// and factors come behind `ring_bytes` of weights; chunk_offset is what follows them.
StreamPlan plan_chunks(const GemmProblem& problem, const GemmDevice& device, std::int64_t rows,
                       int ring_bytes) {
  constexpr int kAlign = 128;
  StreamPlan plan;
  plan.tiles = ceil_div(problem.n, kTileRows);
  plan.slices = ceil_div(problem.k, kSliceColumns);
  plan.chunks = 0;
  plan.chunk_rows = static_cast<int>(std::min(problem.m, rows));
  plan.blocks = device.multiprocessors;
  plan.full = plan.last = share_of(plan.slices, kStreamPartSlices);
  plan.simple = true;
  const int factors = stream_factors(problem.format, problem.quantized) * 8;
  plan.header_offset = ring_bytes;
  plan.act_offset = round_up(plan.header_offset + kStreamHeaderBytes, kAlign);
  plan.factor_offset = plan.act_offset + plan.slices * plan.chunk_rows * kStreamSliceBytes;
  plan.chunk_offset = round_up(plan.factor_offset + plan.slices * factors * 4, kAlign);
  return plan;
}

// The short kernel for groups (gemm_cuda_stream_groups.cuh), chosen by shapes alone; stages == 0:
// the general one. Where chunks of eight rows are no more than most groups have it reads no weights
// twice.
StreamPlan plan_short_groups(const GemmProblem& problem, const GemmDevice& device) {
  StreamPlan plan = plan_chunks(problem, device, kStreamGroupRows,
                                kStreamGroupStages * kStreamWarps * 2 * unit_bytes(problem.format));
  // A group's last chunk may lack rows.
  const std::int64_t chunks = std::min(problem.m, problem.groups) + problem.m / kStreamGroupRows;
  constexpr std::int64_t kMost = std::int64_t{1} << 20;  // what the kernel's integers hold
  if (problem.m >= 2 * problem.groups || problem.groups > kStreamThreads ||
      chunks * plan.tiles >= kMost || std::int64_t{plan.tiles} * plan.blocks >= kMost) {
    return {};
  }
  plan.chunks_most = static_cast<int>(chunks);
  constexpr int kAlign = 128;
  const int block_chunks = ceil_div(chunks, plan.blocks) + 1;
  plan.part_offset =
      round_up(plan.chunk_offset + kStreamShareBytes + block_chunks * kStreamChunkBytes, kAlign);
  const int row_tile = plan.slices * kStreamGroupStride * 4;
  const int left = std::max(0, device.shared_bytes - plan.part_offset);
  plan.group_tiles = std::min(left / (plan.chunk_rows * row_tile), plan.tiles);
  if (plan.group_tiles == 0) return {};
  for (int rows = 1; rows <= plan.chunk_rows; ++rows) {
    plan.row_tiles[rows - 1] = std::min(left / (rows * row_tile), plan.tiles);
    plan.shared_bytes =
        std::max(plan.shared_bytes, plan.part_offset + plan.row_tiles[rows - 1] * rows * row_tile);
  }
  plan.stages = kStreamGroupStages;
  return plan;
}

// The one for a token or two (gemm_cuda_stream_tokens.cuh).
StreamPlan plan_tokens(const GemmProblem& problem, const GemmDevice& device) {
  StreamPlan plan =
      plan_chunks(problem, device, kStreamTokenRows,
                  (kStreamWarps - 1) * kStreamTokenSlices * unit_bytes(problem.format));
  const auto most = static_cast<int>(
      std::min(problem.m, problem.groups + problem.m / kStreamTokenRows));  // chunks
  if (problem.format != Format::kNvfp4 || problem.k % kSliceColumns != 0 ||
      problem.groups > kStreamTokenGroups || most > plan.blocks ||
      std::int64_t{plan.tiles} * plan.blocks >= std::int64_t{1} << 20) {
    return {};
  }
  // Where rows share experts each has fewer CTAs than there are: not for many.
  plan.chunk_blocks = plan.blocks / most;
  plan.group_tiles = ceil_div(plan.tiles, plan.chunk_blocks);
  const std::int64_t raw = problem.m * (problem.quantized ? problem.k / 2 : problem.k * 2);
  constexpr std::int64_t kMostRaw = 1 << 16;
  if (plan.chunk_blocks < 8 || raw > kMostRaw ||
      std::int64_t{plan.group_tiles} * plan.slices > (kStreamWarps - 1) * kStreamTokenSlices) {
    return {};
  }
  constexpr int kAlign = 128;
  plan.raw_offset = round_up(plan.chunk_offset + kStreamTokenShareBytes, kAlign);
  plan.scale_offset = round_up(plan.raw_offset + static_cast<int>(raw), kAlign);
  const int scales = problem.quantized ? plan.slices * 8 * plan.chunk_rows * 4 : 0;
  plan.part_offset = round_up(plan.scale_offset + scales, kAlign);
  plan.shared_bytes =
      plan.part_offset + plan.group_tiles * plan.slices * plan.chunk_rows * kStreamGroupStride * 4;
  plan.stages = plan.shared_bytes <= device.shared_bytes ? kStreamGroupStages : 0;
  return plan.stages != 0 ? plan : StreamPlan{};
}

}  // namespace

const char* no_stream(const GemmProblem& problem, const GemmDevice& device) {
  if (problem.form != WeightForm::kPrepared) return "the weights are not prepared";
  if (device.compute_capability < 80) return "the device has no asynchronous copies (sm_80)";
  if (problem.groups > kStreamMaxGroups) return "there are too many groups";
  constexpr std::int64_t kMost = std::int64_t{1} << 19;  // tiles times chunks fit an int
  if (problem.k == 0 || problem.k > kMost || problem.n > kMost || problem.m > kMost)
    return "M, N or K is out of range";
  return nullptr;
}

StreamPlan plan_stream(const GemmProblem& problem, const GemmDevice& device, bool simple,
                       std::vector<StreamPlan>* all) {
  StreamPlan plan;
  Best best;
  best.all = all;
  best.simple = simple && is_simple(problem);
  plan.tiles = ceil_div(problem.n, kTileRows);
  plan.slices = ceil_div(problem.k, kSliceColumns);
  for (const int most : {kStreamMaxTokens, 8}) {
    plan.chunk_rows = static_cast<int>(std::min<std::int64_t>(problem.m, most));
    plan.token_tiles = plan.chunk_rows <= 8 ? 1 : 2;
    plan.chunks = problem.groups != 0 ? 0 : ceil_div(problem.m, plan.chunk_rows);
    try_all(problem, device, 1, plan.slices, plan, best);
    if (device.compute_capability >= 90) try_all(problem, device, 2, 0, plan, best);
    for (int slices = kStreamPartSlices; slices < plan.slices; slices *= 2) {  // nodes of the tree
      try_all(problem, device, 1, slices, plan, best);
    }
    if (problem.m <= 8) break;
  }
  if (simple && problem.groups != 0 && problem.m > 0) {
    StreamPlan groups = plan_tokens(problem, device);
    if (groups.stages == 0) groups = plan_short_groups(problem, device);
    if (groups.stages != 0) return groups;
  }
  return best.plan;
}

StreamPlan plan_gate_up_stream(const GemmProblem& problem, const GemmDevice& device) {
  StreamPlan plan;
  const bool whole = problem.n > 0 && problem.n % (2 * kTileRows) == 0;
  if (!whole || problem.m == 0 || problem.m > kGateUpMaxTokens || !is_simple(problem)) return {};
  const int pairs = static_cast<int>(problem.n / (2 * kTileRows));
  plan.tiles = 2 * pairs;
  plan.slices = ceil_div(problem.k, kSliceColumns);
  plan.chunk_rows = static_cast<int>(problem.m);
  plan.blocks = std::min(pairs, device.multiprocessors);
  plan.block_tiles = pairs / plan.blocks;
  plan.more_tiles = pairs % plan.blocks;
  plan.stages = kStreamStages;
  const int tiles = 2 * ceil_div(pairs, plan.blocks);
  const bool shared = shares_columns(problem, plan);
  for (const int part_slices : {kStreamPartSlices, kStreamLongPartSlices}) {
    if (part_slices > kStreamPartSlices && shared) break;
    plan.full = share_of(plan.slices, part_slices);
    plan.simple = lay_out(problem, device, tiles, plan) && plan.group_tiles == tiles &&
                  set_tails(device, 2, shared, plan);
    if (plan.simple) return plan;
  }
  return {};
}

}  // namespace halfbyte::ops
