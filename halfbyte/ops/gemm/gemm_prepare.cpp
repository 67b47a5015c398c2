// prepare_weights and unprepare_weights: checks, and the copies on the CPU.
#include <cstring>

#include "halfbyte/base/float_environment.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/dispatch.h"
#include "halfbyte/ops/common/quantize_target.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops {

using base::Device;
using base::DType;
using base::Execution;
using base::invalid_argument;
using base::Result;
using base::Status;

namespace reference {
namespace {

// What prepare_codes and prepare_scales read.
struct PlainWeights {
  explicit PlainWeights(const PrepareProblem& of)
      : problem(of), format(of.format), rows(of.rows), columns(of.columns) {}
  std::uint8_t code(std::int64_t n, std::int64_t k) const {
    return formats::e2m1_unpack(problem.codes[problem.code_rows.offset(n) + k / 2],
                                static_cast<int>(k % 2));
  }
  std::uint8_t scale(std::int64_t n, std::int64_t block) const {
    return problem.scales[formats::scale_offset(problem.layout, n, block,
                                                columns / formats::block_elements(format))];
  }
  const PrepareProblem& problem;
  Format format;
  std::int64_t rows, columns;
};

void prepare_tiles(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch) {
  const PrepareProblem& problem = *static_cast<const PrepareProblem*>(context);
  const PlainWeights weights(problem);
  const std::int64_t slices = (problem.columns + kUnitColumns - 1) / kUnitColumns;
  for (std::int64_t tile = begin; tile < end; ++tile) {
    for (std::int64_t slice = 0; slice < slices; ++slice) {
      std::uint8_t* unit =
          problem.prepared + unit_offset(problem.format, problem.columns, tile, slice);
      for (int row = 0; row < 8; ++row) {
        for (int block = 0; block < 8; ++block) {
          for (int pair = 0; pair < 4; ++pair) {
            prepare_codes(weights, tile, slice, row, pair, block, unit);
          }
        }
        for (int i = 0; i < 4; ++i) prepare_scales(weights, tile, slice, row, i, unit);
      }
    }
  }
}

void unprepare_rows(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch) {
  const PrepareProblem& problem = *static_cast<const PrepareProblem*>(context);
  const std::int64_t blocks = problem.columns / formats::block_elements(problem.format);
  for (std::int64_t n = begin; n < end; ++n) {
    const PreparedRow row(problem.prepared, problem.format, problem.columns, n);
    std::uint8_t* codes = problem.codes + problem.code_rows.offset(n);
    for (std::int64_t byte = 0; byte < problem.columns / 2; ++byte) {
      codes[byte] = formats::e2m1_pack(row.code(2 * byte), row.code(2 * byte + 1));
    }
    for (std::int64_t k = 0; k < blocks; ++k) {
      problem.scales[formats::scale_offset(problem.layout, n, k, blocks)] = row.scale(k);
    }
  }
}

}  // namespace

void prepare_weights(const PrepareProblem& problem, int num_threads) {
  const std::int64_t tiles = (problem.rows + kTileRows - 1) / kTileRows;
  simd::parallel_rows(tiles, kTileRows * problem.columns, num_threads, 0, prepare_tiles, &problem);
}

void unprepare_weights(const PrepareProblem& problem, int num_threads) {
  if (problem.rows == 0) return;
  const std::int64_t blocks = problem.columns / formats::block_elements(problem.format);
  std::memset(problem.scales, 0,
              static_cast<std::size_t>(formats::scale_bytes(problem.layout, problem.rows, blocks)));
  simd::parallel_rows(problem.rows, problem.columns, num_threads, 0, unprepare_rows, &problem);
}

}  // namespace reference

namespace {

// `forward`: plain to prepared.
Status run(const PrepareWeightsArgs& args, const Execution& execution, bool forward) {
  const PackedTensor& plain = args.plain;
  HALFBYTE_RETURN_IF_ERROR(check_fp4_format("format", plain.format));
  HALFBYTE_RETURN_IF_ERROR(check_fp4_columns("columns", plain.format, plain.columns));
  HALFBYTE_RETURN_IF_ERROR(check_fp4_rows("rows", plain.rows, plain.columns, 1));
  HALFBYTE_RETURN_IF_ERROR(check_layout("layout", plain.layout));
  if (!args.prepared) return invalid_argument("prepared", "a tensor", "none");
  const Device device = args.prepared.device;
  const Result<Choice> choice = choose_implementation(execution, device);
  if (!choice.ok()) return choice.status();
  HALFBYTE_RETURN_IF_ERROR(
      check_prepared("prepared", args.prepared,
                     prepared_weight_bytes(plain.format, plain.rows, plain.columns), device));
  const Result<Rows> codes =
      resolve_fp4_codes("codes", plain.codes, plain.rows, plain.columns, device);
  if (!codes.ok()) return codes.status();
  const std::int64_t blocks = plain.columns / formats::block_elements(plain.format);
  HALFBYTE_RETURN_IF_ERROR(check_array("scales", plain.scales, DType::kU8,
                                       formats::scale_bytes(plain.layout, plain.rows, blocks),
                                       device));
  HALFBYTE_RETURN_IF_ERROR(
      check_absent("scale", plain.scale, "the prepared form holds no fp32 scale"));
  OverlapCheck overlap;
  if (forward) {
    overlap.reads("codes", codes.value());
    overlap.reads("scales", plain.scales);
    overlap.writes("prepared", args.prepared);
  } else {
    overlap.writes("codes", codes.value());
    overlap.writes("scales", plain.scales);
    overlap.reads("prepared", args.prepared);
  }
  HALFBYTE_RETURN_IF_ERROR(overlap.result());

  PrepareProblem problem;
  problem.format = plain.format;
  problem.rows = plain.rows;
  problem.columns = plain.columns;
  problem.codes = plain.codes.as<std::uint8_t>();
  problem.code_rows = codes.value().map;
  problem.scales = plain.scales.as<std::uint8_t>();
  problem.layout = plain.layout;
  problem.prepared = args.prepared.as<std::uint8_t>();
  if (choice.value().cuda) {
    return forward ? cuda::prepare_weights(problem, device, execution.stream)
                   : cuda::unprepare_weights(problem, device, execution.stream);
  }
  const int threads = execution.backend == base::Backend::kReference ? 1 : execution.num_threads;
  if (forward) {
    reference::prepare_weights(problem, threads);
  } else {
    reference::unprepare_weights(problem, threads);
  }
  return {};
}

}  // namespace

Status prepare_weights(const PrepareWeightsArgs& args, const Execution& execution) {
  return base::in_operator("prepare_weights", run(args, execution, true));
}
Status unprepare_weights(const PrepareWeightsArgs& args, const Execution& execution) {
  return base::in_operator("unprepare_weights", run(args, execution, false));
}

}  // namespace halfbyte::ops
