// silu_mul, silu_mul_quantize.
#include <cstdint>

#include "activation.h"
#include "operators.h"
#include "quantization.h"

namespace halfbyte::bindings {
namespace {

// y of a tensor [.., 2I].
Tensor make_half(const char* op, const halfbyte_tensor& gate_up) {
  if (gate_up.ndim < 1) refuse(op, "gate_up", "at least one dimension", "a scalar");
  const std::int64_t width = gate_up.shape[gate_up.ndim - 1];
  if (width < 1 || width % 2 != 0) {
    refuse(op, "gate_up", "a last dimension 2I", std::to_string(width));
  }
  return make_tensor(gate_up, Shape::with_last(gate_up, width / 2), dtype_number(gate_up));
}

template <bool kOut>
void silu_mul(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "silu_mul";
  Arguments arguments(stack);
  Tensor gate_up = arguments.tensor();
  Activation activation(kName);
  activation.take(arguments);
  Tensor y;
  if (kOut) y = arguments.tensor();

  HALFBYTE_INIT(halfbyte_silu_mul_args, args);
  args.activation = activation.read();
  args.gate_up = gate_up.read(kName, "gate_up");
  if (!kOut) y = make_half(kName, *args.gate_up);
  args.y = y.read(kName, "y");
  const Execution execution(*args.gate_up, HALFBYTE_SCALE_TENSOR);
  check(halfbyte_silu_mul(&args, execution.get()));
  if (!kOut) give(stack, 0, y);
}

template <bool kOut>
void silu_mul_quantize(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "silu_mul_quantize";
  Arguments arguments(stack);
  Tensor gate_up = arguments.tensor();
  Quantization quantization(kName);
  quantization.take_scales(arguments);
  Activation activation(kName);
  activation.take(arguments);
  quantization.take_options(arguments);
  quantization.take_groups(arguments, !kOut);
  if (kOut) quantization.take_outputs(arguments);

  quantization.read_options();
  HALFBYTE_INIT(halfbyte_silu_mul_quantize_args, args);
  args.activation = activation.read();
  args.gate_up = gate_up.read(kName, "gate_up");
  if (!kOut) quantization.make_outputs(gate_up, "gate_up", 2);
  quantization.read_tensors();
  args.global_scale = quantization.global_scale();
  args.decode_scale = quantization.decode_scale();
  args.spec = quantization.spec();
  args.out = quantization.out();
  args.groups = quantization.groups();
  const Execution execution(*args.gate_up, quantization.scale_mode());
  check(halfbyte_silu_mul_quantize(&args, execution.get()));
  if (!kOut) quantization.give_outputs(stack);
}

}  // namespace

std::span<const Operator> silu_mul_operators() {
  static constexpr Operator kOperators[] = {
      {"silu_mul", silu_mul<false>},
      {"silu_mul.out", silu_mul<true>},
      {"silu_mul_quantize", silu_mul_quantize<false>},
      {"silu_mul_quantize.out", silu_mul_quantize<true>},
  };
  return kOperators;
}

}  // namespace halfbyte::bindings
