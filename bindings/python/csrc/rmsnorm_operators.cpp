// rmsnorm, rmsnorm_quantize.
#include <cstdint>

#include "operators.h"
#include "quantization.h"

namespace halfbyte::bindings {
namespace {

// x, weight, residual; then, after what an operator has of its own, eps, rounding, bias.
class Norm {
 public:
  explicit Norm(const char* op) : op_(op) {}
  void take_tensors(Arguments& arguments) {
    x_ = arguments.tensor();
    weight_ = arguments.tensor();
    residual_ = arguments.optional_tensor();
  }
  void take_options(Arguments& arguments) {
    eps_ = arguments.real();
    rounding_ = arguments.text();
    bias_ = arguments.flag();
  }
  const halfbyte_norm_args* read() {
    args_.struct_size = sizeof(args_);
    args_.eps = static_cast<float>(eps_);
    args_.rounding = read_rounding(op_, rounding_);
    args_.weight_bias = bias_ ? 1 : 0;
    args_.x = x_.read(op_, "x");
    args_.weight = weight_.read(op_, "weight");
    args_.residual = residual_.read(op_, "residual");
    return &args_;
  }
  const Tensor& x() const { return x_; }

 private:
  const char* op_;
  Tensor x_;
  Tensor weight_;
  Tensor residual_;
  double eps_ = 0;
  Text rounding_;
  bool bias_ = false;
  halfbyte_norm_args args_{};
};

template <bool kOut>
void rmsnorm(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "rmsnorm";
  Arguments arguments(stack);
  Norm norm(kName);
  norm.take_tensors(arguments);
  norm.take_options(arguments);
  Tensor y;
  if (kOut) y = arguments.tensor();

  HALFBYTE_INIT(halfbyte_rmsnorm_args, args);
  args.norm = norm.read();
  const halfbyte_tensor& x = *norm.x().view();
  if (!kOut) y = make_like(x);
  args.y = y.read(kName, "y");
  const Execution execution(x, HALFBYTE_SCALE_TENSOR);
  check(halfbyte_rmsnorm(&args, execution.get()));
  if (!kOut) give(stack, 0, y);
}

template <bool kOut>
void rmsnorm_quantize(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "rmsnorm_quantize";
  Arguments arguments(stack);
  Norm norm(kName);
  Quantization quantization(kName);
  norm.take_tensors(arguments);
  quantization.take_scales(arguments);
  norm.take_options(arguments);
  const bool wants_normed = !kOut && arguments.flag();
  quantization.take_options(arguments);
  Tensor normed;
  if (kOut) {
    quantization.take_outputs(arguments);
    normed = arguments.optional_tensor();
  }

  quantization.read_options();
  HALFBYTE_INIT(halfbyte_rmsnorm_quantize_args, args);
  args.norm = norm.read();
  const halfbyte_tensor& x = *norm.x().view();
  if (!kOut) {
    quantization.make_outputs(norm.x(), "x", 1);
    normed = wants_normed ? make_like(x) : absent(x, 0, scalar_type(x));  // codes are never absent
  }
  quantization.read_tensors();
  args.normed = kOut || wants_normed ? normed.read(kName, "normed") : nullptr;
  args.global_scale = quantization.global_scale();
  args.decode_scale = quantization.decode_scale();
  args.spec = quantization.spec();
  args.out = quantization.out();
  const Execution execution(x, quantization.scale_mode());
  check(halfbyte_rmsnorm_quantize(&args, execution.get()));
  if (!kOut) {
    quantization.give_outputs(stack);
    give(stack, 6, normed);
  }
}

}  // namespace

std::span<const Operator> rmsnorm_operators() {
  static constexpr Operator kOperators[] = {
      {"rmsnorm", rmsnorm<false>},
      {"rmsnorm.out", rmsnorm<true>},
      {"rmsnorm_quantize", rmsnorm_quantize<false>},
      {"rmsnorm_quantize.out", rmsnorm_quantize<true>},
  };
  return kOperators;
}

}  // namespace halfbyte::bindings
