// Cases of silu_mul and silu_mul_quantize: M x H is the shape of y, gate_up has 2H columns.
// Unfused: silu_mul, quantize.
#include "apps/halfbyte/bench_cases.h"
#include "apps/halfbyte/bench_tail.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::app {
namespace {

using base::Execution;
using base::Status;

struct GatedTensors {
  int gate_up = kAbsent;
  ops::Activation activation;
};

GatedTensors add_gate_up(BenchCase& result, const BenchOptions& options, BenchShape shape) {
  GatedTensors gated;
  gated.gate_up =
      result.add(Role::kRead, options.dtype, {shape.rows, 2 * shape.columns}, Fill::kNormal);
  gated.activation.interleave = options.interleave;
  return gated;
}

BenchCall silu_mul_into(const GatedTensors& gated, int y) {
  return [gated, y](const TensorSet& set, const Execution& execution) {
    ops::SiluMulArgs args;
    args.gate_up = set[gated.gate_up];
    args.activation = gated.activation;
    args.y = set[y];
    return ops::silu_mul(args, execution);
  };
}

}  // namespace

BenchCase bench_silu_mul(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const GatedTensors gated = add_gate_up(result, options, shape);
  const int y = result.add(Role::kWrite, options.dtype, {shape.rows, shape.columns});
  result.fused = silu_mul_into(gated, y);
  return result;
}

BenchCase bench_silu_mul_quantize(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const GatedTensors gated = add_gate_up(result, options, shape);
  const int y = result.add(Role::kScratch, options.dtype, {shape.rows, shape.columns});
  const QuantizeTail tail(result, options, shape, y);
  result.fused = [=](const TensorSet& set, const Execution& execution) {
    ops::SiluMulQuantizeArgs args;
    args.gate_up = set[gated.gate_up];
    args.activation = gated.activation;
    args.given = tail.given();
    args.spec = tail.spec();
    args.out = tail.out(set);
    return ops::silu_mul_quantize(args, execution);
  };
  const BenchCall silu_mul = silu_mul_into(gated, y);
  result.make_quantized = silu_mul;
  result.unfused = [=](const TensorSet& set, const Execution& execution) -> Status {
    HALFBYTE_RETURN_IF_ERROR(silu_mul(set, execution));
    return tail.quantize(set[y], set, execution);
  };
  return result;
}

}  // namespace halfbyte::app
