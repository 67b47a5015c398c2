// What the C ABI refuses, before anything is written, and what it says.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "halfbyte/halfbyte.h"
#include "tests/c_abi_call.h"

namespace halfbyte::c_abi_tests {
namespace {

TEST(CAbiErrors, StructSize) {
  QuantizeCall call;
  for (const std::uint32_t size : {0u, 3u, 12u, 4100u, 0xEEEEEEEEu}) {
    call.args.struct_size = size;
    call.expect_error("args: struct_size");
  }
  call.args.struct_size = sizeof(call.args);
  call.spec.struct_size = 0;
  call.expect_error("spec: struct_size");
  call.spec.struct_size = sizeof(call.spec);
  call.out.struct_size = 1;
  call.expect_error("out: struct_size");
  call.out.struct_size = sizeof(call.out);
  call.execution.struct_size = 2;
  call.expect_error("execution: struct_size");
  call.execution.struct_size = sizeof(call.execution);

  // An older caller: what its struct lacks counts as 0, whatever lies behind it.
  call.spec.struct_size = 16;
  call.spec.scale = HALFBYTE_SCALE_ROW;
  call.spec.scale_rule = 77;
  call.execution.struct_size = 8;
  call.execution.num_threads = -1;
  EXPECT_EQ(call.run(), HALFBYTE_OK) << halfbyte_error_message();
}

TEST(CAbiErrors, StructOfANewerCaller) {
  struct Newer {
    halfbyte_execution known = sized<halfbyte_execution>();
    std::uint64_t later[2] = {};
  } newer;
  newer.known.struct_size = sizeof(Newer);
  QuantizeCall call;
  EXPECT_EQ(halfbyte_quantize(&call.args, &newer.known), HALFBYTE_OK) << halfbyte_error_message();
  newer.later[1] = 1;
  EXPECT_EQ(halfbyte_quantize(&call.args, &newer.known), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_NE(std::string(halfbyte_error_message()).find("execution: struct_size"),
            std::string::npos);
}

TEST(CAbiErrors, NullStructs) {
  EXPECT_EQ(halfbyte_quantize(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "quantize: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_dequantize(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "dequantize: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_amax(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "amax: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_rmsnorm(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "rmsnorm: args: expected a struct, got NULL");
  EXPECT_EQ(halfbyte_rmsnorm_quantize(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "rmsnorm_quantize: args: expected a struct, got NULL");

  QuantizeCall call;
  call.args.spec = nullptr;
  call.expect_error("spec");
  call.args.spec = &call.spec;
  call.args.out = nullptr;
  call.expect_error("out");
  call.args.out = &call.out;
  call.args.x = nullptr;
  call.expect_error("x");
  call.args.x = &call.x_tensor.c;
  call.out.codes = nullptr;
  EXPECT_EQ(call.run(), HALFBYTE_INVALID_ARGUMENT);

  auto norm = sized<halfbyte_rmsnorm_args>();
  EXPECT_EQ(halfbyte_rmsnorm(&norm, nullptr), HALFBYTE_INVALID_ARGUMENT);
  EXPECT_STREQ(halfbyte_error_message(), "rmsnorm: norm: expected a struct, got NULL");
}

TEST(CAbiErrors, EnumsOutOfRange) {
  struct Field {
    const char* name;
    std::int32_t halfbyte_quantize_spec::*member;
  };
  for (const Field& field : {Field{"format", &halfbyte_quantize_spec::format},
                             Field{"layout", &halfbyte_quantize_spec::layout},
                             Field{"second_layout", &halfbyte_quantize_spec::second_layout},
                             Field{"scale", &halfbyte_quantize_spec::scale},
                             Field{"scale_rule", &halfbyte_quantize_spec::scale_rule},
                             Field{"mx_rule", &halfbyte_quantize_spec::mx_rule}}) {
    for (const std::int32_t bad : {-1, 3, std::numeric_limits<std::int32_t>::min()}) {
      QuantizeCall call;
      call.out.scales_second = &call.second_tensor.c;
      call.spec.*field.member = bad;
      call.expect_error(field.name);
    }
  }
  QuantizeCall call;
  call.spec.second_layout = 99;  // not read without scales_second
  EXPECT_EQ(call.run(), HALFBYTE_OK) << halfbyte_error_message();
  call.codes[0] = 0xEE;
  call.execution.backend = 4;
  call.expect_error("backend");
  call.execution.backend = 0;
  call.execution.num_threads = -1;
  call.expect_error("num_threads");
  call.execution.num_threads = 0;
  call.execution.reserved = 1;
  call.expect_error("execution: reserved");
}

TEST(CAbiErrors, Tensors) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  const auto expect_bad = [](auto&& damage) {
    QuantizeCall call;
    damage(call, call.x_tensor.c, call.x_tensor.shape);
    call.expect_error("x");
  };
  using Call = QuantizeCall;
  using C = halfbyte_tensor;
  using Shape = std::vector<std::int64_t>;
  expect_bad([](Call&, C& t, Shape&) { t.ndim = -1; });
  expect_bad([](Call&, C& t, Shape&) { t.ndim = 9; });
  expect_bad([](Call&, C& t, Shape&) { t.ndim = 0; });
  expect_bad([](Call&, C& t, Shape&) { t.shape = nullptr; });
  expect_bad([](Call&, C&, Shape& s) { s[0] = -1; });
  expect_bad([](Call&, C&, Shape& s) { s[0] = kHuge; });
  expect_bad([](Call&, C&, Shape& s) { s[0] = kHuge / kColumns; });  // elements fit, bytes do not
  expect_bad([](Call&, C& t, Shape&) { t.dtype = {2, 64, 1}; });
  expect_bad([](Call&, C& t, Shape&) { t.dtype = {2, 32, 2}; });
  expect_bad([](Call&, C& t, Shape&) { t.dtype = kU8; });
  expect_bad([](Call&, C& t, Shape&) { t.device = {3, 0}; });
  expect_bad([](Call&, C& t, Shape&) { t.device = {2, -1}; });
  expect_bad([](Call&, C& t, Shape&) { t.data = nullptr; });
  expect_bad([](Call&, C& t, Shape&) { t.byte_offset = 2; });
  for (const std::int64_t stride : {kHuge, -kHuge, -kHuge - 1}) {
    expect_bad([stride](Call&, C& t, Shape&) {
      static std::int64_t strides[2] = {0, 1};
      strides[0] = stride;
      t.strides = strides;
    });
  }
  QuantizeCall call;  // no rows: nothing to read or write, null pointers are fine
  for (Tensor* tensor : {&call.x_tensor, &call.codes_tensor, &call.scales_tensor}) {
    tensor->shape[0] = 0;
    tensor->c.data = nullptr;
  }
  EXPECT_EQ(call.run(), HALFBYTE_OK) << halfbyte_error_message();
  call.x_tensor.c.device.index = -1;  // what PyTorch calls "cpu"
  EXPECT_EQ(call.run(), HALFBYTE_OK) << halfbyte_error_message();
}

TEST(CAbiErrors, ErrorMessagesAreTheThreadsOwn) {
  EXPECT_EQ(halfbyte_amax(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
  const std::string before = halfbyte_error_message();
  std::thread([] {
    EXPECT_STREQ(halfbyte_error_message(), "");
    EXPECT_EQ(halfbyte_quantize(nullptr, nullptr), HALFBYTE_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(halfbyte_error_message()).rfind("quantize:", 0), 0u);
  }).join();
  EXPECT_EQ(halfbyte_error_message(), before);
  QuantizeCall call;
  EXPECT_EQ(call.run(), HALFBYTE_OK);
  EXPECT_EQ(halfbyte_error_message(), before) << "a call that worked keeps the last failure";
}

}  // namespace
}  // namespace halfbyte::c_abi_tests
