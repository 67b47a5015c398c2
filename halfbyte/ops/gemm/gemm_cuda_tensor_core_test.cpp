// method = tensor_core on CUDA: within its bound of the exact product, the same bits every time,
// nothing written beside C.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
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
  Format format = Format::kNvfp4;
  DType a = DType::kU8;  // kU8: quantized
  DType c = DType::kF32;
  bool per_row = false, bias = false;
  std::int64_t more_a = 0, more_c = 0;  // elements from a row to the next, beyond its own
  ScaleLayout layout = ScaleLayout::kLinear;

  bool quantized() const { return a == DType::kU8; }
  std::int64_t block() const { return formats::block_elements(format); }
  std::string text() const {
    return std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
           (format == Format::kMxfp4 ? " mxfp4" : " nvfp4") + " a " +
           std::to_string(static_cast<int>(a)) + " c " + std::to_string(static_cast<int>(c));
  }
};

struct Operands {
  std::vector<std::uint8_t> a, a_scales, b, b_scales, prepared;
  std::vector<std::uint16_t> x;
  std::vector<float> a_decode, bias;
  float b_decode = 0.37f;

  explicit Operands(const Case& of) {
    std::uint32_t state = 12345;
    const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
    const auto fill = [&](std::vector<std::uint8_t>& to, std::int64_t count, std::uint32_t first,
                          std::uint32_t values) {
      to.resize(static_cast<std::size_t>(count));
      for (std::uint8_t& v : to) v = static_cast<std::uint8_t>(first + next() % values);
    };
    const bool nvfp4 = of.format == Format::kNvfp4;
    const std::uint32_t first = nvfp4 ? 0 : 118, values = nvfp4 ? 127 : 16;  // scales
    const std::int64_t blocks = of.k / of.block();
    fill(a, of.m * (of.k + of.more_a) / 2, 0, 256);
    fill(a_scales, formats::scale_bytes(of.layout, of.m, blocks), first, values);
    fill(b, of.n * of.k / 2, 0, 256);
    fill(b_scales, of.n * blocks, first, values);
    const std::uint32_t one = of.a == DType::kF16 ? 0x3000 : 0x3E00;
    for (std::int64_t i = 0; i < of.m * (of.k + of.more_a); ++i) {
      x.push_back(static_cast<std::uint16_t>(one + next() % 512 + (next() & 1) * 0x8000));
    }
    for (std::int64_t i = 0; i < (of.per_row ? of.m : 1); ++i) {
      a_decode.push_back(0.5f + static_cast<float>(next() % 100) / 64);
    }
    for (std::int64_t i = 0; i < of.n; ++i) bias.push_back(static_cast<float>(next() % 999) - 500);
    prepare(of);
  }
  void prepare(const Case& of) {
    prepared.resize(static_cast<std::size_t>(prepared_weight_bytes(of.format, of.n, of.k)));
    PrepareWeightsArgs args;
    args.plain.format = of.format;
    args.plain.rows = of.n;
    args.plain.columns = of.k;
    args.plain.codes = TensorView(b.data(), DType::kU8, {of.n, of.k / 2});
    args.plain.scales = TensorView(b_scales.data(), DType::kU8, {of.n * of.k / of.block()});
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

  GemmArgs args(const Case& of, const std::vector<const void*>& at, const TensorView& c,
                Device device) const {
    const auto view = [&](std::size_t which, DType dtype, std::int64_t rows, std::int64_t columns,
                          std::int64_t more) {
      TensorView tensor(const_cast<void*>(at[which]), dtype, {rows, columns}, device);
      tensor.strides[0] = columns + more;
      return tensor;
    };
    const auto vector = [&](std::size_t which, DType dtype, std::size_t count) {
      return TensorView(const_cast<void*>(at[which]), dtype, {static_cast<std::int64_t>(count)},
                        device);
    };
    GemmArgs args;
    const bool nvfp4 = of.format == Format::kNvfp4;
    if (of.quantized()) {
      args.a_packed.format = of.format;
      args.a_packed.rows = of.m;
      args.a_packed.columns = of.k;
      args.a_packed.layout = of.layout;
      args.a_packed.codes = view(0, DType::kU8, of.m, of.k / 2, of.more_a / 2);
      args.a_packed.scales = vector(1, DType::kU8, a_scales.size());
      if (nvfp4) {
        args.a_packed.scale = vector(3, DType::kF32, a_decode.size());
        args.a_packed.scale_kind = ScaleKind::kDecode;
      }
    } else {
      args.a = view(5, of.a, of.m, of.k, of.more_a);
    }
    args.b.format = of.format;
    args.b.form = WeightForm::kPrepared;
    args.b.rows = of.n;
    args.b.columns = of.k;
    args.b.prepared = vector(2, DType::kU8, prepared.size());
    if (nvfp4) {
      args.b.scale = TensorView(const_cast<float*>(&b_decode), DType::kF32, {1});
      args.b.scale_kind = ScaleKind::kDecode;
    }
    if (of.bias) args.bias = vector(4, DType::kF32, bias.size());
    args.c = c;
    return args;
  }
};

std::vector<float> on_cpu(const Case& of, const Operands& v) {
  std::vector<float> c(static_cast<std::size_t>(of.m * of.n));
  const TensorView view(c.data(), DType::kF32, {of.m, of.n});
  const base::Status status = gemm(v.args(of,
                                          {v.a.data(), v.a_scales.data(), v.prepared.data(),
                                           v.a_decode.data(), v.bias.data(), v.x.data()},
                                          view, {}));
  EXPECT_TRUE(status.ok()) << status.message();
  return c;
}

// The bytes of C, of m rows with more_c elements behind each; 0xFF before.
std::vector<std::uint8_t> on_gpu(const Case& of, const Operands& v) {
  const OnDevice a(v.a), a_scales(v.a_scales), prepared(v.prepared), a_decode(v.a_decode),
      bias(v.bias), x(v.x);
  const std::size_t element = of.c == DType::kF32 ? 4 : 2;
  std::vector<std::uint8_t> c(static_cast<std::size_t>(of.m * (of.n + of.more_c)) * element, 0xFF);
  const OnDevice c_device(c);
  TensorView view(c_device.data(), of.c, {of.m, of.n}, kGpu);
  view.strides[0] = of.n + of.more_c;
  GemmArgs args = v.args(
      of, {a.data(), a_scales.data(), prepared.data(), a_decode.data(), bias.data(), x.data()},
      view, kGpu);
  args.method = GemmMethod::kTensorCore;
  const base::Result<std::size_t> bytes = gemm_workspace_bytes(args);
  EXPECT_TRUE(bytes.ok()) << bytes.status().message();
  if (!bytes.ok()) return {};
  const OnDevice workspace(bytes.value());
  EXPECT_EQ(cudaMemset(workspace.data(), 0xFF, bytes.value()), cudaSuccess);
  base::Execution execution;
  execution.workspace = workspace.data();
  execution.workspace_bytes = bytes.value();
  const base::Status status = gemm(args, execution);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(c.data(), c_device.data(), c.size(), cudaMemcpyDeviceToHost), cudaSuccess);
  return c;
}

float element_of(const Case& of, const std::vector<std::uint8_t>& c, std::size_t index) {
  if (of.c == DType::kF32) {
    float v = 0;
    std::memcpy(&v, c.data() + index * 4, 4);
    return v;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, c.data() + index * 2, 2);
  return of.c == DType::kBF16 ? numerics::to_float(numerics::Bf16{bits})
                              : numerics::to_float(numerics::Fp16{bits});
}

void expect_within_bound(const Case& of) {
  SCOPED_TRACE(of.text());
  Operands operands(of);
  const std::vector<std::uint8_t> got = on_gpu(of, operands);
  if (got.empty()) return;
  EXPECT_EQ(got, on_gpu(of, operands));
  const std::vector<float> exact = on_cpu(of, operands);
  operands.drop_signs(of);
  const std::vector<float> magnitude = on_cpu(of, operands);
  // Exact products, K additions in fp32 that may truncate (2^-23 of the sum of magnitudes each)
  // here, K roundings there, the scales and the bias in another order; then C's own rounding.
  const double unit = std::ldexp(1.5 * static_cast<double>(of.k) + 4, -23);
  const double last = of.c == DType::kBF16  ? std::ldexp(1.0, -8)
                      : of.c == DType::kF16 ? std::ldexp(1.0, -11)
                                            : 0.0;
  for (std::int64_t row = 0; row < of.m; ++row) {
    for (std::int64_t column = 0; column < of.n + of.more_c; ++column) {
      const auto at = static_cast<std::size_t>(row * (of.n + of.more_c) + column);
      if (column >= of.n) {
        const std::size_t size = of.c == DType::kF32 ? 4 : 2;
        for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(got[at * size + i], 0xFF);
        continue;
      }
      const auto i = static_cast<std::size_t>(row * of.n + column);
      const double v = element_of(of, got, at), error = std::fabs(v - exact[i]);
      ASSERT_LE(error,
                unit * magnitude[i] + last * (std::fabs(exact[i]) + unit * magnitude[i]) + 1e-30)
          << "row " << row << ", column " << column << ": " << v << " for " << exact[i];
    }
  }
}

bool has_sm_90() {
  const auto devices = base::cuda_devices();
  if (!devices.ok() || devices.value().empty()) return false;
  cudaDeviceProp properties{};
  return cudaGetDeviceProperties(&properties, 0) == cudaSuccess && properties.major == 9;
}

TEST(GemmCudaTensorCore, Quantized) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    expect_within_bound({.m = 1, .n = 32, .k = 32, .format = format});
    expect_within_bound({.m = 16, .n = 256, .k = 1024, .format = format, .c = DType::kBF16});
    expect_within_bound({.m = 65, .n = 96, .k = 288, .format = format, .bias = true});
    expect_within_bound({.m = 40, .n = 300, .k = 2048, .format = format, .more_c = 4});
    expect_within_bound({.m = 200,
                         .n = 520,
                         .k = 416,
                         .format = format,
                         .c = DType::kBF16,
                         .bias = true,
                         .layout = ScaleLayout::k128x4});
    expect_within_bound({.m = 130, .n = 77, .k = 160, .format = format, .more_a = 6, .more_c = 3});
  }
  expect_within_bound({.m = 97, .n = 256, .k = 4096, .c = DType::kBF16, .per_row = true});
  expect_within_bound({.m = 300, .n = 1024, .k = 272, .c = DType::kBF16, .per_row = true});
}
TEST(GemmCudaTensorCore, SixteenBits) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  expect_within_bound({.m = 33, .n = 128, .k = 256, .a = DType::kBF16});
  expect_within_bound({.m = 70, .n = 100, .k = 528, .a = DType::kF16, .c = DType::kBF16});
  expect_within_bound({.m = 70, .n = 512, .k = 4096, .a = DType::kBF16, .c = DType::kBF16});
  expect_within_bound({.m = 19,
                       .n = 264,
                       .k = 1040,
                       .a = DType::kBF16,
                       .c = DType::kBF16,
                       .more_a = 8,
                       .more_c = 8});
  expect_within_bound({.m = 19, .n = 264, .k = 1040, .a = DType::kF16, .more_a = 3});  // copied
  expect_within_bound(
      {.m = 150, .n = 300, .k = 1056, .format = Format::kMxfp4, .a = DType::kBF16, .bias = true});
}
// Few rows: the stream kernel.
TEST(GemmCudaTensorCore, SixteenBitsFewRows) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const DType a : {DType::kBF16, DType::kF16}) {
      expect_within_bound({.m = 1, .n = 300, .k = 4096, .format = format, .a = a, .bias = true});
      expect_within_bound({.m = 1, .n = 40, .k = 32, .format = format, .a = a});
      expect_within_bound({.m = 5, .n = 4400, .k = 1056, .format = format, .a = a});
      expect_within_bound(
          {.m = 8, .n = 270, .k = 8224, .format = format, .a = a, .c = DType::kBF16});
      expect_within_bound(
          {.m = 7, .n = 100, .k = 544, .format = format, .a = a, .more_a = 3, .more_c = 2});
      expect_within_bound({.m = 3, .n = 64, .k = 28672, .format = format, .a = a, .more_a = 8});
    }
  }
}
// A row of C depends on its row of A alone.
TEST(GemmCudaTensorCore, SixteenBitsRowsAlone) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const std::int64_t m : {2, 5, 8}) {
      const Case of{.m = m, .n = 1100, .k = 2080, .format = format, .a = DType::kBF16};
      const Operands operands(of);
      const std::vector<std::uint8_t> all = on_gpu(of, operands);
      ASSERT_FALSE(all.empty());
      for (const std::int64_t row : {std::int64_t{0}, m / 2, m - 1}) {
        Case alone = of;
        alone.m = 1;
        Operands one = operands;
        one.x.assign(operands.x.begin() + row * of.k, operands.x.begin() + (row + 1) * of.k);
        const auto begin = all.begin() + row * of.n * 4;
        EXPECT_EQ(on_gpu(alone, one), std::vector<std::uint8_t>(begin, begin + of.n * 4));
      }
    }
  }
}
// More tiles than multiprocessors: blocks that take several.
TEST(GemmCudaTensorCore, ManyTiles) {
  if (!has_sm_90()) GTEST_SKIP() << "no sm_90 device";
  expect_within_bound({.m = 1100, .n = 4096, .k = 144, .a = DType::kBF16, .c = DType::kBF16});
  expect_within_bound({.m = 700, .n = 8200, .k = 160, .c = DType::kBF16, .per_row = true});
}

}  // namespace
}  // namespace halfbyte::ops
#endif
