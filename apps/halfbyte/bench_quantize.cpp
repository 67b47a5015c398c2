// Cases of quantize, dequantize, amax.
#include "apps/halfbyte/bench_cases.h"
#include "apps/halfbyte/bench_tail.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::app {

using base::DType;
using base::Execution;

BenchCase bench_quantize(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const int x = result.add(Role::kRead, options.dtype, {shape.rows, shape.columns}, Fill::kNormal);
  const QuantizeTail tail(result, options, shape, x);
  result.fused = [x, tail](const TensorSet& set, const Execution& execution) {
    return tail.quantize(set[x], set, execution);
  };
  return result;
}

BenchCase bench_dequantize(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const formats::Format format = options.spec.format;
  const formats::ScaleLayout layout = options.spec.layout;
  const std::int64_t rows = shape.rows, columns = shape.columns;  // not a binding: captured
  const int codes = result.add(Role::kRead, DType::kU8,
                               {rows, formats::code_bytes(format, columns)}, Fill::kCodes);
  int scales = kAbsent;
  if (formats::has_block_scales(format)) {
    const std::int64_t count = columns / formats::block_elements(format);
    scales = result.add(Role::kRead, DType::kU8, {formats::scale_bytes(layout, rows, count)},
                        format == formats::Format::kNvfp4 ? Fill::kE4m3Scales : Fill::kE8m0Scales);
    // The padding need not be read.
    result.tensors[static_cast<std::size_t>(scales)].must_touch_bytes = rows * count;
  }
  const int x = result.add(Role::kWrite, options.dtype, {rows, columns});
  const std::shared_ptr<float> scale = result.scale;
  result.fused = [=](const TensorSet& set, const Execution& execution) {
    ops::DequantizeArgs args;
    args.packed.format = format;
    args.packed.layout = layout;
    args.packed.rows = rows;
    args.packed.columns = columns;
    args.packed.codes = set[codes];
    args.packed.scales = set[scales];
    if (format != formats::Format::kMxfp4) {
      args.packed.scale = base::TensorView(scale.get(), DType::kF32, {1});
      args.packed.scale_kind = formats::ScaleKind::kDecode;
    }
    args.x = set[x];
    return ops::dequantize(args, execution);
  };
  return result;
}

BenchCase bench_amax(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const bool per_row = options.per_row;
  const int x = result.add(Role::kRead, options.dtype, {shape.rows, shape.columns}, Fill::kNormal);
  const int amax = result.add(Role::kWrite, DType::kF32, {per_row ? shape.rows : 1});
  result.fused = [=](const TensorSet& set, const Execution& execution) {
    ops::AmaxArgs args;
    args.x = set[x];
    args.amax = set[amax];
    args.per_row = per_row;
    return ops::amax(args, execution);
  };
  return result;
}

}  // namespace halfbyte::app
