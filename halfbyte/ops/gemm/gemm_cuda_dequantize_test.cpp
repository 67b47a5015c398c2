// method = dequantize on CUDA: within its bound of the exact product, and the same bits every time.
#include <gtest/gtest.h>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/ops/gemm/gemm_cuda_bounded_testing.h"

#ifdef HALFBYTE_WITH_CUDA

namespace halfbyte::ops {
namespace {

TEST(GemmCudaDequantize, WithinItsBound) {
  const auto devices = base::cuda_devices();
  if (!devices.ok() || devices.value().empty()) GTEST_SKIP() << "no CUDA device";
  constexpr base::DType kBf16 = base::DType::kBF16;
  for (testing::BoundedCase of : std::vector<testing::BoundedCase>{
           {.m = 1, .n = 16, .k = 16},
           {.m = 65, .n = 96, .k = 272, .per_row = true, .bias = true},
           {.m = 130, .n = 200, .k = 1024, .bias = true},
           {.m = 200, .n = 77, .k = 144, .per_row = true},
           {.m = 300, .n = 264, .k = 4096},
           {.m = 70, .n = 100, .k = 528, .a = kBf16, .bias = true},
           {.m = 33, .n = 128, .k = 256, .a = kBf16}}) {
    of.method = GemmMethod::kDequantize;
    testing::expect_within_bound(of);
    if (::testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace halfbyte::ops
#endif
