// What cuBLASLt itself says of the descriptions of our products, where it is installed: needs no
// device. The block-scaled ones run on no machine of ours.
#include <gtest/gtest.h>

#include "halfbyte/base/dtype.h"

#ifdef HALFBYTE_WITH_CUDA
#include "halfbyte/ops/gemm/gemm_cublaslt.h"

namespace halfbyte::ops::cublaslt {
namespace {

using base::DType;

TEST(GemmCublasLt, TakesEveryDescription) {
  if (!available().ok()) GTEST_SKIP() << available().message();
  alignas(256) static const float operand[64] = {};  // looked at by nobody
  Matmul product;
  product.m = 64, product.n = 96, product.k = 128, product.stride = 96;
  product.a = product.b = operand;
  product.d = const_cast<float*>(operand);
  for (const Input input : {Input::kBF16, Input::kF16, Input::kE4m3, Input::kNvfp4}) {
    for (const DType output : {DType::kBF16, DType::kF16, DType::kF32}) {
      for (const bool scaled : {false, true}) {
        for (const bool with_alpha : {false, true}) {
          if (scaled && (input == Input::kBF16 || input == Input::kF16)) continue;
          product.input = input;
          product.output = output;
          product.a_scales = product.b_scales = scaled ? operand : nullptr;
          product.alpha = with_alpha ? operand : nullptr;
          const base::Status status = describes(product);
          EXPECT_TRUE(status.ok()) << static_cast<int>(input) << ": " << status.message();
        }
      }
    }
  }
}

}  // namespace
}  // namespace halfbyte::ops::cublaslt
#endif
