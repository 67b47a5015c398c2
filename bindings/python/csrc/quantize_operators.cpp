// quantize, dequantize, amax.
#include <cstdint>

#include "operators.h"
#include "quantization.h"

namespace halfbyte::bindings {
namespace {

template <bool kOut>
void quantize(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "quantize";
  Arguments arguments(stack);
  Quantization quantization(kName);
  Tensor x = arguments.tensor();
  quantization.take_scales(arguments);
  quantization.take_options(arguments);
  quantization.take_groups(arguments, !kOut);
  if (kOut) quantization.take_outputs(arguments);

  quantization.read_options();
  x.read(kName, "x");
  if (!kOut) quantization.make_outputs(x, "x", 1);
  quantization.read_tensors();
  HALFBYTE_INIT(halfbyte_quantize_args, args);
  args.x = x.view();
  args.global_scale = quantization.global_scale();
  args.decode_scale = quantization.decode_scale();
  args.spec = quantization.spec();
  args.out = quantization.out();
  args.groups = quantization.groups();
  const Execution execution(*x.view(), quantization.scale_mode());
  check(halfbyte_quantize(&args, execution.get()));
  if (!kOut) quantization.give_outputs(stack);
}

// The types of a dequantized tensor, by torch's number; bfloat16 if none is given.
std::int32_t dequantized_type(const std::optional<std::int64_t>& dtype) {
  const std::int32_t fallback = dtype_number(ScalarType::kBFloat16);
  if (!dtype) return fallback;
  for (ScalarType type : {ScalarType::kFloat32, ScalarType::kFloat16, ScalarType::kBFloat16}) {
    // The number is 32 bits wide; the rest of the value is not defined.
    if (static_cast<std::int32_t>(*dtype) == dtype_number(type)) return dtype_number(type);
  }
  refuse("dequantize", "dtype", "float32, float16 or bfloat16", "another type");
}

template <bool kOut>
void dequantize(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "dequantize";
  Arguments arguments(stack);
  Tensor codes = arguments.tensor();
  Tensor scales = arguments.optional_tensor();
  Tensor global_scale = arguments.optional_tensor();
  Tensor decode_scale = arguments.optional_tensor();
  const Text format = arguments.text();
  const Text layout = arguments.text();
  std::optional<std::int64_t> dtype;
  Tensor x;
  if (kOut) {
    x = arguments.tensor();
  } else {
    dtype = arguments.optional_integer();
  }

  HALFBYTE_INIT(halfbyte_dequantize_args, args);
  args.format = read_format(kName, format);
  args.layout = read_layout(kName, "layout", layout);
  args.codes = codes.read(kName, "codes");
  if (args.codes->ndim < 1) refuse(kName, "codes", "at least one dimension", "a scalar");
  const std::int64_t width = args.codes->shape[args.codes->ndim - 1];
  args.rows = codes.rows();
  args.columns = args.format == kFp8 ? width : 2 * width;
  if (!kOut) {
    x = make_tensor(*args.codes, Shape::with_last(*args.codes, args.columns),
                    dequantized_type(dtype));
  }
  args.scales = scales.read(kName, "scales");
  args.global_scale = global_scale.read(kName, "global_scale");
  args.decode_scale = decode_scale.read(kName, "decode_scale");
  args.x = x.read(kName, "x");
  const Execution execution(*args.codes, HALFBYTE_SCALE_TENSOR);
  check(halfbyte_dequantize(&args, execution.get()));
  if (!kOut) give(stack, 0, x);
}

template <bool kOut>
void amax(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "amax";
  Arguments arguments(stack);
  Tensor x = arguments.tensor();
  HALFBYTE_INIT(halfbyte_amax_args, args);
  args.per_row = arguments.flag() ? 1 : 0;
  Tensor amax;
  if (kOut) amax = arguments.tensor();

  args.x = x.read(kName, "x");
  if (!kOut) {
    Shape shape;
    shape.add(args.per_row != 0 ? x.rows() : 1);
    amax = make_tensor(*args.x, shape, dtype_number(ScalarType::kFloat32));
  }
  args.amax = amax.read(kName, "amax");
  const Execution execution(*args.x, HALFBYTE_SCALE_TENSOR);
  check(halfbyte_amax(&args, execution.get()));
  if (!kOut) give(stack, 0, amax);
}

}  // namespace

std::span<const Operator> quantize_operators() {
  static constexpr Operator kOperators[] = {
      {"quantize", quantize<false>},
      {"quantize.out", quantize<true>},
      {"dequantize", dequantize<false>},
      {"dequantize.out", dequantize<true>},
      {"amax", amax<false>},
      {"amax.out", amax<true>},
  };
  return kOperators;
}

}  // namespace halfbyte::bindings
