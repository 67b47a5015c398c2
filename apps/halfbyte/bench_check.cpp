#include "apps/halfbyte/bench_check.h"

#include <algorithm>

#include "apps/halfbyte/bench_buffers.h"
#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/op_tensors.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::app {
namespace {

using base::Result;

// What is not written is told apart in any two answers.
constexpr std::byte kPoison[] = {std::byte{0xA5}, std::byte{0x5A}};

}  // namespace

std::int64_t reference_rows(BenchShape shape) {
  constexpr std::int64_t kElements = 1 << 20, kProducts = 1 << 27;
  const std::int64_t rows =
      shape.inner == 0 ? kElements / shape.columns : kProducts / shape.columns / shape.inner;
  return std::min(shape.rows, std::max<std::int64_t>(1, rows));
}

Result<float> fit_scale(const BenchOperator& op, const BenchOptions& options, BenchShape shape,
                        BenchData& data) {
  if (options.norm == nullptr) shape.rows = reference_rows(shape);
  const BenchCase bench_case = op.make(options, shape);
  const bool given = options.spec.scale == formats::ScaleMode::kTensor;
  if (bench_case.to_quantize == kAbsent || !given || bench_case.format == formats::Format::kMxfp4) {
    return 1.0f;
  }
  const Result<Buffers> buffers = Buffers::create(bench_case, data, 1, kHost, kPoison[0]);
  if (!buffers.ok()) return buffers.status();
  base::Execution execution;
  execution.num_threads = options.num_threads;
  const TensorSet set = buffers.value().set(0);
  if (bench_case.make_quantized) {
    HALFBYTE_RETURN_IF_ERROR(bench_case.make_quantized(set, execution));
  }
  float amax = 0;
  ops::AmaxArgs args;
  args.x = set[bench_case.to_quantize];
  args.amax = base::TensorView(&amax, base::DType::kF32, {1});
  HALFBYTE_RETURN_IF_ERROR(ops::amax(args, execution));
  if (!(amax > 0)) return 1.0f;
  return bench_case.format == formats::Format::kNvfp4 ? formats::kNvfp4Range / amax
                                                      : amax / formats::kE4m3Max;
}

Result<bool> equals_reference(const BenchOperator& op, const BenchOptions& options,
                              BenchShape shape, float scale, base::Device device,
                              const base::Execution& execution, BenchData& data) {
  const BenchCase bench_case = op.make(options, shape);
  *bench_case.scale = scale;
  const Result<Buffers> answer = Buffers::create(bench_case, data, 1, device, kPoison[0]);
  if (!answer.ok()) return answer.status();
  const Result<Buffers> expected = Buffers::create(bench_case, data, 1, kHost, kPoison[1]);
  if (!expected.ok()) return expected.status();
  base::Execution naive;
  naive.backend = base::Backend::kReference;
  HALFBYTE_RETURN_IF_ERROR(bench_case.fused(answer.value().set(0), execution));
  HALFBYTE_RETURN_IF_ERROR(bench_case.fused(expected.value().set(0), naive));
  if (device != kHost) HALFBYTE_RETURN_IF_ERROR(device_synchronize());
  return Buffers::equal_outputs(answer.value(), expected.value());
}

Result<bool> equals_unfused(const BenchCase& bench_case, base::Device device,
                            const base::Execution& execution, BenchData& data) {
  const Result<Buffers> fused = Buffers::create(bench_case, data, 1, device, kPoison[0]);
  if (!fused.ok()) return fused.status();
  const Result<Buffers> unfused = Buffers::create(bench_case, data, 1, device, kPoison[1]);
  if (!unfused.ok()) return unfused.status();
  HALFBYTE_RETURN_IF_ERROR(bench_case.fused(fused.value().set(0), execution));
  HALFBYTE_RETURN_IF_ERROR(bench_case.unfused(unfused.value().set(0), execution));
  if (device != kHost) HALFBYTE_RETURN_IF_ERROR(device_synchronize());
  return Buffers::equal_outputs(fused.value(), unfused.value());
}

}  // namespace halfbyte::app
