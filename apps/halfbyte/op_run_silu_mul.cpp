#include "apps/halfbyte/op_quantization.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::app {

using base::Result;
using base::Status;

Status run_silu_mul(OpCall& call) {
  ops::SiluMulArgs args;
  args.gate_up = call.input("gate_up");
  args.activation = activation(call.settings());
  std::vector<std::int64_t> shape = shape_of(args.gate_up);
  if (shape.empty()) return base::invalid_argument("gate_up", "shape [.., 2I]", "[]");
  shape.back() /= 2;
  HALFBYTE_RETURN_IF_ERROR(call.add_output("y", args.gate_up.dtype, shape, args.y));
  return ops::silu_mul(args, call.execution());
}

Status run_silu_mul_quantize(OpCall& call) {
  ops::SiluMulQuantizeArgs args;
  args.gate_up = call.input("gate_up");
  args.activation = activation(call.settings());
  args.given = given_scale(call);
  args.spec = quantize_spec(call.settings());
  const Result<Extent> extent = extent_of("gate_up", args.gate_up);
  if (!extent.ok()) return extent.status();
  const Extent y{extent.value().rows, extent.value().columns / 2};
  HALFBYTE_RETURN_IF_ERROR(add_quantize_outputs(call, args.spec, y, args.out));
  return ops::silu_mul_quantize(args, call.execution());
}

}  // namespace halfbyte::app
