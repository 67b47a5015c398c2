// halfbyte_gemm, halfbyte_prepare_weights and the sizes they ask for: what C++ gives, and what they
// refuse.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "halfbyte/halfbyte.h"
#include "halfbyte/ops/gemm/gemm.h"
#include "tests/c_abi_call.h"

namespace halfbyte::c_abi_tests {
namespace {

using base::DType;
using base::TensorView;

constexpr std::int64_t kM = 3, kN = 5, kK = 64;
constexpr halfbyte_dtype kBF16 = {4, 16, 1};

struct GemmCall {
  std::vector<std::uint8_t> a_codes = bytes(kM * kK / 2, 1), a_scales = bytes(kM * kK / 16, 2);
  std::vector<std::uint8_t> b_codes = bytes(kN * kK / 2, 3), b_scales = bytes(kN * kK / 16, 4);
  std::vector<float> a_decode = {0.5f, 2.0f, 3.0f}, b_global = {8.0f};
  std::vector<float> bias = {1, 2, 3, 4, 5}, c = std::vector<float>(kM * kN, 0.125f);
  Tensor a_codes_tensor{a_codes.data(), kU8, {kM, kK / 2}};
  Tensor a_scales_tensor{a_scales.data(), kU8, {kM, kK / 16}};
  Tensor a_decode_tensor{a_decode.data(), kF32, {kM}};
  Tensor b_codes_tensor{b_codes.data(), kU8, {kN, kK / 2}};
  Tensor b_scales_tensor{b_scales.data(), kU8, {kN, kK / 16}};
  Tensor b_global_tensor{b_global.data(), kF32, {1}};
  Tensor bias_tensor{bias.data(), kF32, {kN}};
  Tensor c_tensor{c.data(), kF32, {kM, kN}};
  halfbyte_packed_tensor a = sized<halfbyte_packed_tensor>();
  halfbyte_gemm_weights b = sized<halfbyte_gemm_weights>();
  halfbyte_gemm_args args = sized<halfbyte_gemm_args>();

  GemmCall() {
    a.rows = kM;
    a.columns = b.columns = kK;
    b.rows = kN;
    a.codes = &a_codes_tensor.c;
    a.scales = &a_scales_tensor.c;
    a.decode_scale = &a_decode_tensor.c;
    b.codes = &b_codes_tensor.c;
    b.scales = &b_scales_tensor.c;
    b.global_scale = &b_global_tensor.c;
    args.a_packed = &a;
    args.b = &b;
    args.bias = &bias_tensor.c;
    args.c = &c_tensor.c;
  }
  GemmCall(const GemmCall&) = delete;
  // Scales are far from NaN.
  static std::vector<std::uint8_t> bytes(std::int64_t count, int seed) {
    std::vector<std::uint8_t> values;
    for (std::int64_t i = 0; i < count; ++i) {
      values.push_back(static_cast<std::uint8_t>((i * 37 + seed * 11) % 0x70));
    }
    return values;
  }
  void expect_error(const std::string& message) {
    EXPECT_EQ(halfbyte_gemm(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(halfbyte_error_message()).rfind("gemm: " + message, 0), 0u)
        << halfbyte_error_message();
    EXPECT_EQ(c[0], 0.125f) << "something was written";
  }
};

TEST(CAbiGemm, GivesWhatCppGives) {
  GemmCall call;
  ASSERT_EQ(halfbyte_gemm(&call.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  std::vector<float> c(kM * kN);
  ops::GemmArgs args;
  args.a_packed.rows = kM;
  args.a_packed.columns = kK;
  args.a_packed.codes = TensorView(call.a_codes.data(), DType::kU8, {kM, kK / 2});
  args.a_packed.scales = TensorView(call.a_scales.data(), DType::kU8, {kM, kK / 16});
  args.a_packed.scale = TensorView(call.a_decode.data(), DType::kF32, {kM});
  args.a_packed.scale_kind = ops::ScaleKind::kDecode;
  args.b.rows = kN;
  args.b.columns = kK;
  args.b.codes = TensorView(call.b_codes.data(), DType::kU8, {kN, kK / 2});
  args.b.scales = TensorView(call.b_scales.data(), DType::kU8, {kN, kK / 16});
  args.b.scale = TensorView(call.b_global.data(), DType::kF32, {1});
  args.b.scale_kind = ops::ScaleKind::kEncode;
  args.bias = TensorView(call.bias.data(), DType::kF32, {kN});
  args.c = TensorView(c.data(), DType::kF32, {kM, kN});
  ASSERT_TRUE(ops::gemm(args).ok());
  EXPECT_EQ(call.c, c);
  EXPECT_NE(c[0], c[1]);

  uint64_t workspace = 99;
  ASSERT_EQ(halfbyte_gemm_workspace_bytes(&call.args, nullptr, &workspace), HALFBYTE_OK);
  EXPECT_EQ(workspace, 0u);

  // Prepared weights: the same product, and back to the same bytes.
  const int64_t bytes = halfbyte_prepared_weight_bytes(HALFBYTE_NVFP4, kN, kK);
  ASSERT_EQ(bytes, 1152);
  std::vector<std::uint8_t> prepared(static_cast<std::size_t>(bytes)), codes(kN * kK / 2),
      scales(kN * kK / 16);
  const Tensor prepared_tensor{prepared.data(), kU8, {bytes}};
  Tensor codes_tensor{codes.data(), kU8, {kN, kK / 2}};
  Tensor scales_tensor{scales.data(), kU8, {kN, kK / 16}};
  auto plain = sized<halfbyte_packed_tensor>();
  plain.rows = kN;
  plain.columns = kK;
  plain.codes = call.b.codes;
  plain.scales = call.b.scales;
  auto prepare = sized<halfbyte_prepare_weights_args>();
  prepare.plain = &plain;
  prepare.prepared = &prepared_tensor.c;
  ASSERT_EQ(halfbyte_prepare_weights(&prepare, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  call.b.form = HALFBYTE_WEIGHTS_PREPARED;
  call.b.codes = call.b.scales = nullptr;
  call.b.prepared = &prepared_tensor.c;
  ASSERT_EQ(halfbyte_gemm(&call.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(call.c, c);
  plain.codes = &codes_tensor.c;
  plain.scales = &scales_tensor.c;
  ASSERT_EQ(halfbyte_unprepare_weights(&prepare, nullptr), HALFBYTE_OK);
  EXPECT_EQ(codes, call.b_codes);
  EXPECT_EQ(scales, call.b_scales);
}

// W4A16: ones times the weights are the dequantized weights' row sums.
TEST(CAbiGemm, SixteenBitInput) {
  GemmCall call;
  std::vector<std::uint16_t> ones(kM * kK, 0x3F80);
  const Tensor a{ones.data(), kBF16, {kM, kK}};
  call.args.a_packed = nullptr;
  call.args.a = &a.c;
  call.args.bias = nullptr;
  ASSERT_EQ(halfbyte_gemm(&call.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(call.c[0], call.c[kN]);
  EXPECT_NE(call.c[0], 0.125f);
}

TEST(CAbiGemm, Errors) {
  EXPECT_EQ(halfbyte_gemm(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "gemm: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_prepare_weights(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "prepare_weights: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_unprepare_weights(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  GemmCall valid;
  EXPECT_EQ(halfbyte_gemm_workspace_bytes(&valid.args, nullptr, nullptr),
            HALFBYTE_INVALID_ARGUMENT);
  EXPECT_EQ(halfbyte_prepared_weight_bytes(HALFBYTE_FP8, 16, 16), -1);
  EXPECT_EQ(halfbyte_prepared_weight_bytes(HALFBYTE_NVFP4, -1, 16), -1);
  EXPECT_EQ(halfbyte_prepared_weight_bytes(HALFBYTE_NVFP4, 1, 8), -1);
  EXPECT_EQ(halfbyte_prepared_weight_bytes(HALFBYTE_MXFP4, 1, 48), -1);
  EXPECT_EQ(halfbyte_prepared_weight_bytes(HALFBYTE_MXFP4, INT64_MAX, 64), -1);
  EXPECT_EQ(halfbyte_prepared_weight_bytes(HALFBYTE_MXFP4, 17, 160), 4 * 1088);

  const auto refused = [](const char* message, auto&& change) {
    GemmCall broken;
    change(broken);
    broken.expect_error(message);
  };
  using C = GemmCall;
  refused("b: expected a struct, got NULL", [](C& c) { c.args.b = nullptr; });
  refused("b: struct_size", [](C& c) { c.b.struct_size = 2; });
  refused("a_packed: struct_size", [](C& c) { c.a.struct_size = 3; });
  refused("a_packed: reserved", [](C& c) { c.a.reserved = 1; });
  refused("method: expected 0 (auto)", [](C& c) { c.args.method = 6; });
  refused("method: expected auto or exact", [](C& c) { c.args.method = HALFBYTE_GEMM_FP8; });
  refused("b.form: expected 0 (plain) or 1 (prepared), got 2", [](C& c) { c.b.form = 2; });
  refused("format", [](C& c) { c.b.format = 3; });
  refused("a_layout", [](C& c) { c.a.layout = 3; });
  refused("b_layout", [](C& c) { c.b.layout = -1; });
  refused("a: expected a tensor, or a_codes", [](C& c) { c.args.a_packed = nullptr; });
  refused("c: expected a tensor", [](C& c) { c.args.c = nullptr; });
  refused("b_decode_scale: expected at most one",
          [](C& c) { c.b.decode_scale = c.b.global_scale; });
  refused("a_decode_scale: expected at most one",
          [](C& c) { c.a.global_scale = c.a.decode_scale; });
}

}  // namespace
}  // namespace halfbyte::c_abi_tests
