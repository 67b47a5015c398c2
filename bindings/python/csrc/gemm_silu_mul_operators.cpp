// gemm_silu_mul_quantize.
#include <cstdint>

#include "activation.h"
#include "operators.h"
#include "product.h"

namespace halfbyte::bindings {
namespace {

constexpr const char* kName = "gemm_silu_mul_quantize";

// A torch.dtype as the C ABI has it.
halfbyte_dtype read_dtype(std::int32_t number) {
  if (number == dtype_number(ScalarType::kBFloat16)) return {4, 16, 1};
  if (number == dtype_number(ScalarType::kFloat16)) return {2, 16, 1};
  if (number == dtype_number(ScalarType::kFloat32)) return {2, 32, 1};
  refuse(kName, "dtype", "float32, float16 or bfloat16", "another type");
}

template <bool kOut>
void gemm_silu_mul_quantize(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  Arguments arguments(stack);
  Product product(kName, "b_format");
  product.take(arguments);
  Quantization quantization(kName);
  quantization.take_scales(arguments);
  Activation activation(kName);
  activation.take(arguments);
  quantization.take_options(arguments);
  Tensor out_scale_row_offsets = arguments.optional_tensor();
  const std::optional<std::int64_t> dtype = arguments.optional_integer();
  std::optional<std::int64_t> scale_rows;
  if (!kOut) scale_rows = arguments.optional_integer();
  if (kOut) quantization.take_outputs(arguments);

  product.read();
  quantization.read_options();
  HALFBYTE_INIT(halfbyte_gemm_silu_mul_quantize_args, args);
  args.product = product.args();
  args.dtype = read_dtype(result_type(product.a(), dtype));
  args.activation = activation.read();
  args.out_scale_row_offsets = out_scale_row_offsets.read(kName, "out_scale_row_offsets");
  if (!kOut) {
    const std::int64_t rows = product.rows(), block = quantization.block();
    if (rows < 1 || rows % (2 * block) != 0) {
      refuse(kName, "b", "2I rows, I a multiple of " + std::to_string(block), std::to_string(rows));
    }
    if (scale_rows.has_value() != out_scale_row_offsets.given()) {
      refuse(kName, "scale_rows",
             scale_rows ? "none without out_scale_row_offsets" : "the rows of the scales",
             scale_rows ? std::to_string(*scale_rows) : "none");
    }
    quantization.make_outputs(product.input(), rows / 2, scale_rows);
  }
  quantization.read_tensors();
  args.global_scale = quantization.global_scale();
  args.decode_scale = quantization.decode_scale();
  args.spec = quantization.spec();
  args.out = quantization.out();
  Execution execution(product.a(), HALFBYTE_SCALE_TENSOR);
  if (product.a().device.type == 2) {
    std::uint64_t bytes = 0;
    check(halfbyte_gemm_silu_mul_workspace_bytes(&args, execution.get(), &bytes));
    execution.make_workspace(product.a(), bytes);
  }
  check(halfbyte_gemm_silu_mul_quantize(&args, execution.get()));
  if (!kOut) quantization.give_outputs(stack);
}

}  // namespace

std::span<const Operator> gemm_silu_mul_operators() {
  static constexpr Operator kOperators[] = {
      {"gemm_silu_mul_quantize", gemm_silu_mul_quantize<false>},
      {"gemm_silu_mul_quantize.out", gemm_silu_mul_quantize<true>},
  };
  return kOperators;
}

}  // namespace halfbyte::bindings
