// halfbyte.h as a caller sees it: through the shared library, compared with the C++ API.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "halfbyte/base/cpu_level.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/halfbyte.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"
#include "tests/c_abi_call.h"

namespace halfbyte::c_abi_tests {
namespace {

using base::DType;
using base::TensorView;

// DLTensor of dlpack.h, version 1: data, device, ndim, dtype, shape, strides, byte_offset.
static_assert(sizeof(halfbyte_tensor) == 48 && sizeof(halfbyte_dtype) == 4);
static_assert(sizeof(halfbyte_device) == 8);
static_assert(offsetof(halfbyte_tensor, data) == 0 && offsetof(halfbyte_tensor, device) == 8);
static_assert(offsetof(halfbyte_tensor, ndim) == 16 && offsetof(halfbyte_tensor, dtype) == 20);
static_assert(offsetof(halfbyte_tensor, shape) == 24 && offsetof(halfbyte_tensor, strides) == 32);
static_assert(offsetof(halfbyte_tensor, byte_offset) == 40);
static_assert(offsetof(halfbyte_dtype, code) == 0 && offsetof(halfbyte_dtype, bits) == 1 &&
              offsetof(halfbyte_dtype, lanes) == 2);
static_assert(offsetof(halfbyte_quantize_args, struct_size) == 0 &&
              offsetof(halfbyte_execution, struct_size) == 0);

TEST(CAbi, QuantizeGivesWhatCppGives) {
  for (int mode = 0; mode < 3; ++mode) {
    QuantizeCall call;
    call.spec.scale = mode;
    call.spec.second_layout = HALFBYTE_LAYOUT_128X4;
    call.out.scales_second = &call.second_tensor.c;
    if (mode == HALFBYTE_SCALE_ROW) call.out.row_scale = &call.row_tensor.c;
    if (mode == HALFBYTE_SCALE_COMPUTED) {
      call.out.global_scale = &call.global_tensor.c;
      call.out.decode_scale = &call.decode_tensor.c;
    }
    ASSERT_EQ(call.run(), HALFBYTE_OK) << halfbyte_error_message();

    QuantizeCall cpp;
    ops::QuantizeArgs args;
    args.x = TensorView(cpp.x.data(), DType::kF32, {kRows, kColumns});
    args.spec.scale = static_cast<ops::ScaleMode>(mode);
    args.spec.second_layout = ops::ScaleLayout::k128x4;
    args.out.codes = TensorView(cpp.codes.data(), DType::kU8, {kRows, kColumns / 2});
    args.out.scales = TensorView(cpp.scales.data(), DType::kU8, {kRows, kColumns / 16});
    args.out.scales_second = TensorView(cpp.second.data(), DType::kU8, {512});
    if (mode == 1) args.out.row_scale = TensorView(cpp.row_scales.data(), DType::kF32, {kRows});
    if (mode == 2) {
      args.out.global_scale = TensorView(&cpp.computed[0], DType::kF32, {1});
      args.out.decode_scale = TensorView(&cpp.computed[1], DType::kF32, {1});
    }
    const base::Status status = ops::quantize(args);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(call.codes, cpp.codes);
    EXPECT_EQ(call.scales, cpp.scales);
    EXPECT_EQ(call.second, cpp.second);
    EXPECT_EQ(call.row_scales, cpp.row_scales);
    EXPECT_EQ(call.computed[0], cpp.computed[0]);
    EXPECT_EQ(call.computed[1], cpp.computed[1]);
  }
}

TEST(CAbi, QuantizeRuns) {
  QuantizeCall plain;
  ASSERT_EQ(halfbyte_quantize(&plain.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();

  QuantizeCall mxfp4;  // every enum away from its default
  mxfp4.spec.format = HALFBYTE_MXFP4;
  mxfp4.spec.layout = HALFBYTE_LAYOUT_8X4;
  mxfp4.spec.mx_rule = HALFBYTE_MX_OCP_FLOOR;
  mxfp4.execution.backend = HALFBYTE_BACKEND_REFERENCE;
  mxfp4.execution.num_threads = 1;
  Tensor scales(mxfp4.second.data(), kU8, {halfbyte_scale_bytes(1, 2, kRows, kColumns)});
  mxfp4.out.scales = &scales.c;
  ASSERT_EQ(mxfp4.run(), HALFBYTE_OK) << halfbyte_error_message();

  QuantizeCall shifted;  // byte_offset and strides: the last two rows, in reverse
  const std::int64_t strides[] = {-kColumns, 1};
  shifted.x_tensor.shape = {2, kColumns};
  shifted.x_tensor.c.strides = strides;
  shifted.x_tensor.c.byte_offset = 2 * kColumns * sizeof(float);
  shifted.codes_tensor.shape = {2, kColumns / 2};
  shifted.scales_tensor.shape = {2, kColumns / 16};
  ASSERT_EQ(shifted.run(), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(0, std::memcmp(shifted.codes.data(), plain.codes.data() + kColumns, kColumns / 2));
  EXPECT_EQ(0, std::memcmp(shifted.codes.data() + kColumns / 2, plain.codes.data() + kColumns / 2,
                           kColumns / 2));
  EXPECT_EQ(shifted.codes.back(), 0xEE);
}

TEST(CAbi, DequantizeAndAmax) {
  QuantizeCall call;
  ASSERT_EQ(call.run(), HALFBYTE_OK) << halfbyte_error_message();
  std::vector<float> back(kRows * kColumns), expected(kRows * kColumns);
  Tensor back_tensor(back.data(), kF32, {kRows, kColumns});
  float two = 2.0f;
  Tensor scale(&two, kF32, {1});
  auto args = sized<halfbyte_dequantize_args>();
  args.rows = kRows;
  args.columns = kColumns;
  args.codes = &call.codes_tensor.c;
  args.scales = &call.scales_tensor.c;
  args.x = &back_tensor.c;
  for (const bool encode : {true, false}) {
    args.global_scale = encode ? &scale.c : nullptr;
    args.decode_scale = encode ? nullptr : &scale.c;
    ASSERT_EQ(halfbyte_dequantize(&args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
    ops::DequantizeArgs cpp;
    cpp.packed.rows = kRows;
    cpp.packed.columns = kColumns;
    cpp.packed.codes = TensorView(call.codes.data(), DType::kU8, {kRows, kColumns / 2});
    cpp.packed.scales = TensorView(call.scales.data(), DType::kU8, {kRows, kColumns / 16});
    cpp.packed.scale = TensorView(&two, DType::kF32, {1});
    cpp.packed.scale_kind = encode ? formats::ScaleKind::kEncode : formats::ScaleKind::kDecode;
    cpp.x = TensorView(expected.data(), DType::kF32, {kRows, kColumns});
    const base::Status status = ops::dequantize(cpp);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(back, expected);
    EXPECT_NE(back[0], 0.0f);
  }
  args.global_scale = &scale.c;
  args.decode_scale = &scale.c;
  EXPECT_EQ(halfbyte_dequantize(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(),
               "dequantize: decode_scale: expected at most one of global_scale and decode_scale, "
               "got both");
  args.decode_scale = nullptr;
  for (const std::int64_t bad : {std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()}) {
    args.rows = bad;
    EXPECT_EQ(halfbyte_dequantize(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);
    args.rows = kRows;
    args.columns = bad;
    EXPECT_EQ(halfbyte_dequantize(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);
    args.columns = kColumns;
  }
  args.format = 3;
  EXPECT_EQ(halfbyte_dequantize(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);

  float largest[kRows] = {};
  Tensor largest_tensor(largest, kF32, {kRows});
  auto amax = sized<halfbyte_amax_args>();
  amax.x = &call.x_tensor.c;
  amax.amax = &largest_tensor.c;
  amax.per_row = 1;
  ASSERT_EQ(halfbyte_amax(&amax, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(largest[0], 31 * 0.31f - 5.0f > 5.0f ? 31 * 0.31f - 5.0f : 5.0f);
  amax.per_row = 2;
  EXPECT_EQ(halfbyte_amax(&amax, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(),
               "amax: per_row: expected 0 (of the tensor) or 1 (rows), got 2");
}

TEST(CAbi, RmsNormGivesWhatCppGives) {
  QuantizeCall call, cpp;
  std::vector<float> weight(kColumns, 0.75f), residual(kRows * kColumns, 0.5f), y(residual.size());
  std::vector<float> cpp_residual = residual, cpp_y = y, fused_residual = residual, fused_y = y;
  Tensor weight_tensor(weight.data(), kF32, {kColumns});
  Tensor residual_tensor(residual.data(), kF32, {kRows, kColumns});
  Tensor y_tensor(y.data(), kF32, {kRows, kColumns});
  auto norm = sized<halfbyte_norm_args>();
  norm.eps = 1e-5f;
  norm.rounding = HALFBYTE_ROUNDING_HUGGINGFACE;
  norm.weight_bias = 1;
  norm.x = &call.x_tensor.c;
  norm.weight = &weight_tensor.c;
  norm.residual = &residual_tensor.c;
  auto args = sized<halfbyte_rmsnorm_args>();
  args.norm = &norm;
  args.y = &y_tensor.c;
  ASSERT_EQ(halfbyte_rmsnorm(&args, nullptr), HALFBYTE_OK) << halfbyte_error_message();

  ops::RmsNormArgs cpp_args;
  cpp_args.norm = {.x = TensorView(cpp.x.data(), DType::kF32, {kRows, kColumns}),
                   .weight = TensorView(weight.data(), DType::kF32, {kColumns}),
                   .residual = TensorView(cpp_residual.data(), DType::kF32, {kRows, kColumns}),
                   .eps = 1e-5f,
                   .rounding = ops::Rounding::kHuggingFace,
                   .weight_bias = true};
  cpp_args.y = TensorView(cpp_y.data(), DType::kF32, {kRows, kColumns});
  ASSERT_TRUE(ops::rmsnorm(cpp_args).ok());
  EXPECT_EQ(y, cpp_y);
  EXPECT_EQ(residual, cpp_residual);

  // Fused: the same y and residual, and the codes of quantize(y).
  Tensor fused_residual_tensor(fused_residual.data(), kF32, {kRows, kColumns});
  Tensor fused_y_tensor(fused_y.data(), kF32, {kRows, kColumns});
  norm.residual = &fused_residual_tensor.c;
  auto fused = sized<halfbyte_rmsnorm_quantize_args>();
  fused.norm = &norm;
  fused.normed = &fused_y_tensor.c;
  fused.spec = &call.spec;
  fused.out = &call.out;
  ASSERT_EQ(halfbyte_rmsnorm_quantize(&fused, nullptr), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(fused_y, y);
  EXPECT_EQ(fused_residual, residual);
  cpp.args.x = &y_tensor.c;
  ASSERT_EQ(cpp.run(), HALFBYTE_OK) << halfbyte_error_message();
  EXPECT_EQ(call.codes, cpp.codes);
  EXPECT_EQ(call.scales, cpp.scales);

  norm.rounding = 2;
  EXPECT_EQ(halfbyte_rmsnorm_quantize(&fused, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(),
               "rmsnorm_quantize: rounding: expected 0 (float32) or 1 (huggingface), got 2");
}

TEST(CAbi, Versions) {
  std::ifstream file(HALFBYTE_SOURCE_DIR "/CMakeLists.txt");
  const std::string project((std::istreambuf_iterator<char>(file)), {});
  EXPECT_NE(project.find("project(halfbyte VERSION " + std::string(halfbyte_version()) + " "),
            std::string::npos)
      << halfbyte_version();
  EXPECT_GE(halfbyte_numerics_version(), 1);
  EXPECT_NE(halfbyte_cuda_architectures(), nullptr);
  EXPECT_TRUE(base::cpu_level_from_name(halfbyte_cpu_level()).has_value());
}

TEST(CAbi, Sizes) {
  EXPECT_EQ(halfbyte_workspace_bytes(HALFBYTE_SCALE_COMPUTED), 4u);
  EXPECT_EQ(halfbyte_workspace_bytes(HALFBYTE_SCALE_ROW), 0u);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_LINEAR, 3, 80), 15);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_128X4, 3, 80), 128 * 8);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_MXFP4, HALFBYTE_LAYOUT_8X4, 9, 64), 16 * 4);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_FP8, HALFBYTE_LAYOUT_LINEAR, 3, 80), 0);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_128X4, 0, 16), 0);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_LINEAR, kMost, 32), -1);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_128X4, kMost - 1, 16), -1);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_8X4, 1 << 20, kMost / 16 * 16),
            -1);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_LINEAR, -1, 16), -1);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_LINEAR, 1, 0), -1);
  EXPECT_EQ(halfbyte_scale_bytes(HALFBYTE_NVFP4, HALFBYTE_LAYOUT_LINEAR, 1, 24), -1);
  EXPECT_EQ(halfbyte_scale_bytes(3, 0, 1, 32), -1);
  EXPECT_EQ(halfbyte_scale_bytes(0, -1, 1, 32), -1);
}

}  // namespace
}  // namespace halfbyte::c_abi_tests
