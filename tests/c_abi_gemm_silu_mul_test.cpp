// halfbyte_gemm_silu_mul_quantize: what the two calls in sequence give, and what it refuses.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "halfbyte/halfbyte.h"
#include "tests/c_abi_call.h"

namespace halfbyte::c_abi_tests {
namespace {

constexpr std::int64_t kM = 3, kI = 32, kN = 2 * kI, kK = 64;
constexpr halfbyte_dtype kBF16 = {4, 16, 1};

struct GateUpCall {
  std::vector<std::uint8_t> a_codes = bytes(kM * kK / 2, 1), a_scales = bytes(kM * kK / 16, 2);
  std::vector<std::uint8_t> b_codes = bytes(kN * kK / 2, 3), b_scales = bytes(kN * kK / 16, 4);
  std::vector<float> b_decode = {1e-4f}, bias = std::vector<float>(kN, 0.5f);
  std::vector<std::uint16_t> gate_up = std::vector<std::uint16_t>(kM * kN);
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(kM * kI / 2, 0xEE);
  std::vector<std::uint8_t> scales = std::vector<std::uint8_t>(kM * kI / 16, 0xEE);
  std::vector<std::uint8_t> second = std::vector<std::uint8_t>(512, 0xEE);
  std::vector<float> row_scale = std::vector<float>(kM);
  Tensor a_codes_tensor{a_codes.data(), kU8, {kM, kK / 2}};
  Tensor a_scales_tensor{a_scales.data(), kU8, {kM, kK / 16}};
  Tensor b_codes_tensor{b_codes.data(), kU8, {kN, kK / 2}};
  Tensor b_scales_tensor{b_scales.data(), kU8, {kN, kK / 16}};
  Tensor b_decode_tensor{b_decode.data(), kF32, {1}};
  Tensor bias_tensor{bias.data(), kF32, {kN}};
  Tensor gate_up_tensor{gate_up.data(), kBF16, {kM, kN}};
  Tensor codes_tensor{codes.data(), kU8, {kM, kI / 2}};
  Tensor scales_tensor{scales.data(), kU8, {kM, kI / 16}};
  Tensor second_tensor{second.data(), kU8, {512}};
  Tensor row_tensor{row_scale.data(), kF32, {kM}};
  halfbyte_packed_tensor a = sized<halfbyte_packed_tensor>();
  halfbyte_gemm_weights b = sized<halfbyte_gemm_weights>();
  halfbyte_gemm_args product = sized<halfbyte_gemm_args>();
  halfbyte_activation activation = sized<halfbyte_activation>();
  halfbyte_quantize_spec spec = sized<halfbyte_quantize_spec>();
  halfbyte_quantize_outputs out = sized<halfbyte_quantize_outputs>();
  halfbyte_gemm_silu_mul_quantize_args args = sized<halfbyte_gemm_silu_mul_quantize_args>();

  GateUpCall() {
    a.rows = kM;
    a.columns = b.columns = kK;
    b.rows = kN;
    a.codes = &a_codes_tensor.c;
    a.scales = &a_scales_tensor.c;
    b.codes = &b_codes_tensor.c;
    b.scales = &b_scales_tensor.c;
    b.decode_scale = &b_decode_tensor.c;
    product.a_packed = &a;
    product.b = &b;
    product.bias = &bias_tensor.c;
    activation.interleave = 1;
    activation.clamp = 7.0f;
    activation.alpha = 1.702f;
    activation.up_bias = 1.0f;
    spec.scale = HALFBYTE_SCALE_ROW;
    spec.second_layout = HALFBYTE_LAYOUT_128X4;
    out.codes = &codes_tensor.c;
    out.scales = &scales_tensor.c;
    out.scales_second = &second_tensor.c;
    out.row_scale = &row_tensor.c;
    args.dtype = kBF16;
    args.product = &product;
    args.activation = &activation;
    args.spec = &spec;
    args.out = &out;
  }
  GateUpCall(const GateUpCall&) = delete;
  // Scales are far from NaN.
  static std::vector<std::uint8_t> bytes(std::int64_t count, int seed) {
    std::vector<std::uint8_t> values;
    for (std::int64_t i = 0; i < count; ++i) {
      values.push_back(static_cast<std::uint8_t>((i * 37 + seed * 11) % 0x70));
    }
    return values;
  }
  void expect_error(const std::string& message) {
    EXPECT_EQ(halfbyte_gemm_silu_mul_quantize(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(halfbyte_error_message()).rfind("gemm_silu_mul_quantize: " + message, 0),
              0u)
        << halfbyte_error_message();
    EXPECT_EQ(codes[0], 0xEE) << "something was written";
  }
};

TEST(CAbiGemmSiluMul, GivesWhatTheTwoGive) {
  GateUpCall fused, unfused;
  ASSERT_EQ(halfbyte_gemm_silu_mul_quantize(&fused.args, nullptr), HALFBYTE_OK)
      << halfbyte_error_message();
  unfused.product.c = &unfused.gate_up_tensor.c;
  ASSERT_EQ(halfbyte_gemm(&unfused.product, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  auto second = sized<halfbyte_silu_mul_quantize_args>();
  second.gate_up = &unfused.gate_up_tensor.c;
  second.activation = &unfused.activation;
  second.spec = &unfused.spec;
  second.out = &unfused.out;
  ASSERT_EQ(halfbyte_silu_mul_quantize(&second, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(fused.codes, unfused.codes);
  EXPECT_EQ(fused.scales, unfused.scales);
  EXPECT_EQ(fused.second, unfused.second);
  EXPECT_EQ(fused.row_scale, unfused.row_scale);
  EXPECT_NE(fused.codes[0], fused.codes[1]);
  EXPECT_EQ(fused.gate_up[0], 0);

  uint64_t workspace = 99;
  ASSERT_EQ(halfbyte_gemm_silu_mul_workspace_bytes(&fused.args, nullptr, &workspace), HALFBYTE_OK);
  EXPECT_EQ(workspace, 0u);
}

TEST(CAbiGemmSiluMul, Errors) {
  EXPECT_EQ(halfbyte_gemm_silu_mul_quantize(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(),
               "gemm_silu_mul_quantize: args: expected a struct, got NULL");
  GateUpCall valid;
  EXPECT_EQ(halfbyte_gemm_silu_mul_workspace_bytes(&valid.args, nullptr, nullptr),
            HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(),
               "gemm_silu_mul_workspace_bytes: bytes: expected a pointer, got NULL");
  const auto refused = [](const char* message, auto&& change) {
    GateUpCall broken;
    change(broken);
    broken.expect_error(message);
  };
  using C = GateUpCall;
  refused("product: expected a struct, got NULL", [](C& c) { c.args.product = nullptr; });
  refused("product: struct_size", [](C& c) { c.product.struct_size = 2; });
  refused("c: expected no tensor", [](C& c) { c.product.c = &c.gate_up_tensor.c; });
  refused("b: expected a struct, got NULL", [](C& c) { c.product.b = nullptr; });
  refused("dtype: expected fp32, fp16, bf16, u8", [](C& c) { c.args.dtype = {}; });
  refused("dtype: expected fp32, fp16 or bf16, got u8", [](C& c) { c.args.dtype = kU8; });
  refused("method: expected 0 (auto)", [](C& c) { c.product.method = 6; });
  refused("activation: expected a struct, got NULL", [](C& c) { c.args.activation = nullptr; });
  refused("rounding: expected 0 (float32)", [](C& c) { c.activation.rounding = 2; });
  refused("interleave: expected 0 (halves), 1 or 8", [](C& c) { c.activation.interleave = 3; });
  refused("spec: expected a struct, got NULL", [](C& c) { c.args.spec = nullptr; });
  refused("out: expected a struct, got NULL", [](C& c) { c.args.out = nullptr; });
  refused("codes: expected a tensor, got none", [](C& c) { c.out.codes = nullptr; });
  refused("out_scale_row_offsets: expected no tensor",
          [](C& c) { c.args.out_scale_row_offsets = &c.row_tensor.c; });
}

}  // namespace
}  // namespace halfbyte::c_abi_tests
