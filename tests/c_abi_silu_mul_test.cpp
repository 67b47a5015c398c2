// halfbyte_silu_mul and halfbyte_silu_mul_quantize: what C++ gives, and what they refuse.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "halfbyte/halfbyte.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"
#include "tests/c_abi_call.h"

namespace halfbyte::c_abi_tests {
namespace {

using base::DType;
using base::TensorView;

// gate_up [kRows, 2 * kColumns] in fp32 and a y.
struct SiluMulCall {
  std::vector<float> gate_up = std::vector<float>(kRows * 2 * kColumns);
  std::vector<float> y = std::vector<float>(kRows * kColumns, 0.125f);
  Tensor gate_up_tensor{gate_up.data(), kF32, {kRows, 2 * kColumns}};
  Tensor y_tensor{y.data(), kF32, {kRows, kColumns}};
  halfbyte_activation activation = sized<halfbyte_activation>();
  halfbyte_silu_mul_args args = sized<halfbyte_silu_mul_args>();

  SiluMulCall() {
    for (std::size_t i = 0; i < gate_up.size(); ++i) {
      gate_up[i] = static_cast<float>(i % 41) * 0.37f - 7.0f;
    }
    activation.interleave = 1;
    activation.clamp = 5.0f;
    activation.alpha = 1.702f;
    activation.up_bias = 1.0f;
    activation.rounding = HALFBYTE_ROUNDING_HUGGINGFACE;
    args.gate_up = &gate_up_tensor.c;
    args.activation = &activation;
    args.y = &y_tensor.c;
  }
  SiluMulCall(const SiluMulCall&) = delete;
  void expect_error(const std::string& message) {
    EXPECT_EQ(halfbyte_silu_mul(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(halfbyte_error_message()).rfind("silu_mul: " + message, 0), 0u)
        << halfbyte_error_message();
    EXPECT_EQ(y[0], 0.125f) << "something was written";
  }
};

TEST(CAbiSiluMul, GivesWhatCppGives) {
  SiluMulCall call;
  ASSERT_EQ(halfbyte_silu_mul(&call.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  const ops::Activation activation{.interleave = 1,
                                   .clamp = 5.0f,
                                   .alpha = 1.702f,
                                   .up_bias = 1.0f,
                                   .rounding = ops::Rounding::kHuggingFace};
  std::vector<float> cpp_y(call.y.size());
  ASSERT_TRUE(ops::silu_mul({TensorView(call.gate_up.data(), DType::kF32, {kRows, 2 * kColumns}),
                             activation, TensorView(cpp_y.data(), DType::kF32, {kRows, kColumns})})
                  .ok());
  EXPECT_EQ(call.y, cpp_y);

  // Fused: the codes and scales of quantize(y).
  QuantizeCall fused, unfused;
  auto args = sized<halfbyte_silu_mul_quantize_args>();
  args.gate_up = &call.gate_up_tensor.c;
  args.activation = &call.activation;
  args.spec = &fused.spec;
  args.out = &fused.out;
  ASSERT_EQ(halfbyte_silu_mul_quantize(&args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  unfused.args.x = &call.y_tensor.c;
  ASSERT_EQ(unfused.run(), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(fused.codes, unfused.codes);
  EXPECT_EQ(fused.scales, unfused.scales);
}

// A clamp of 0 is none, and alpha has no default.
TEST(CAbiSiluMul, Zeroes) {
  SiluMulCall call;
  call.activation = sized<halfbyte_activation>();
  call.gate_up[0] = 1000.0f;
  call.gate_up[kColumns] = 3.0f;
  ASSERT_EQ(halfbyte_silu_mul(&call.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(call.y[0], 1500.0f) << "1000 * sigmoid(0) * 3";
}

TEST(CAbiSiluMul, Errors) {
  EXPECT_EQ(halfbyte_silu_mul(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "silu_mul: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_silu_mul_quantize(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "silu_mul_quantize: args: expected a struct, got NULL");
  auto quantize = sized<halfbyte_silu_mul_quantize_args>();
  SiluMulCall call;
  quantize.gate_up = &call.gate_up_tensor.c;
  quantize.activation = &call.activation;
  EXPECT_EQ(halfbyte_silu_mul_quantize(&quantize, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "silu_mul_quantize: spec: expected a struct, got NULL");

  const auto refused = [](const char* message, auto&& change) {
    SiluMulCall broken;
    change(broken);
    broken.expect_error(message);
  };
  using C = SiluMulCall;
  refused("activation: expected a struct, got NULL", [](C& c) { c.args.activation = nullptr; });
  refused("activation: struct_size", [](C& c) { c.activation.struct_size = 2; });
  refused("gate_up: ", [](C& c) { c.args.gate_up = nullptr; });
  refused("y: ", [](C& c) { c.args.y = nullptr; });
  refused("interleave: expected 0 (halves), 1 or 8, got 2",
          [](C& c) { c.activation.interleave = 2; });
  refused("clamp: expected a finite value > 0", [](C& c) { c.activation.clamp = -1.0f; });
  refused("alpha: expected a finite value", [](C& c) { c.activation.alpha = 1e38f * 10.0f; });
  refused("up_bias: expected a finite value", [](C& c) { c.activation.up_bias = -1e38f * 10.0f; });
  refused("rounding: expected 0 (float32) or 1 (huggingface), got 2",
          [](C& c) { c.activation.rounding = 2; });
}

}  // namespace
}  // namespace halfbyte::c_abi_tests
