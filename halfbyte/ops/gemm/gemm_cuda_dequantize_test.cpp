// method = dequantize on CUDA: within its bound of the exact product, and the same bits every time.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/ops/gemm/gemm.h"

#ifdef HALFBYTE_WITH_CUDA
#include <cuda_runtime.h>

#include "halfbyte/ops/gemm/gemm_cuda_testing.h"

namespace halfbyte::ops {
namespace {

using base::Device;
using base::DType;
using testing::OnDevice;

constexpr Device kGpu{base::DeviceType::kCuda, 0};

struct Case {
  std::int64_t m, n, k;
  bool per_row, bias, quantized;
};

struct Operands {
  std::vector<std::uint8_t> a, a_scales, b, b_scales, prepared;
  std::vector<std::uint16_t> x;  // bf16
  std::vector<float> a_decode, bias;
  float b_decode = 0.37f;

  explicit Operands(const Case& of) {
    std::uint32_t state = 12345;
    const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
    const auto fill = [&](std::vector<std::uint8_t>& to, std::int64_t count, bool scales) {
      to.resize(static_cast<std::size_t>(count));
      for (std::uint8_t& v : to)
        v = static_cast<std::uint8_t>(scales ? 0x20 + next() % 48 : next());
    };
    fill(a, of.m * of.k / 2, false);
    fill(a_scales, of.m * of.k / 16, true);
    fill(b, of.n * of.k / 2, false);
    fill(b_scales, of.n * of.k / 16, true);
    for (std::int64_t i = 0; i < of.m * of.k; ++i) {  // bf16 of magnitude 2^-3 to 2
      x.push_back(static_cast<std::uint16_t>(0x3E00 + next() % 512 + (next() & 1) * 0x8000));
    }
    for (std::int64_t i = 0; i < (of.per_row ? of.m : 1); ++i) {
      a_decode.push_back(0.5f + static_cast<float>(next() % 100) / 64);
    }
    for (std::int64_t i = 0; i < of.n; ++i) bias.push_back(static_cast<float>(next() % 999) - 500);
    prepare(of);
  }
  // Prepares b, whose signs are perhaps gone.
  void prepare(const Case& of) {
    prepared.resize(static_cast<std::size_t>(prepared_weight_bytes(Format::kNvfp4, of.n, of.k)));
    PrepareWeightsArgs args;
    args.plain.rows = of.n;
    args.plain.columns = of.k;
    args.plain.codes = TensorView(b.data(), DType::kU8, {of.n, of.k / 2});
    args.plain.scales = TensorView(b_scales.data(), DType::kU8, {of.n * of.k / 16});
    args.prepared =
        TensorView(prepared.data(), DType::kU8, {static_cast<std::int64_t>(prepared.size())});
    ASSERT_TRUE(prepare_weights(args).ok());
  }
  void drop_signs(const Case& of) {
    for (std::vector<std::uint8_t>* codes : {&a, &b}) {
      for (std::uint8_t& v : *codes) v &= 0x77;
    }
    for (std::uint16_t& v : x) v &= 0x7FFF;
    for (float& v : bias) v = std::fabs(v);
    prepare(of);
  }

  GemmArgs args(const Case& of, const std::vector<const void*>& at, void* c, Device device) const {
    const auto view = [&](std::size_t which, DType dtype,
                          std::initializer_list<std::int64_t> shape) {
      return TensorView(const_cast<void*>(at[which]), dtype, shape, device);
    };
    GemmArgs args;
    if (of.quantized) {
      args.a_packed.rows = of.m;
      args.a_packed.columns = of.k;
      args.a_packed.codes = view(0, DType::kU8, {of.m, of.k / 2});
      args.a_packed.scales = view(1, DType::kU8, {of.m * of.k / 16});
      args.a_packed.scale = view(3, DType::kF32, {static_cast<std::int64_t>(a_decode.size())});
      args.a_packed.scale_kind = ScaleKind::kDecode;
    } else {
      args.a = view(5, DType::kBF16, {of.m, of.k});
    }
    args.b.form = WeightForm::kPrepared;
    args.b.rows = of.n;
    args.b.columns = of.k;
    args.b.prepared = view(2, DType::kU8, {static_cast<std::int64_t>(prepared.size())});
    args.b.scale = TensorView(const_cast<float*>(&b_decode), DType::kF32, {1});
    args.b.scale_kind = ScaleKind::kDecode;
    if (of.bias) args.bias = view(4, DType::kF32, {of.n});
    args.c = TensorView(c, DType::kF32, {of.m, of.n}, device);
    return args;
  }
  std::vector<const void*> on_host() const {
    return {a.data(), a_scales.data(), prepared.data(), a_decode.data(), bias.data(), x.data()};
  }
};

std::vector<float> on_cpu(const Case& of, const Operands& operands) {
  std::vector<float> c(static_cast<std::size_t>(of.m * of.n));
  EXPECT_TRUE(gemm(operands.args(of, operands.on_host(), c.data(), {})).ok());
  return c;
}

std::vector<float> on_gpu(const Case& of, const Operands& operands) {
  const OnDevice a(operands.a.size(), operands.a.data());
  const OnDevice a_scales(operands.a_scales.size(), operands.a_scales.data());
  const OnDevice prepared(operands.prepared.size(), operands.prepared.data());
  const OnDevice a_decode(operands.a_decode.size() * 4, operands.a_decode.data());
  const OnDevice bias(operands.bias.size() * 4, operands.bias.data());
  const OnDevice x(operands.x.size() * 2, operands.x.data());
  std::vector<float> c(static_cast<std::size_t>(of.m * of.n));
  const OnDevice c_device(c.size() * 4);
  GemmArgs args = operands.args(
      of, {a.data(), a_scales.data(), prepared.data(), a_decode.data(), bias.data(), x.data()},
      c_device.data(), kGpu);
  args.method = GemmMethod::kDequantize;
  const base::Result<std::size_t> bytes = gemm_workspace_bytes(args);
  EXPECT_TRUE(bytes.ok());
  if (!bytes.ok()) return {};
  const OnDevice workspace(bytes.value());
  base::Execution execution;
  execution.workspace = workspace.data();
  execution.workspace_bytes = bytes.value();
  const base::Status status = gemm(args, execution);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(c.data(), c_device.data(), c.size() * 4, cudaMemcpyDeviceToHost),
            cudaSuccess);
  return c;
}

TEST(GemmCudaDequantize, WithinItsBound) {
  const auto devices = base::cuda_devices();
  if (!devices.ok() || devices.value().empty()) GTEST_SKIP() << "no CUDA device";
  bool any = false;
  for (const Case& of :
       {Case{1, 16, 16, false, false, true}, Case{65, 96, 272, true, true, true},
        Case{130, 200, 1024, false, true, true}, Case{200, 77, 144, true, false, true},
        Case{300, 264, 4096, false, false, true}, Case{70, 100, 528, false, true, false},
        Case{33, 128, 256, false, false, false}}) {
    Operands operands(of);
    std::vector<float> got = on_gpu(of, operands);
    if (got.empty()) break;
    any = true;
    EXPECT_EQ(std::memcmp(got.data(), on_gpu(of, operands).data(), got.size() * 4), 0);
    const std::vector<float> exact = on_cpu(of, operands);
    operands.drop_signs(of);
    const std::vector<float> magnitude = on_cpu(of, operands);
    // Exact products, K additions in fp32 that may truncate (2^-23 of the sum of magnitudes each)
    // here, K roundings there, the scales and the bias in another order.
    const double unit = std::ldexp(1.5 * static_cast<double>(of.k) + 4, -23);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(std::fabs(static_cast<double>(got[i]) - exact[i]), unit * magnitude[i] + 1e-30)
          << "element " << i << ": " << got[i] << " for " << exact[i];
    }
  }
  EXPECT_TRUE(any);
}

}  // namespace
}  // namespace halfbyte::ops
#endif
