// The quantization that an operator ends in: its outputs and its fp32 scale as tensors of a case.
#pragma once

#include <memory>

#include "apps/halfbyte/bench_case.h"
#include "halfbyte/ops/common/quantize_spec.h"

namespace halfbyte::app {

class QuantizeTail {
 public:
  // Adds the outputs that options.spec asks for to `bench_case`, which is told what to fit the
  // scale to: the tensor `to_quantize`.
  QuantizeTail(BenchCase& bench_case, const BenchOptions& options, BenchShape shape,
               int to_quantize);

  const ops::QuantizeSpec& spec() const { return spec_; }
  ops::GivenScale given() const;
  ops::QuantizeOutputs out(const TensorSet& set) const;
  // `quantize` of a tensor to these outputs: the second half of an unfused path.
  base::Status quantize(const base::TensorView& x, const TensorSet& set,
                        const base::Execution& execution) const;

 private:
  ops::QuantizeSpec spec_;
  std::shared_ptr<float> scale_;
  int codes_ = kAbsent, scales_ = kAbsent, scales_second_ = kAbsent;
  int row_scale_ = kAbsent, global_scale_ = kAbsent, decode_scale_ = kAbsent;
};

}  // namespace halfbyte::app
