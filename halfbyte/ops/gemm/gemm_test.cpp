// gemm: exact values, special values.
#include "halfbyte/ops/gemm/gemm.h"

#include <gtest/gtest.h>

namespace halfbyte::ops {
namespace {

TEST(Gemm, BlockDotOfAllCodePairs) {
  for (int a = 0; a < 16; ++a) {
    for (int b = 0; b < 16; ++b) {
      const std::uint8_t code_a = static_cast<std::uint8_t>(a),
                         code_b = static_cast<std::uint8_t>(b);
      const float product = formats::e2m1_to_float(code_a) * formats::e2m1_to_float(code_b);
      EXPECT_EQ(static_cast<float>(block_dot(&code_a, &code_b, 1)), 4 * product) << a << " " << b;
    }
  }
}

}  // namespace
}  // namespace halfbyte::ops
