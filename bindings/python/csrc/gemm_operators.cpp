// gemm, prepare_weights, unprepare_weights.
#include <cstdint>

#include "operators.h"
#include "quantization.h"

namespace halfbyte::bindings {
namespace {

std::int32_t read_method(const Text& name) {
  return enum_value("gemm", "method", name,
                    {"auto", "exact", "tensor_core", "dequantize", "fp8", "block_scaled"});
}

// The columns that rows of `width` packed bytes or values hold.
std::int64_t columns_of(const halfbyte_tensor& tensor) {
  if (tensor.ndim < 1) return 0;
  const std::int64_t width = tensor.shape[tensor.ndim - 1];
  return tensor.dtype.code == 1 ? 2 * width : width;
}

// The product's own arguments; `take` reads them in the schema's order.
class Gemm {
 public:
  void take(Arguments& arguments) {
    a_ = arguments.tensor();
    b_ = arguments.tensor();
    for (Tensor* tensor : {&b_scales_, &a_scales_, &a_global_scale_, &a_decode_scale_,
                           &b_global_scale_, &b_decode_scale_, &bias_}) {
      *tensor = arguments.optional_tensor();
    }
    format_ = arguments.text();
    a_layout_ = arguments.text();
    b_layout_ = arguments.text();
    method_ = arguments.text();
    prepared_rows_ = arguments.optional_integer();
    row_offsets_ = arguments.optional_tensor();
    scale_row_offsets_ = arguments.optional_tensor();
  }

  void read() {
    const halfbyte_tensor& a = *a_.read(kName, "a");
    const halfbyte_tensor& b = *b_.read(kName, "b");
    if (a.ndim < 1) refuse(kName, "a", "at least one dimension", "a scalar");
    const std::int32_t format = read_format(kName, format_);
    const bool packed = a.dtype.code == 1;
    const std::int64_t columns = columns_of(a);
    if (packed) {
      packed_.struct_size = sizeof(packed_);
      packed_.format = format;
      packed_.layout = read_layout(kName, "a_layout", a_layout_);
      packed_.rows = a_.rows();
      packed_.columns = columns;
      packed_.codes = &a;
      packed_.scales = a_scales_.read(kName, "a_scales");
      packed_.global_scale = a_global_scale_.read(kName, "a_global_scale");
      packed_.decode_scale = a_decode_scale_.read(kName, "a_decode_scale");
      if (packed_.rows == 0) {  // one scale a row: none, which is not the [1] of one for all
        packed_.decode_scale = nullptr;
      }
      args_.a_packed = &packed_;
    } else {
      for (const auto& [tensor, name] :
           {std::pair(&a_scales_, "a_scales"), std::pair(&a_global_scale_, "a_global_scale"),
            std::pair(&a_decode_scale_, "a_decode_scale")}) {
        if (tensor->given()) refuse(kName, name, "none, since a is not quantized", "a tensor");
      }
      args_.a = &a;
    }
    weights_.struct_size = sizeof(weights_);
    weights_.format = format;
    weights_.form = prepared_rows_ ? HALFBYTE_WEIGHTS_PREPARED : HALFBYTE_WEIGHTS_PLAIN;
    weights_.layout = read_layout(kName, "b_layout", b_layout_);
    weights_.columns = columns;
    if (prepared_rows_) {
      weights_.rows = *prepared_rows_;
      weights_.prepared = &b;
    } else {
      if (b.ndim < 2) refuse(kName, "b", "[N, K/2], or [groups, N, K/2]", "fewer dimensions");
      if (columns_of(b) != columns) {
        refuse(kName, "b", std::to_string(columns / 2) + " bytes a row, as a has columns",
               std::to_string(b.shape[b.ndim - 1]));
      }
      weights_.rows = b.shape[b.ndim - 2];
      weights_.codes = &b;
    }
    weights_.scales = b_scales_.read(kName, "b_scales");
    weights_.global_scale = b_global_scale_.read(kName, "b_global_scale");
    weights_.decode_scale = b_decode_scale_.read(kName, "b_decode_scale");
    args_.struct_size = sizeof(args_);
    args_.method = read_method(method_);
    args_.b = &weights_;
    args_.bias = bias_.read(kName, "bias");
    if (row_offsets_.given()) {
      const halfbyte_tensor& offsets = *row_offsets_.read(kName, "row_offsets");
      if (offsets.ndim != 1 || offsets.shape[0] < 1) {
        refuse(kName, "row_offsets", "int32 [groups + 1]", "another shape");
      }
      groups_.struct_size = sizeof(groups_);
      groups_.count = offsets.shape[0] - 1;
      groups_.row_offsets = &offsets;
      groups_.scale_row_offsets = scale_row_offsets_.read(kName, "scale_row_offsets");
      args_.groups = &groups_;
    } else if (scale_row_offsets_.given()) {
      refuse(kName, "row_offsets", "a tensor, since scale_row_offsets is given", "none");
    }
  }

  // gemm_pair: the second weights, read by read_second() after the first product is done.
  void take_second(Arguments& arguments) {
    second_b_ = arguments.tensor();
    for (Tensor* tensor :
         {&second_b_scales_, &second_b_global_scale_, &second_b_decode_scale_, &second_bias_}) {
      *tensor = arguments.optional_tensor();
    }
    second_prepared_rows_ = arguments.optional_integer();
  }
  void read_second() {
    b_ = std::move(second_b_);
    b_scales_ = std::move(second_b_scales_);
    b_global_scale_ = std::move(second_b_global_scale_);
    b_decode_scale_ = std::move(second_b_decode_scale_);
    bias_ = std::move(second_bias_);
    prepared_rows_ = second_prepared_rows_;
    args_ = {};
    weights_ = {};
    read();
  }

  void run(const halfbyte_tensor& c) {
    args_.c = &c;
    Execution execution(*a_.view(), HALFBYTE_SCALE_TENSOR);
    if (a_.view()->device.type == 2) {
      std::uint64_t bytes = 0;
      check(halfbyte_gemm_workspace_bytes(&args_, execution.get(), &bytes));
      execution.make_workspace(*a_.view(), bytes);
    }
    check(halfbyte_gemm(&args_, execution.get()));
  }

  const halfbyte_tensor& a() const { return *a_.view(); }
  std::int64_t rows() const { return weights_.rows; }

  static constexpr const char* kName = "gemm";

 private:
  Tensor a_, b_, b_scales_, a_scales_, a_global_scale_, a_decode_scale_, b_global_scale_,
      b_decode_scale_, bias_, row_offsets_, scale_row_offsets_;
  Tensor second_b_, second_b_scales_, second_b_global_scale_, second_b_decode_scale_, second_bias_;
  std::optional<std::int64_t> second_prepared_rows_;
  Text format_, a_layout_, b_layout_, method_;
  std::optional<std::int64_t> prepared_rows_;
  halfbyte_packed_tensor packed_{};
  halfbyte_gemm_weights weights_{};
  halfbyte_row_groups groups_{};
  halfbyte_gemm_args args_{};
};

// The type of c where none is asked for: a's, for a packed a bf16.
std::int32_t result_type(const halfbyte_tensor& a, const std::optional<std::int64_t>& dtype) {
  if (dtype) return static_cast<std::int32_t>(*dtype);  // the rest of the value is not defined
  return a.dtype.code == 1 ? dtype_number(ScalarType::kBFloat16) : dtype_number(a);
}

void gemm(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  Arguments arguments(stack);
  Gemm product;
  product.take(arguments);
  const std::optional<std::int64_t> dtype = arguments.optional_integer();
  product.read();
  const halfbyte_tensor& a = product.a();
  Tensor c = make_tensor(a, Shape::with_last(a, product.rows()), result_type(a, dtype));
  product.run(*c.read(Gemm::kName, "c"));
  give(stack, 0, c);
}

void gemm_out(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  Arguments arguments(stack);
  Gemm product;
  product.take(arguments);
  Tensor c = arguments.tensor();
  product.read();
  product.run(*c.read(Gemm::kName, "c"));
}

// Two products of the same a, side by side: what gate and up are.
void gemm_pair(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  Arguments arguments(stack);
  Gemm product;
  product.take(arguments);
  product.take_second(arguments);
  const std::optional<std::int64_t> dtype = arguments.optional_integer();
  product.read();
  const halfbyte_tensor& a = product.a();
  // Equal halves; the second product's own check says so where they are not.
  const std::int64_t half = product.rows();
  Tensor both = make_tensor(a, Shape::with_last(a, 2 * half), result_type(a, dtype));
  halfbyte_tensor c = *both.read(Gemm::kName, "c");
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
