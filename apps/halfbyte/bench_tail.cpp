#include "apps/halfbyte/bench_tail.h"

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::app {

using base::DType;
using formats::Format;
using formats::ScaleMode;

QuantizeTail::QuantizeTail(BenchCase& bench_case, const BenchOptions& options, BenchShape shape,
                           int to_quantize)
    : spec_(options.spec), scale_(bench_case.scale) {
  bench_case.to_quantize = to_quantize;
  bench_case.format = spec_.format;
  const std::int64_t rows = shape.rows, columns = shape.columns;
  codes_ =
      bench_case.add(Role::kWrite, DType::kU8, {rows, formats::code_bytes(spec_.format, columns)});
  if (formats::has_block_scales(spec_.format)) {
    const std::int64_t count = columns / formats::block_elements(spec_.format);
    scales_ =
        bench_case.add(Role::kWrite, DType::kU8, {formats::scale_bytes(spec_.layout, rows, count)});
    if (spec_.second_layout) {
      scales_second_ = bench_case.add(Role::kWrite, DType::kU8,
                                      {formats::scale_bytes(*spec_.second_layout, rows, count)});
    }
  }
  if (spec_.scale == ScaleMode::kRow) {
    row_scale_ = bench_case.add(Role::kWrite, DType::kF32, {rows});
  }
  if (spec_.scale == ScaleMode::kComputed) {
    global_scale_ = bench_case.add(Role::kWrite, DType::kF32, {1});
    decode_scale_ = bench_case.add(Role::kWrite, DType::kF32, {1});
  }
}

ops::GivenScale QuantizeTail::given() const {
  ops::GivenScale given;
  if (spec_.scale != ScaleMode::kTensor) return given;
  const base::TensorView view(scale_.get(), DType::kF32, {1});  // read on the host, at the call
  if (spec_.format == Format::kNvfp4) given.global_scale = view;
  if (spec_.format == Format::kFp8) given.decode_scale = view;
  return given;
}

ops::QuantizeOutputs QuantizeTail::out(const TensorSet& set) const {
  ops::QuantizeOutputs out;
  out.codes = set[codes_];
  out.scales = set[scales_];
  out.scales_second = set[scales_second_];
  out.row_scale = set[row_scale_];
  out.global_scale = set[global_scale_];
  out.decode_scale = set[decode_scale_];
  return out;
}

base::Status QuantizeTail::quantize(const base::TensorView& x, const TensorSet& set,
                                    const base::Execution& execution) const {
  ops::QuantizeArgs args;
  args.x = x;
  args.given = given();
  args.spec = spec_;
  args.out = out(set);
  return ops::quantize(args, execution);
}

}  // namespace halfbyte::app
