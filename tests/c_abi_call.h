// A halfbyte_quantize call that works, through the C ABI; tests break one thing at a time.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "halfbyte/halfbyte.h"

namespace halfbyte::c_abi_tests {

inline constexpr halfbyte_dtype kF32 = {2, 32, 1}, kU8 = {1, 8, 1};

// A contiguous tensor that owns its shape.
struct Tensor {
  std::vector<std::int64_t> shape;
  halfbyte_tensor c{};
  Tensor(void* data, halfbyte_dtype dtype, std::vector<std::int64_t> dims)
      : shape(std::move(dims)) {
    c.data = data;
    c.device = {1, 0};
    c.ndim = static_cast<std::int32_t>(shape.size());
    c.dtype = dtype;
    c.shape = shape.data();
  }
  Tensor(const Tensor&) = delete;
};

template <class Struct>
Struct sized() {
  Struct value{};
  value.struct_size = sizeof(Struct);
  return value;
}

inline constexpr std::int64_t kRows = 3, kColumns = 32;

struct QuantizeCall {
  std::vector<float> x = std::vector<float>(kRows * kColumns);
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(kRows * kColumns / 2, 0xEE);
  std::vector<std::uint8_t> scales = std::vector<std::uint8_t>(kRows * kColumns / 16, 0xEE);
  std::vector<std::uint8_t> second = std::vector<std::uint8_t>(512, 0xEE);
  std::vector<float> row_scales = std::vector<float>(kRows);
  float computed[2] = {};
  Tensor x_tensor{x.data(), kF32, {kRows, kColumns}};
  Tensor codes_tensor{codes.data(), kU8, {kRows, kColumns / 2}};
  Tensor scales_tensor{scales.data(), kU8, {kRows, kColumns / 16}};
  Tensor second_tensor{second.data(), kU8, {512}};
  Tensor row_tensor{row_scales.data(), kF32, {kRows}};
  Tensor global_tensor{&computed[0], kF32, {1}};
  Tensor decode_tensor{&computed[1], kF32, {1}};
  halfbyte_quantize_spec spec = sized<halfbyte_quantize_spec>();
  halfbyte_quantize_outputs out = sized<halfbyte_quantize_outputs>();
  halfbyte_quantize_args args = sized<halfbyte_quantize_args>();
  halfbyte_execution execution = sized<halfbyte_execution>();

  QuantizeCall() {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 37) * 0.31f - 5.0f;
    out.codes = &codes_tensor.c;
    out.scales = &scales_tensor.c;
    args.x = &x_tensor.c;
    args.spec = &spec;
    args.out = &out;
  }
  QuantizeCall(const QuantizeCall&) = delete;
  halfbyte_status run() { return halfbyte_quantize(&args, &execution); }
  void expect_error(const std::string& argument) {
    EXPECT_EQ(run(), HALFBYTE_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(halfbyte_error_message()).rfind("quantize: " + argument + ":", 0), 0u)
        << halfbyte_error_message();
    EXPECT_EQ(codes[0], 0xEE) << "something was written";
  }
};

}  // namespace halfbyte::c_abi_tests
