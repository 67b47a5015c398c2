#include "halfbyte/ops/gemm/gemm_cuda_bounded_testing.h"

#ifdef HALFBYTE_WITH_CUDA
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.h"

namespace halfbyte::ops::testing {

using base::Device;
using base::DType;

namespace {

constexpr Device kGpu{base::DeviceType::kCuda, 0};

template <class T>
TensorView vector_view(const std::vector<T>& of, const void* at, DType dtype, Device device) {
  return TensorView(const_cast<void*>(at), dtype, {static_cast<std::int64_t>(of.size())}, device);
}

struct Memory {
  const void *a, *a_scales, *prepared, *x, *a_scale, *b_scale, *bias, *offsets, *scale_offsets;
};

GemmArgs args_of(const BoundedCase& of, const BoundedOperands& v, const Memory& at, void* c,
                 DType c_dtype, std::int64_t more_c, Device device) {
  const auto rows = [&](const void* data, DType dtype, std::int64_t columns, std::int64_t more) {
    TensorView tensor(const_cast<void*>(data), dtype, {of.m, columns}, device);
    tensor.strides[0] = columns + more;
    return tensor;
  };
  GemmArgs args;
  const bool nvfp4 = of.format == Format::kNvfp4;
  if (of.quantized()) {
    args.a_packed.format = of.format;
    args.a_packed.rows = of.m;
    args.a_packed.columns = of.k;
    args.a_packed.layout = of.layout;
    args.a_packed.codes = rows(at.a, DType::kU8, of.k / 2, of.more_a / 2);
    args.a_packed.scales = vector_view(v.a_scales, at.a_scales, DType::kU8, device);
    if (nvfp4) {
      args.a_packed.scale = vector_view(v.a_scale, at.a_scale, DType::kF32, device);
      args.a_packed.scale_kind = of.encode_per_group ? ScaleKind::kEncode : ScaleKind::kDecode;
    }
  } else {
    args.a = rows(at.x, of.a, of.k, of.more_a);
  }
  args.b.format = of.format;
  args.b.form = WeightForm::kPrepared;
  args.b.rows = of.n;
  args.b.columns = of.k;
  args.b.prepared = vector_view(v.prepared, at.prepared, DType::kU8, device);
  if (nvfp4) {
    args.b.scale = of.groups() == 0
                       ? TensorView(const_cast<float*>(v.b_scale.data()), DType::kF32, {1})
                       : vector_view(v.b_scale, at.b_scale, DType::kF32, device);
    args.b.scale_kind = ScaleKind::kDecode;
  }
  if (of.bias) args.bias = vector_view(v.bias, at.bias, DType::kF32, device);
  if (of.groups() > 0) {
    args.groups.count = of.groups();
    args.groups.row_offsets = vector_view(v.offsets, at.offsets, DType::kI32, device);
    if (of.quantized())
      args.groups.scale_row_offsets =
          vector_view(v.scale_offsets, at.scale_offsets, DType::kI32, device);
  }
  args.c = rows(c, c_dtype, of.n, more_c);
  return args;
}

float element_of(DType dtype, const std::vector<std::uint8_t>& c, std::size_t index) {
  if (dtype == DType::kF32) {
    float v = 0;
    std::memcpy(&v, c.data() + index * 4, 4);
    return v;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, c.data() + index * 2, 2);
  return dtype == DType::kBF16 ? numerics::to_float(numerics::Bf16{bits})
                               : numerics::to_float(numerics::Fp16{bits});
}

}  // namespace

std::vector<std::int32_t> BoundedCase::scale_offsets() const {
  std::vector<std::int32_t> starts;
  const std::int64_t unit = formats::padded_scale_rows(layout, 1);
  std::int64_t next = 0;
  for (std::size_t e = 0; e < offsets.size(); ++e) {
    starts.push_back(static_cast<std::int32_t>(next));
    if (e + 1 < offsets.size())
      next = formats::round_up_to(next + offsets[e + 1] - offsets[e], unit);
  }
  return starts;
}

std::string BoundedCase::text() const {
  std::string text = std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
                     (format == Format::kMxfp4 ? " mxfp4" : " nvfp4") + " a " +
                     std::to_string(static_cast<int>(a)) + " c " +
                     std::to_string(static_cast<int>(c)) + " plan " + std::to_string(tokens) +
                     " by " + std::to_string(warps) + "/" + std::to_string(split) +
                     (shares ? " shared" : "");
  for (const std::int32_t offset : offsets) {
    text += ' ';
    text += std::to_string(offset);
  }
  return text;
}

BoundedOperands::BoundedOperands(const BoundedCase& of)
    : offsets(of.offsets), scale_offsets(of.scale_offsets()) {
  std::uint32_t state = 12345;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
  const auto fill = [&](std::vector<std::uint8_t>& to, std::int64_t count, std::uint32_t first,
                        std::uint32_t values) {
    to.resize(static_cast<std::size_t>(count));
    for (std::uint8_t& v : to) v = static_cast<std::uint8_t>(first + next() % values);
  };
  const bool nvfp4 = of.format == Format::kNvfp4;
  const std::uint32_t first = nvfp4 ? 0 : 118, values = nvfp4 ? 127 : 16;  // scales
  const std::int64_t blocks = of.k / of.block(), matrices = of.matrices();
  // A group's rows may come to lie in other groups: as many rows of scales as all could need.
  const std::int64_t unit = formats::padded_scale_rows(of.layout, 1);
  const std::int64_t scale_rows =
      of.groups() == 0 ? of.m : formats::round_up_to(of.m, unit) + of.groups() * unit;
  fill(a, of.m * (of.k + of.more_a) / 2, 0, 256);
  fill(a_scales, formats::scale_bytes(of.layout, scale_rows, blocks), first, values);
  fill(b, matrices * of.n * of.k / 2, 0, 256);
  fill(b_scales, matrices * of.n * blocks, first, values);
  const std::uint32_t one = of.a == DType::kF16 ? 0x3000 : 0x3E00;
  for (std::int64_t i = 0; i < of.m * (of.k + of.more_a); ++i) {
    x.push_back(static_cast<std::uint16_t>(one + next() % 512 + (next() & 1) * 0x8000));
  }
  const std::int64_t a_count = of.encode_per_group ? of.groups() : of.per_row ? of.m : 1;
  for (std::int64_t i = 0; i < a_count; ++i) {
    a_scale.push_back(0.5f + static_cast<float>(next() % 100) / 64);
  }
  for (std::int64_t i = 0; i < matrices; ++i) {
    // fp16 ends at 65504.
    b_scale.push_back((0.37f + static_cast<float>(i % 5) / 4) *
                      (of.c == DType::kF16 ? 1.0f / 8192 : 1.0f));
  }
  for (std::int64_t i = 0; i < matrices * of.n; ++i)
    bias.push_back(static_cast<float>(next() % 999) - 500);
  prepare(of);
}

void BoundedOperands::prepare(const BoundedCase& of) {
  const std::int64_t bytes = prepared_weight_bytes(of.format, of.n, of.k);
  prepared.resize(static_cast<std::size_t>(of.matrices() * bytes));
  const std::int64_t codes = of.n * of.k / 2, scales = of.n * of.k / of.block();
  for (std::int64_t e = 0; e < of.matrices(); ++e) {
    PrepareWeightsArgs args;
    args.plain.format = of.format;
    args.plain.rows = of.n;
    args.plain.columns = of.k;
    args.plain.codes = TensorView(b.data() + e * codes, DType::kU8, {of.n, of.k / 2});
    args.plain.scales = TensorView(b_scales.data() + e * scales, DType::kU8, {scales});
    std::vector<std::uint8_t> one(static_cast<std::size_t>(bytes));
    args.prepared = TensorView(one.data(), DType::kU8, {bytes});
    ASSERT_TRUE(prepare_weights(args).ok());
    std::copy(one.begin(), one.end(), prepared.begin() + e * bytes);
  }
}

void BoundedOperands::drop_signs(const BoundedCase& of) {
  for (std::vector<std::uint8_t>* codes : {&a, &b}) {
    for (std::uint8_t& v : *codes) v &= 0x77;
  }
  for (std::uint16_t& v : x) v &= 0x7FFF;
  for (float& v : bias) v = std::fabs(v);
  prepare(of);
}

std::vector<float> product_on_cpu(const BoundedCase& of, const BoundedOperands& v) {
  std::vector<float> c(static_cast<std::size_t>(of.m * of.n));
  const Memory at{v.a.data(),    v.a_scales.data(), v.prepared.data(),
                  v.x.data(),    v.a_scale.data(),  v.b_scale.data(),
                  v.bias.data(), v.offsets.data(),  v.scale_offsets.data()};
  const base::Status status = gemm(args_of(of, v, at, c.data(), DType::kF32, 0, {}));
  EXPECT_TRUE(status.ok()) << status.message();
  return c;
}

void* BoundedProduct::upload(std::size_t bytes, const void* from) {
  void* to = nullptr;
  EXPECT_EQ(cudaMalloc(&to, bytes + 256), cudaSuccess);
  if (from != nullptr) {
    EXPECT_EQ(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
  }
  memory_.push_back(to);
  return to;
}

BoundedProduct::BoundedProduct(const BoundedCase& of, const BoundedOperands& v) : of_(of) {
  const auto copy = [&](const auto& of_host) {
    return upload(of_host.size() * sizeof(of_host[0]), of_host.data());
  };
  offsets_ = copy(v.offsets), scale_offsets_ = copy(v.scale_offsets);
  const Memory at{copy(v.a),    copy(v.a_scales), copy(v.prepared),
                  copy(v.x),    copy(v.a_scale),  copy(v.b_scale),
                  copy(v.bias), offsets_,         scale_offsets_};
  c_bytes_ = static_cast<std::size_t>(of.m * (of.n + of.more_c)) * (of.c == DType::kF32 ? 4 : 2);
  c_ = upload(c_bytes_, nullptr);
  args_ = args_of(of, v, at, c_, of.c, of.more_c, kGpu);
  args_.method = of.method;
  if (of.tokens != 0) {
    OverlapCheck overlap;
    const base::Result<GemmProblem> problem = resolve_gemm(args_, GemmCheck::kCall, overlap);
    const base::Result<GemmDevice> device = cuda::gemm_device(kGpu);
    EXPECT_TRUE(problem.ok() && device.ok());
    if (!problem.ok() || !device.ok()) return;
    problem_ = problem.value();
    plan_ = plan_tensor_core(problem_, device.value(), {of.tokens, of.warps}, of.split, of.shares);
    EXPECT_EQ(plan_.tokens, of.tokens);
    workspace_bytes_ = cuda::tensor_core_workspace_bytes(problem_, plan_);
  } else {
    const base::Result<std::size_t> bytes = gemm_workspace_bytes(args_);
    EXPECT_TRUE(bytes.ok()) << bytes.status().message();
    if (!bytes.ok()) return;
    workspace_bytes_ = bytes.value();
  }
  workspace_ = upload(workspace_bytes_, nullptr);
  poison();
}
BoundedProduct::~BoundedProduct() {
  for (void* memory : memory_) (void)cudaFree(memory);
}

void BoundedProduct::poison() {
  EXPECT_EQ(cudaMemset(c_, 0xFF, c_bytes_), cudaSuccess);
  EXPECT_EQ(cudaMemset(workspace_, 0xFF, workspace_bytes_), cudaSuccess);
}

void BoundedProduct::set_offsets(const std::vector<std::int32_t>& offsets,
                                 const std::vector<std::int32_t>& scale_offsets) {
  const std::size_t bytes = offsets.size() * 4;
  EXPECT_EQ(cudaMemcpy(offsets_, offsets.data(), bytes, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(scale_offsets_, scale_offsets.data(), bytes, cudaMemcpyHostToDevice),
            cudaSuccess);
}

base::Status BoundedProduct::launch(void* stream) {
  if (plan_.tokens != 0) return cuda::launch_tensor_core(problem_, plan_, stream, workspace_);
  base::Execution execution;
  execution.workspace = workspace_;
  execution.workspace_bytes = workspace_bytes_;
  execution.stream = stream;
  return gemm(args_, execution);
}

std::vector<std::uint8_t> BoundedProduct::result() {
  std::vector<std::uint8_t> c(c_bytes_);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(c.data(), c_, c_bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
  return c;
}

void expect_within_bound(const BoundedCase& of, BoundedOperands& operands,
                         const std::vector<std::uint8_t>& got) {
  const std::vector<float> exact = product_on_cpu(of, operands);
  operands.drop_signs(of);
  const std::vector<float> magnitude = product_on_cpu(of, operands);
  // Exact products, K additions in fp32 that may truncate (2^-23 of the sum of magnitudes each)
  // here, K roundings there, the scales and the bias in another order; then C's own rounding.
  const double unit = std::ldexp(1.5 * static_cast<double>(of.k) + 4, -23);
  const double last = of.c == DType::kBF16  ? std::ldexp(1.0, -8)
                      : of.c == DType::kF16 ? std::ldexp(1.0, -11)
                                            : 0.0;
  const double least =
      of.c == DType::kF16 ? std::ldexp(1.0, -25) : 1e-30;  // below the normal range
  const std::size_t size = of.c == DType::kF32 ? 4 : 2;
  for (std::int64_t row = 0; row < of.m; ++row) {
    const bool alone = of.groups() > 0 && (row < of.offsets.front() || row >= of.offsets.back());
    for (std::int64_t column = 0; column < of.n + of.more_c; ++column) {
      const auto at = static_cast<std::size_t>(row * (of.n + of.more_c) + column);
      if (column >= of.n || alone) {
        const int expected = column >= of.n ? 0xFF : 0;
        for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(got[at * size + i], expected);
        continue;
      }
      const auto i = static_cast<std::size_t>(row * of.n + column);
      const double v = element_of(of.c, got, at), error = std::fabs(v - exact[i]);
      ASSERT_LE(error,
                unit * magnitude[i] + last * (std::fabs(exact[i]) + unit * magnitude[i]) + least)
          << "row " << row << ", column " << column << ": " << v << " for " << exact[i];
    }
  }
}

void expect_within_bound(const BoundedCase& of) {
  SCOPED_TRACE(of.text());
  BoundedOperands operands(of);
  std::vector<std::uint8_t> results[2];
  {
    BoundedProduct product(of, operands);
    if (!product.ok()) return;
    for (std::vector<std::uint8_t>& result : results) {
      product.poison();
      const base::Status status = product.launch();
      ASSERT_TRUE(status.ok()) << status.message();
      result = product.result();
    }
  }
  EXPECT_EQ(results[0], results[1]);
  expect_within_bound(of, operands, results[0]);
}

bool has_sm_90() {
  const auto devices = base::cuda_devices();
  if (!devices.ok() || devices.value().empty()) return false;
  cudaDeviceProp properties{};
  return cudaGetDeviceProperties(&properties, 0) == cudaSuccess && properties.major == 9;
}

}  // namespace halfbyte::ops::testing
#endif
