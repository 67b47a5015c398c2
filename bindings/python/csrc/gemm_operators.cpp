// gemm, prepare_weights, unprepare_weights.
#include <cstdint>

#include "operators.h"
#include "product.h"

namespace halfbyte::bindings {
namespace {

void gemm(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  Arguments arguments(stack);
  Product product("gemm");
  product.take(arguments);
  const std::optional<std::int64_t> dtype = arguments.optional_integer();
  product.read();
  const halfbyte_tensor& a = product.a();
  Tensor c = make_tensor(a, Shape::with_last(a, product.rows()), result_type(a, dtype));
  product.run(*c.read("gemm", "c"));
  give(stack, 0, c);
}

void gemm_out(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  Arguments arguments(stack);
  Product product("gemm");
  product.take(arguments);
  Tensor c = arguments.tensor();
  product.read();
  product.run(*c.read("gemm", "c"));
}

// Two products of the same a, side by side: what gate and up are.
void gemm_pair(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  Arguments arguments(stack);
  Product product("gemm");
  product.take(arguments);
  product.take_second(arguments);
  const std::optional<std::int64_t> dtype = arguments.optional_integer();
  product.read();
  const halfbyte_tensor& a = product.a();
  // Equal halves; the second product's own check says so where they are not.
  const std::int64_t half = product.rows();
  Tensor both = make_tensor(a, Shape::with_last(a, 2 * half), result_type(a, dtype));
  halfbyte_tensor c = *both.read("gemm", "c");
  const Shape shape = Shape::with_last(c, half);
  c.shape = shape.sizes.data();
  product.run(c);
  c.byte_offset = static_cast<std::uint64_t>(half) * c.dtype.bits / 8;
  product.read_second();
  product.run(c);
  give(stack, 0, both);
}

void prepare_weights(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "prepare_weights";
  Arguments arguments(stack);
  Tensor codes = arguments.tensor();
  Tensor scales = arguments.tensor();
  const Text format = arguments.text();
  const Text layout = arguments.text();

  HALFBYTE_INIT(halfbyte_packed_tensor, plain);
  plain.format = read_format(kName, format);
  plain.layout = read_layout(kName, "layout", layout);
  plain.codes = codes.read(kName, "codes");
  plain.scales = scales.read(kName, "scales");
  if (plain.codes->ndim != 2) {
    refuse(kName, "codes", "2 dimensions", std::to_string(plain.codes->ndim));
  }
  plain.rows = plain.codes->shape[0];
  plain.columns = columns_of(*plain.codes);
  const std::int64_t bytes =
      halfbyte_prepared_weight_bytes(plain.format, plain.rows, plain.columns);
  Shape shape;
  shape.add(bytes < 0 ? 0 : bytes);  // the call below says what is wrong
  Tensor prepared = make_tensor(*plain.codes, shape, dtype_number(ScalarType::kUInt8));
  HALFBYTE_INIT(halfbyte_prepare_weights_args, args);
  args.plain = &plain;
  args.prepared = prepared.read(kName, "prepared");
  const Execution execution(*plain.codes, HALFBYTE_SCALE_TENSOR);
  check(halfbyte_prepare_weights(&args, execution.get()));
  give(stack, 0, prepared);
}

void unprepare_weights(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "unprepare_weights";
  Arguments arguments(stack);
  Tensor prepared = arguments.tensor();
  HALFBYTE_INIT(halfbyte_packed_tensor, plain);
  plain.rows = arguments.integer();
  plain.columns = arguments.integer();
  const Text format = arguments.text();

  plain.format = read_format(kName, format);
  const halfbyte_tensor& from = *prepared.read(kName, "prepared");
  const std::int64_t block = kBlock[static_cast<std::size_t>(plain.format)];
  if (plain.rows < 0 || plain.columns < 0) {
    refuse(kName, "rows, columns", "numbers >= 0",
           std::to_string(plain.rows) + ", " + std::to_string(plain.columns));
  }
  Shape codes_shape;
  codes_shape.add(plain.rows);
  codes_shape.add(plain.columns / 2);
  Shape scales_shape;
  scales_shape.add(plain.rows);
  scales_shape.add(plain.columns / block);
  Tensor codes = make_tensor(from, codes_shape, dtype_number(ScalarType::kUInt8));
  Tensor scales = make_tensor(from, scales_shape, dtype_number(ScalarType::kUInt8));
  plain.codes = codes.read(kName, "codes");
  plain.scales = scales.read(kName, "scales");
  HALFBYTE_INIT(halfbyte_prepare_weights_args, args);
  args.plain = &plain;
  args.prepared = &from;
  const Execution execution(from, HALFBYTE_SCALE_TENSOR);
  check(halfbyte_unprepare_weights(&args, execution.get()));
  give(stack, 0, codes);
  give(stack, 1, scales);
}

}  // namespace

std::span<const Operator> gemm_operators() {
  static constexpr Operator kOperators[] = {
      {"gemm", gemm},
      {"gemm.out", gemm_out},
      {"gemm_pair", gemm_pair},
      {"prepare_weights", prepare_weights},
      {"unprepare_weights", unprepare_weights},
  };
  return kOperators;
}

}  // namespace halfbyte::bindings
