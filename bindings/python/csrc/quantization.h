// What every operator that ends in a quantization shares: options, scales, groups and outputs.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "arguments.h"

namespace halfbyte::bindings {

inline constexpr std::array<std::int64_t, 3> kBlock = {16, 32, 1};  // nvfp4, mxfp4, fp8
inline constexpr std::int32_t kFp8 = HALFBYTE_FP8;

std::int32_t read_format(std::string_view op, const Text& name);
std::int32_t read_layout(std::string_view op, const char* argument, const Text& name);
std::int32_t read_rounding(std::string_view op, const Text& name);

// Made in the order in which the schemas name the arguments: the scales, the options, the groups;
// an .out overload's outputs after that.
class Quantization {
 public:
  explicit Quantization(std::string_view op) : op_(op) {}

  void take_scales(Arguments& arguments);
  void take_options(Arguments& arguments);
  void take_groups(Arguments& arguments, bool with_scale_rows);
  void take_outputs(Arguments& arguments);

  // Checks the options' names.
  void read_options();
  // Makes the outputs of `columns` columns and the rows of x; refuses what cannot be cut in blocks,
  // naming `argument`, whose last dimension is `factor` times as wide.
  void make_outputs(const Tensor& x, const char* argument, std::int64_t factor);
  // The same for as many columns, which can be cut in blocks, where the operator has read the
  // groups itself: scale_rows where it has any.
  void make_outputs(const Tensor& x, std::int64_t columns, std::optional<std::int64_t> scale_rows);
  std::int64_t block() const { return kBlock[static_cast<std::size_t>(spec_.format)]; }

  // Everything as the C ABI takes it. Call after the outputs are there.
  void read_tensors();
  std::int32_t scale_mode() const { return spec_.scale; }
  const halfbyte_tensor* global_scale() const { return global_scale_.view(); }
  const halfbyte_tensor* decode_scale() const { return decode_scale_.view(); }
  const halfbyte_quantize_spec* spec() const { return &spec_; }
  const halfbyte_quantize_outputs* out() const { return &c_out_; }
  const halfbyte_row_groups* groups() const;

  // The six outputs onto the stack.
  void give_outputs(Value* stack);

 private:
  enum Output { kCodes, kScales, kScalesSecond, kRowScale, kGlobalScale, kDecodeScale };
  void make_scales(Output output, const Tensor& x, std::int32_t layout, std::int64_t columns);

  std::string_view op_;
  Tensor global_scale_;
  Tensor decode_scale_;
  Text format_, layout_, second_layout_, scale_, scale_rule_, mx_rule_;
  Tensor row_offsets_;
  Tensor scale_row_offsets_;
  std::optional<std::int64_t> scale_rows_;
  std::array<Tensor, 6> outputs_;
  bool made_ = false;  // by this call, not given by the caller
  halfbyte_quantize_spec spec_{};
  halfbyte_quantize_outputs c_out_{};
  halfbyte_row_groups c_groups_{};
};

}  // namespace halfbyte::bindings
