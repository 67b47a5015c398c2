// halfbyte_rope and halfbyte_rope_table through the shared library, compared with the C++ API.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "halfbyte/base/tensor_view.h"
#include "halfbyte/halfbyte.h"
#include "halfbyte/ops/rope/rope.h"
#include "halfbyte/ops/rope/rope_table.h"
#include "tests/c_abi_call.h"

namespace halfbyte::c_abi_tests {
namespace {

using base::DType;
using base::TensorView;

constexpr halfbyte_dtype kI32 = {0, 32, 1}, kI64 = {0, 64, 1};
constexpr std::int64_t kTokens = 3, kHeads = 2, kDim = 16, kPositions = 10, kHalf = kDim / 2;

static_assert(offsetof(halfbyte_rope_args, struct_size) == 0 &&
              offsetof(halfbyte_rope_args, rope_dim) == 16 && sizeof(halfbyte_rope_args) == 72);
static_assert(offsetof(halfbyte_rope_table_args, struct_size) == 0 &&
              offsetof(halfbyte_rope_table_args, theta) == 16 &&
              sizeof(halfbyte_rope_table_args) == 112);

struct RopeCall {
  std::vector<float> x = std::vector<float>(kTokens * kHeads * kDim);
  std::vector<float> y = std::vector<float>(x.size(), 77.0f);
  std::vector<float> cos = std::vector<float>(kPositions * kHalf), sin = cos;
  std::vector<std::int64_t> positions = {9, 0, 4};
  Tensor x_tensor{x.data(), kF32, {kTokens, kHeads, kDim}};
  Tensor y_tensor{y.data(), kF32, {kTokens, kHeads, kDim}};
  Tensor cos_tensor{cos.data(), kF32, {kPositions, kHalf}};
  Tensor sin_tensor{sin.data(), kF32, {kPositions, kHalf}};
  Tensor positions_tensor{positions.data(), kI64, {kTokens}};
  halfbyte_rope_args args = sized<halfbyte_rope_args>();
  halfbyte_rope_table_args table = sized<halfbyte_rope_table_args>();

  RopeCall() {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 37) * 0.31f - 5.0f;
    args.x = &x_tensor.c;
    args.y = &y_tensor.c;
    args.cos = table.cos = &cos_tensor.c;
    args.sin = table.sin = &sin_tensor.c;
    args.positions = &positions_tensor.c;
    table.theta = 10000.0;
  }
  RopeCall(const RopeCall&) = delete;
  ops::RopeTableArgs cpp_table() {
    ops::RopeTableArgs to;
    to.cos = TensorView(cos.data(), DType::kF32, {kPositions, kHalf});
    to.sin = TensorView(sin.data(), DType::kF32, {kPositions, kHalf});
    return to;
  }
  void expect_error(const std::string& argument) {
    EXPECT_EQ(halfbyte_rope(&args, nullptr), HALFBYTE_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(halfbyte_error_message()).rfind("rope: " + argument + ":", 0), 0u)
        << halfbyte_error_message();
    EXPECT_EQ(y[0], 77.0f) << "something was written";
  }
  void expect_table_error(const std::string& argument) {
    EXPECT_EQ(halfbyte_rope_table(&table), HALFBYTE_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(halfbyte_error_message()).rfind("rope_table: " + argument + ":", 0), 0u)
        << halfbyte_error_message();
    EXPECT_EQ(cos[0], 0.0f) << "something was written";
  }
};

TEST(CAbiRope, TableGivesWhatCppGives) {
  RopeCall call, cpp;
  ASSERT_EQ(halfbyte_rope_table(&call.table), HALFBYTE_OK) << halfbyte_error_message();
  ASSERT_TRUE(ops::rope_table(cpp.cpp_table()).ok());
  EXPECT_EQ(call.cos, cpp.cos);
  EXPECT_EQ(call.sin, cpp.sin);
  EXPECT_EQ(call.cos[0], 1.0f);

  call.table.scaling = HALFBYTE_ROPE_SCALING_YARN;
  call.table.theta = 5000.0;
  call.table.factor = 4.0;
  call.table.original_max_position = 64.0;
  call.table.beta_fast = 8.0;
  call.table.beta_slow = 2.0;
  call.table.mscale = 0.7;
  call.table.mscale_all_dim = 0.9;
  call.table.no_truncate = 1;
  ops::RopeTableArgs args = cpp.cpp_table();
  args.scaling = ops::RopeScaling::kYarn;
  args.theta = 5000.0;
  args.factor = 4.0;
  args.original_max_position = 64.0;
  args.beta_fast = 8.0;
  args.beta_slow = 2.0;
  args.mscale = 0.7;
  args.mscale_all_dim = 0.9;
  args.truncate = false;
  for (const double attention_factor : {0.0, 1.25}) {
    call.table.attention_factor = args.attention_factor = attention_factor;
    ASSERT_EQ(halfbyte_rope_table(&call.table), HALFBYTE_OK) << halfbyte_error_message();
    ASSERT_TRUE(ops::rope_table(args).ok());
    EXPECT_EQ(call.cos, cpp.cos);
    EXPECT_EQ(call.sin, cpp.sin);
  }

  RopeCall llama, llama_cpp;
  llama.table.scaling = HALFBYTE_ROPE_SCALING_LLAMA3;
  llama.table.factor = 8.0;
  llama.table.low_freq_factor = 1.0;
  llama.table.high_freq_factor = 4.0;
  llama.table.original_max_position = 100.0;
  args = llama_cpp.cpp_table();
  args.scaling = ops::RopeScaling::kLlama3;
  args.factor = 8.0;
  args.low_freq_factor = 1.0;
  args.high_freq_factor = 4.0;
  args.original_max_position = 100.0;
  ASSERT_EQ(halfbyte_rope_table(&llama.table), HALFBYTE_OK) << halfbyte_error_message();
  ASSERT_TRUE(ops::rope_table(args).ok());
  EXPECT_EQ(llama.cos, llama_cpp.cos);
}

TEST(CAbiRope, RopeGivesWhatCppGives) {
  for (int style = 0; style < 2; ++style) {
    for (int inverse = 0; inverse < 2; ++inverse) {
      RopeCall call, cpp;
      ASSERT_EQ(halfbyte_rope_table(&call.table), HALFBYTE_OK) << halfbyte_error_message();
      call.args.style = style;
      call.args.inverse = inverse;
      call.args.rope_dim = kDim;
      ASSERT_EQ(halfbyte_rope(&call.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
      ops::RopeArgs args;
      args.x = TensorView(cpp.x.data(), DType::kF32, {kTokens, kHeads, kDim});
      args.y = TensorView(cpp.y.data(), DType::kF32, {kTokens, kHeads, kDim});
      args.cos = TensorView(call.cos.data(), DType::kF32, {kPositions, kHalf});
      args.sin = TensorView(call.sin.data(), DType::kF32, {kPositions, kHalf});
      args.positions = TensorView(cpp.positions.data(), DType::kI64, {kTokens});
      args.style = static_cast<ops::RopeStyle>(style);
      args.inverse = inverse == 1;
      ASSERT_TRUE(ops::rope(args).ok());
      EXPECT_EQ(call.y, cpp.y);
      EXPECT_EQ(call.x, cpp.x);

      call.args.y = &call.x_tensor.c;  // in place; positions as i32
      std::vector<std::int32_t> narrow(call.positions.begin(), call.positions.end());
      Tensor narrow_tensor(narrow.data(), kI32, {kTokens});
      call.args.positions = &narrow_tensor.c;
      call.args.rope_dim = 0;
      ASSERT_EQ(halfbyte_rope(&call.args, nullptr), HALFBYTE_OK) << halfbyte_error_message();
      EXPECT_EQ(call.x, cpp.y);
    }
  }
}

TEST(CAbiRope, Refusals) {
  EXPECT_EQ(halfbyte_rope(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "rope: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_rope_table(nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "rope_table: args: expected a struct, got NULL");

  using Change = void (*)(RopeCall&);
  const auto refused = [](const char* argument, Change change) {
    RopeCall call;
    change(call);
    call.expect_error(argument);
  };
  refused("args: struct_size", [](RopeCall& c) { c.args.struct_size = 3; });
  refused("style", [](RopeCall& c) { c.args.style = 2; });
  refused("inverse", [](RopeCall& c) { c.args.inverse = -1; });
  refused("reserved", [](RopeCall& c) { c.args.reserved = 1; });
  refused("rope_dim", [](RopeCall& c) { c.args.rope_dim = 3; });
  refused("rope_offset", [](RopeCall& c) { c.args.rope_offset = 1; });
  refused("x", [](RopeCall& c) { c.args.x = nullptr; });
  refused("y", [](RopeCall& c) { c.args.y = nullptr; });
  refused("cos", [](RopeCall& c) { c.args.cos = nullptr; });
  refused("sin", [](RopeCall& c) { c.args.sin = nullptr; });
  refused("positions", [](RopeCall& c) { c.args.positions = nullptr; });
  refused("positions", [](RopeCall& c) { c.positions[2] = kPositions; });

  const auto table_refused = [](const char* argument, Change change) {
    RopeCall call;
    change(call);
    call.expect_table_error(argument);
  };
  table_refused("args: struct_size", [](RopeCall& c) { c.table.struct_size = 0; });
  table_refused("scaling", [](RopeCall& c) { c.table.scaling = 4; });
  table_refused("no_truncate", [](RopeCall& c) { c.table.no_truncate = 2; });
  table_refused("reserved", [](RopeCall& c) { c.table.reserved = 1; });
  table_refused("truncate", [](RopeCall& c) { c.table.no_truncate = 1; });  // not with none
  table_refused("theta", [](RopeCall& c) { c.table.theta = 0.0; });
  table_refused("factor", [](RopeCall& c) { c.table.factor = 2.0; });
  table_refused("cos", [](RopeCall& c) { c.table.cos = nullptr; });
  table_refused("cos", [](RopeCall& c) { c.table.sin = c.table.cos; });
}

}  // namespace
}  // namespace halfbyte::c_abi_tests
