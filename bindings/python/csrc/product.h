// A product with FP4 weights, for every operator that has one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "quantization.h"

namespace halfbyte::bindings {

// The columns that rows of `width` packed bytes or values hold.
inline std::int64_t columns_of(const halfbyte_tensor& tensor) {
  if (tensor.ndim < 1) return 0;
  const std::int64_t width = tensor.shape[tensor.ndim - 1];
  return tensor.dtype.code == 1 ? 2 * width : width;
}

// A product's own arguments; `take` reads them in the schemas' order. An operator that has another
// format beside the product's says what it calls that.
class Product {
 public:
  explicit Product(const char* op, const char* format_argument = "format")
      : op_(op), format_argument_(format_argument) {}
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
    const halfbyte_tensor& a = *a_.read(op_, "a");
    const halfbyte_tensor& b = *b_.read(op_, "b");
    if (a.ndim < 1) refuse(op_, "a", "at least one dimension", "a scalar");
    const std::int32_t format =
        enum_value(op_, format_argument_, format_, {"nvfp4", "mxfp4", "fp8"});
    const bool packed = a.dtype.code == 1;
    const std::int64_t columns = columns_of(a);
    if (packed) {
      packed_.struct_size = sizeof(packed_);
      packed_.format = format;
      packed_.layout = read_layout(op_, "a_layout", a_layout_);
      packed_.rows = a_.rows();
      packed_.columns = columns;
      packed_.codes = &a;
      packed_.scales = a_scales_.read(op_, "a_scales");
      packed_.global_scale = a_global_scale_.read(op_, "a_global_scale");
      packed_.decode_scale = a_decode_scale_.read(op_, "a_decode_scale");
      if (packed_.rows == 0) {  // one scale a row: none, which is not the [1] of one for all
        packed_.decode_scale = nullptr;
      }
      args_.a_packed = &packed_;
    } else {
      for (const auto& [tensor, name] :
           {std::pair(&a_scales_, "a_scales"), std::pair(&a_global_scale_, "a_global_scale"),
            std::pair(&a_decode_scale_, "a_decode_scale")}) {
        if (tensor->given()) refuse(op_, name, "none, since a is not quantized", "a tensor");
      }
      args_.a = &a;
    }
    weights_.struct_size = sizeof(weights_);
    weights_.format = format;
    weights_.form = prepared_rows_ ? HALFBYTE_WEIGHTS_PREPARED : HALFBYTE_WEIGHTS_PLAIN;
    weights_.layout = read_layout(op_, "b_layout", b_layout_);
    weights_.columns = columns;
    if (prepared_rows_) {
      weights_.rows = *prepared_rows_;
      weights_.prepared = &b;
    } else {
      if (b.ndim < 2) refuse(op_, "b", "[N, K/2], or [groups, N, K/2]", "fewer dimensions");
      if (columns_of(b) != columns) {
        refuse(op_, "b", std::to_string(columns / 2) + " bytes a row, as a has columns",
               std::to_string(b.shape[b.ndim - 1]));
      }
      weights_.rows = b.shape[b.ndim - 2];
      weights_.codes = &b;
    }
    weights_.scales = b_scales_.read(op_, "b_scales");
    weights_.global_scale = b_global_scale_.read(op_, "b_global_scale");
    weights_.decode_scale = b_decode_scale_.read(op_, "b_decode_scale");
    args_.struct_size = sizeof(args_);
    args_.method =
        enum_value(op_, "method", method_,
                   {"auto", "exact", "tensor_core", "dequantize", "fp8", "block_scaled"});
    args_.b = &weights_;
    args_.bias = bias_.read(op_, "bias");
    if (row_offsets_.given()) {
      const halfbyte_tensor& offsets = *row_offsets_.read(op_, "row_offsets");
      if (offsets.ndim != 1 || offsets.shape[0] < 1) {
        refuse(op_, "row_offsets", "int32 [groups + 1]", "another shape");
      }
      groups_.struct_size = sizeof(groups_);
      groups_.count = offsets.shape[0] - 1;
      groups_.row_offsets = &offsets;
      groups_.scale_row_offsets = scale_row_offsets_.read(op_, "scale_row_offsets");
      args_.groups = &groups_;
    } else if (scale_row_offsets_.given()) {
      refuse(op_, "row_offsets", "a tensor, since scale_row_offsets is given", "none");
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

  const Tensor& input() const { return a_; }
  const halfbyte_gemm_args* args() const { return &args_; }

 private:
  const char* op_;
  const char* format_argument_;
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
inline std::int32_t result_type(const halfbyte_tensor& a,
                                const std::optional<std::int64_t>& dtype) {
  if (dtype) return static_cast<std::int32_t>(*dtype);  // the rest of the value is not defined
  return a.dtype.code == 1 ? dtype_number(ScalarType::kBFloat16) : dtype_number(a);
}

}  // namespace halfbyte::bindings
