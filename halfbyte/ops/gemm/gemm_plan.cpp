#include "halfbyte/ops/gemm/gemm_plan.h"

#include <algorithm>

#include "halfbyte/ops/gemm/gemm_decode_layout.h"

namespace halfbyte::ops {

using base::Result;

namespace {

// nullptr: the decode kernel takes the problem.
const char* no_decode(const GemmProblem& problem, const GemmDevice& device) {
  if (!problem.quantized) return "A is not quantized";
  if (problem.format != Format::kNvfp4) return "the format is not NVFP4";
  if (problem.form != WeightForm::kPrepared) return "the weights are not prepared";
  if (problem.groups != 0) return "rows are in groups";
  if (device.compute_capability < 90) return "the device has no bulk copies (sm_90)";
  if (problem.a_rows.inner_rows != problem.a_rows.rows)
    return "the rows of A are not evenly spaced";
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  if (problem.k == 0 || problem.k > kMost || problem.n > kMost) return "N or K is out of range";
  return nullptr;
}

// nullptr: method = fp8 takes the problem.
const char* no_fp8(const GemmProblem& problem, const GemmDevice& device) {
  if (device.compute_capability < 89) return "the device has no FP8 tensor cores (sm_89)";
  if (problem.groups != 0) return "rows are in groups";
  if (problem.k == 0) return "K is 0";
  return device.cublaslt.empty() ? nullptr : device.cublaslt.c_str();
}

// nullptr: method = block_scaled takes the problem.
const char* no_block_scaled(const GemmProblem& problem, const GemmDevice& device) {
  if (device.compute_capability < 100) return "the device has no FP4 tensor cores (sm_100 on)";
  if (problem.groups != 0) return "rows are in groups";
  if (!problem.quantized) return "A is not quantized";
  if (problem.format != Format::kNvfp4) return "the format is not NVFP4, and cuBLASLt has no other";
  if (problem.form != WeightForm::kPlain)
    return "the weights are prepared; it takes plain ones with scales in layout 128x4";
  if (problem.b_layout != ScaleLayout::k128x4) return "the scales of b are not in layout 128x4";
  if (problem.a_layout != ScaleLayout::k128x4) return "the scales of a are not in layout 128x4";
  if (problem.k == 0 || problem.k % 32 != 0 || problem.n % 32 != 0)
    return "K and N are no multiples of 32";
  const auto dense = [&](const base::RowMap& rows) {
    return rows.inner_rows == rows.rows && rows.inner_stride == problem.k / 2;
  };
  if (!dense(problem.a_rows) || !dense(problem.b_rows)) return "rows of codes are not dense";
  return device.cublaslt.empty() ? nullptr : device.cublaslt.c_str();
}

}  // namespace

DecodePlan plan_decode(const DecodeShape& shape, std::int64_t n, std::int64_t k,
                       const GemmDevice& device) {
  DecodePlan plan;
  plan.shape = shape;
  plan.tiles = ceil_div(n, kTileRows);
  plan.slices = ceil_div(k, kSliceColumns);
  const int teams = kDecodeWarps / shape.warps_k;
  plan.rounds = ceil_div(plan.slices, shape.warps_k * shape.slices());
  while ((1 << plan.levels) < plan.rounds) ++plan.levels;
  plan.blocks = std::min(plan.tiles, device.multiprocessors);
  plan.block_tiles = plan.tiles / plan.blocks;
  plan.more_tiles = plan.tiles % plan.blocks;
  const int team_tiles = ceil_div(ceil_div(plan.tiles, plan.blocks), teams);
  const int pend_bytes = teams * plan.levels * decode_pend_floats(shape) * 4;  // a tile
  plan.group_tiles = team_tiles;
  if (pend_bytes != 0) {
    plan.group_tiles = std::clamp(device.shared_bytes / 6 / pend_bytes, 1, team_tiles);
  }
  constexpr int kAlign = 128;
  plan.part_offset = round_up(
      kDecodeBarrierBytes + kDecodeMaxTokens * kDecodeRowBytes + kDecodeCursorBytes, kAlign);
  plan.pend_offset =
      plan.part_offset + decode_slots(shape) * kDecodeWarps * decode_part_floats(shape) * 4;
  plan.raw_offset = round_up(plan.pend_offset + plan.group_tiles * pend_bytes, kAlign);
  plan.ring_offset = round_up(plan.raw_offset + kDecodeWarps * decode_raw_bytes(shape), kAlign);
  const int stage_bytes = kDecodeWarps * shape.slices() * unit_bytes(Format::kNvfp4);
  const int fit = std::max(0, device.shared_bytes - plan.ring_offset) / stage_bytes;
  // Few bytes in flight saturate memory; what is asked for later waits behind all of them.
  const int enough = shape.slices() >= 4 ? 2 : shape.slices() == 2 ? 3 : 4;
  plan.stages = std::min({fit, enough, kDecodeMaxStages, team_tiles * plan.rounds});
  plan.shared_bytes = plan.ring_offset + plan.stages * stage_bytes;
  return plan;
}

// Measured on an H200 (docs/performance.md): few slices of K want few warps along it, unless there
// are few tiles as well; many rows want few slices a warp, whose activations stay in registers.
DecodeShape choose_decode_shape(int rows, std::int64_t n, std::int64_t k,
                                const GemmDevice& device) {
  const bool short_k = k <= 4096;
  const bool many_tiles = n >= std::int64_t{6} * kTileRows * device.multiprocessors;
  if (rows <= 2) return {1, rows == 1, 4, 1, short_k && many_tiles ? 8 : 16};
  if (rows <= 4) return {1, false, 2, short_k ? 1 : 2, 16};
  if (rows <= 8) return {1, false, 1, 2, 16};
  if (rows <= 16) return {2, false, 1, 2, 16};
  return {4, false, 1, 1, 16};
}

Result<GemmPlan> gemm_plan(const GemmProblem& problem, const GemmDevice& device) {
  GemmPlan plan;
  const bool fp8 = problem.method == GemmMethod::kFp8;
  if (fp8 || problem.method == GemmMethod::kBlockScaled) {
    const char* no = fp8 ? no_fp8(problem, device) : no_block_scaled(problem, device);
    if (no != nullptr) {
      return base::unsupported(std::string(fp8 ? "method: fp8: " : "method: block_scaled: ") + no);
    }
    plan.kind = fp8 ? GemmKernelKind::kFp8 : GemmKernelKind::kBlockScaled;
    plan.why = "demanded";
    return plan;
  }
  const bool tensor_core = problem.method == GemmMethod::kTensorCore;
  const bool grouped = problem.groups != 0;
  const std::int64_t from =
      problem.quantized ? (grouped ? kTensorCoreFromGroupRows : kTensorCoreFromRows)
                        : (grouped ? kTensorCoreFromGroupRows16Bit : kTensorCoreFromRows16Bit);
  const bool many = problem.m >= from * std::max<std::int64_t>(problem.groups, 1);
  const bool empty = problem.m == 0 || problem.n == 0;
  // W4A16's stream kernel is one for tensor cores too, and the faster for few rows that it reads
  // the weights once for, in one round.
  const bool may_stream = !problem.quantized && !many && !empty &&
                          (tensor_core || problem.method == GemmMethod::kAuto) &&
                          no_stream(problem, device) == nullptr;
  if (may_stream) plan.stream = plan_stream(problem, device);
  const bool few = may_stream && plan.stream.rounds == 1;
  const bool rounds = may_stream && !few;
  if ((tensor_core && !few) || (problem.method == GemmMethod::kAuto && (many || rounds))) {
    const char* no_plan = no_tensor_core(problem, device);
    if (no_plan == nullptr) {
      plan.tensor_core = plan_tensor_core(problem, device);
      if (plan.tensor_core.tokens == 0) no_plan = "shared memory is too small";
    }
    if (no_plan == nullptr) {
      plan.kind = GemmKernelKind::kTensorCore;
      plan.why = tensor_core ? "demanded"
                 : rounds    ? "A does not fit the stream kernel at once"
                             : std::to_string(from) + " rows of A or more" +
                                (grouped ? " a group, on average" : "");
      return plan;
    }
    if (tensor_core && problem.quantized) {
      return base::unsupported(std::string("method: tensor_core: ") + no_plan);
    }
  }
  const bool to_fp16 = !problem.quantized && problem.x_dtype == base::DType::kF16;
  const char* no_dequantize = problem.groups != 0 ? "rows are in groups"
                              : problem.k == 0    ? "K is 0"
                              : to_fp16 && problem.format == Format::kMxfp4
                                  ? "MXFP4 weights are not exact in fp16"
                              : !device.cublaslt.empty() ? device.cublaslt.c_str()
                                                         : nullptr;
  const bool demanded = problem.method == GemmMethod::kDequantize;
  if (demanded && no_dequantize != nullptr) {
    return base::unsupported(std::string("method: dequantize: ") + no_dequantize);
  }
  const bool large = problem.method == GemmMethod::kAuto && problem.m >= kDequantizeRows;
  if (demanded || (large && no_dequantize == nullptr)) {
    plan.kind = GemmKernelKind::kDequantize;
    plan.why = demanded ? "demanded" : std::to_string(kDequantizeRows) + " rows of A or more";
    return plan;
  }
  // W4A16 has an order of its own on tensor cores: bounded.
  const char* no = !problem.quantized && problem.method == GemmMethod::kExact
                       ? "W4A16 is exact without tensor cores alone"
                       : no_stream(problem, device);
  const auto try_stream = [&] {
    if (no != nullptr || empty || plan.stream.stages != 0) return;
    plan.stream = plan_stream(problem, device);
    if (plan.stream.stages == 0) no = "shared memory is too small";
  };
  if (problem.m <= kStreamMaxTokens) try_stream();
  // Measured on an H200 (docs/performance.md): the short stream kernel is the faster one.
  const bool prefers_stream = no == nullptr && plan.stream.simple;
  if (no_decode(problem, device) == nullptr && !empty && !prefers_stream) {
    const int rows = static_cast<int>(std::min<std::int64_t>(problem.m, kDecodeMaxTokens));
    plan.decode = plan_decode(choose_decode_shape(rows, problem.n, problem.k, device), problem.n,
                              problem.k, device);
    if (plan.decode.stages != 0) {
      plan.kind = GemmKernelKind::kDecode;
      plan.launches = ceil_div(problem.m, kDecodeMaxTokens);
      plan.why = "prepared NVFP4 weights, exact blocks on fp16 tensor cores";
      if (plan.launches > 1) {
        plan.why +=
            "; " + std::to_string(kDecodeMaxTokens) + " rows of A a launch, each reads all weights";
      }
      return plan;
    }
  }
  try_stream();
  if (no != nullptr) {
    if (problem.method == GemmMethod::kTensorCore) {
      return base::unsupported(std::string("method: tensor_core: ") + no);
    }
    plan.why = std::string("a warp an element, in the order of the contract: ") + no;
    return plan;
  }
  plan.kind = GemmKernelKind::kStream;
  plan.why = problem.quantized ? "prepared weights, exact blocks on fp16 tensor cores"
                               : "prepared weights, A in 16 bits on fp16 tensor cores, bounded";
  if (problem.groups == 0 && problem.m > plan.stream.chunk_rows) {
    plan.why += "; " + std::to_string(plan.stream.chunk_rows) +
                " rows of A at a time, each reads all weights";
  }
  return plan;
}

std::string to_string(const GemmPlan& plan) {
  if (plan.kind == GemmKernelKind::kAny) return "any: " + plan.why;
  if (plan.kind == GemmKernelKind::kDequantize) return "dequantize, cuBLASLt: " + plan.why;
  if (plan.kind == GemmKernelKind::kFp8) return "fp8, cuBLASLt: " + plan.why;
  if (plan.kind == GemmKernelKind::kBlockScaled) return "block_scaled, cuBLASLt: " + plan.why;
  if (plan.kind == GemmKernelKind::kTensorCore)
    return to_string(plan.tensor_core) + ": " + plan.why;
  if (plan.kind == GemmKernelKind::kStream) {
    const StreamPlan& stream = plan.stream;
    return "stream " + std::to_string(stream.chunk_rows) + " rows at a time, " +
           std::to_string(stream.group_tiles) + " tiles by " + std::to_string(stream.full.slices) +
           " slices a phase, " + std::to_string(stream.rounds) + " rounds, clusters of " +
           std::to_string(stream.split) + ", " + std::to_string(stream.stages) + " stages, " +
           std::to_string(stream.blocks) + " blocks of " + std::to_string(stream.shared_bytes) +
           (stream.simple ? " bytes, short: " : " bytes: ") + plan.why;
  }
  const DecodePlan& decode = plan.decode;
  const DecodeShape& shape = decode.shape;
  return "decode " + std::to_string(shape.tokens()) + " tokens, " + std::to_string(shape.slices()) +
         " slices a warp, " + std::to_string(shape.warps_k) + " warps along K, " +
         std::to_string(decode.rounds) + " rounds, " + std::to_string(decode.stages) + " stages, " +
         std::to_string(decode.blocks) + " blocks of " + std::to_string(decode.shared_bytes) +
         " bytes, " + std::to_string(plan.launches) +
         (plan.launches == 1 ? " launch: " : " launches: ") + plan.why;
}

}  // namespace halfbyte::ops
