// Times the CUDA products beside the read-only floor, and bf16 cuBLASLt; prints JSON rows.
//
//   gemm_cuda decode FORMAT A M..   rows of A at decode sizes; FORMAT nvfp4 | mxfp4, A w4a4 | w4a16
//
//   gemm_cuda plans M..             every plan of the stream kernel, NVFP4 W4A4
//
//   gemm_cuda layer                 a layer's four products, M = 1, chained in one graph
//
//   gemm_cuda gate_up               the gate-up product with its activation and quantization
//
//   gemm_cuda grouped               mixture of experts: 128 experts, 8 of them a token
//
//   gemm_cuda large                 dequantize and cuBLASLt
//
// Each replay's graph has 20 launches that rotate over copies of the weights which exceed three
// times the L2; median of 9 replays after 3. Build, from the root, after a CUDA build in build/:
//   nvcc -std=c++20 -O3 --fmad=false -gencode=arch=compute_90a,code=sm_90a -DHALFBYTE_WITH_CUDA=1
//     '-DHALFBYTE_CUDA_ARCHS="90a"' -I. -Ibuild/include -o gemm_cuda bench/gemm_cuda.cu
//     $(ls halfbyte/ops/gemm/gemm_cuda_[!p]*.cu) halfbyte/ops/gemm/gemm_*_plan.cpp
//     halfbyte/ops/gemm/gemm_plan.cpp -ldl
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/gemm_timing.cuh"
#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"

using namespace halfbyte;
using namespace halfbyte::ops;

namespace {

constexpr std::int64_t kCacheBytes = 60 << 20;
constexpr int kLaunches = 20;
const GemmDevice kDevice{90, 132, 227 * 1024, ""};
const std::vector<std::pair<std::int64_t, std::int64_t>> kShapes = {
    {28672, 4096}, {4096, 14336}, {6144, 4096},  {4096, 4096},
    {57344, 8192}, {8192, 28672}, {10240, 8192}, {8192, 8192}};

// Units of prepared weights with ordinary scales.
__global__ void fill_units(std::uint8_t* units, std::int64_t words, int unit_words, bool nvfp4,
                           std::uint32_t seed) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < words; i += step) {
    const std::uint32_t r = hash(static_cast<std::uint32_t>(i) * 2654435761u + seed);
    std::uint32_t v = r;
    if (i % unit_words >= 256) {
      v = 0;
      for (int j = 0; j < 4; ++j)
        v |= (nvfp4 ? 0xA0 + (r >> 8 * j & 31) : 120 + (r >> 8 * j & 7)) << 8 * j;
      if (nvfp4) v = __funnelshift_l(v, v, 7);
    }
    reinterpret_cast<std::uint32_t*>(units)[i] = v;
  }
}
enum class Fill { kBytes, kE4m3, kE8m0, kBf16 };
__global__ void fill(std::uint8_t* to, std::int64_t bytes, std::uint32_t seed, Fill what) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < bytes; i += step) {
    const std::uint32_t r = hash(static_cast<std::uint32_t>(i) + seed);
    to[i] = static_cast<std::uint8_t>(what == Fill::kBytes  ? r
                                      : what == Fill::kE4m3 ? 0x28 + (r & 31)
                                      : what == Fill::kE8m0 ? 120 + (r & 7)
                                      : (i & 1) != 0        ? 0x3F + (r & 0x80)
                                                            : r);
  }
}
__global__ void floor_kernel(const uint4* w, std::int64_t n16, std::uint32_t* out) {
  std::uint32_t acc = 0;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  for (; i + 3 * step < n16; i += 4 * step) {
    const uint4 a = __ldg(w + i), b = __ldg(w + i + step), c = __ldg(w + i + 2 * step),
                d = __ldg(w + i + 3 * step);
    acc ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^
           d.w;
  }
  for (; i < n16; i += step) {
    const uint4 a = __ldg(w + i);
    acc ^= a.x ^ a.y ^ a.z ^ a.w;
  }
  if (acc == 0x12345678u) out[threadIdx.x] = acc;
}

struct Buffer {
  std::uint8_t* data = nullptr;
  explicit Buffer(std::int64_t bytes) { CHECK(cudaMalloc(&data, static_cast<std::size_t>(bytes))); }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

int copies_of(std::int64_t bytes) {
  return static_cast<int>(std::max<std::int64_t>(2, (3 * kCacheBytes + bytes - 1) / bytes));
}
double time_floor(const std::uint8_t* data, std::int64_t bytes, int copies) {
  Buffer out(8192);
  double best = 1e9;
  for (const int threads : {256, 512, 1024}) {
    for (const int waves : {1, 2, 3, 4, 8}) {
      if (waves * threads > 4096) continue;
      best = std::min(best, time_graph([&](int i, cudaStream_t stream) {
                        floor_kernel<<<132 * waves, threads, 0, stream>>>(
                            reinterpret_cast<const uint4*>(data + bytes * (i % copies)), bytes / 16,
                            reinterpret_cast<std::uint32_t*>(out.data));
                      }));
    }
  }
  return best;
}

// A product with random operands, its weights several times over.
struct Product {
  GemmProblem problem;
  std::int64_t bytes;  // of one copy of the weights
  int copies;
  Buffer weights, codes, scales, x, c, one;

  Product(Format format, bool quantized, std::int64_t m, std::int64_t n, std::int64_t k,
          std::int64_t groups = 0)
      : bytes(prepared_weight_bytes(format, n, k) * std::max<std::int64_t>(groups, 1)),
        copies(copies_of(bytes)),
        weights(bytes * copies),
        codes(m * k / 2),
        scales(m * k / 16),
        x(m * k * 2),
        c(m * n * 2),
        one(256) {
    const bool nvfp4 = format == Format::kNvfp4;
    fill_units<<<4096, 256>>>(weights.data, bytes * copies / 4, unit_bytes(format) / 4, nvfp4, 3);
    fill<<<1024, 256>>>(codes.data, m * k / 2, 5, Fill::kBytes);
    fill<<<1024, 256>>>(scales.data, m * k / 16, 6, nvfp4 ? Fill::kE4m3 : Fill::kE8m0);
    fill<<<1024, 256>>>(x.data, m * k * 2, 7, Fill::kBf16);
    const float f = 1.0f;
    CHECK(cudaMemcpy(one.data, &f, 4, cudaMemcpyHostToDevice));
    CHECK(cudaDeviceSynchronize());
    problem.format = format;
    problem.m = m, problem.n = n, problem.k = k;
    problem.quantized = quantized;
    if (quantized) {
      problem.a_codes = codes.data;
      problem.a_rows = {m, m, k / 2, 0};
      problem.a_scales = scales.data;
      problem.a_scale_rows = m;
    } else {
      problem.x = x.data;
      problem.x_rows = {m, m, k, 0};
    }
    if (nvfp4) {
      problem.b_scale.data = reinterpret_cast<const float*>(one.data);
      problem.b_scale.kind = ScaleKind::kDecode;
      if (quantized) problem.a_scale = problem.b_scale;
    }
    problem.form = WeightForm::kPrepared;
    problem.b_prepared_stride = prepared_weight_bytes(format, n, k);
    problem.c = c.data;
    problem.c_dtype = base::DType::kBF16;
    problem.c_rows = {m, m, n, 0};
  }
  void rotate(int i) { problem.b_prepared = weights.data + bytes * (i % copies); }
};

double time_decode(Product& product, bool programmatic, const StreamPlan& plan) {
  base::Execution execution;
  execution.programmatic_launch = execution.constant_weights = programmatic;
  return time_graph([&](int i, cudaStream_t stream) {
    product.rotate(i);
    execution.stream = stream;
    check(cuda::launch_stream(product.problem, plan, execution, 0));
  });
}

double time_decode(Product& product, bool programmatic = false) {
  return time_decode(product, programmatic, plan_stream(product.problem, kDevice));
}

void bench_decode(Format format, bool quantized, const std::vector<std::int64_t>& rows) {
  for (const auto& [n, k] : kShapes) {
    double floor = 0, first = 0;
    for (const std::int64_t m : rows) {
      Product product(format, quantized, m, n, k);
      if (floor == 0) floor = time_floor(product.weights.data, product.bytes, product.copies);
      const double us = time_decode(product), chained = time_decode(product, true);
      double decode = -1;
      if (format == Format::kNvfp4 && quantized) {
        const DecodePlan of = plan_decode(
            choose_decode_shape(static_cast<int>(std::min<std::int64_t>(m, kDecodeMaxTokens)), n, k,
                                kDevice),
            n, k, kDevice);
        decode = time_graph([&](int i, cudaStream_t stream) {
          product.rotate(i);
          check(cuda::launch_decode(product.problem, of, stream));
        });
      }
      if (first == 0) first = us;
      GemmPlan plan;
      plan.kind = GemmKernelKind::kStream;
      plan.stream = plan_stream(product.problem, kDevice);
      std::printf(
          "{\"format\": \"%s\", \"a\": \"%s\", \"n\": %ld, \"k\": %ld, \"m\": %ld, \"us\": %.2f, "
          "\"programmatic_us\": %.2f, \"decode_us\": %.2f, \"floor_us\": %.2f, \"share\": %.3f, "
          "\"of_first\": %.2f, "
          "\"plan\": \"%s\"},\n",
          format == Format::kNvfp4 ? "nvfp4" : "mxfp4", quantized ? "w4a4" : "w4a16", n, k, m, us,
          chained, decode, floor, floor / us, us / first, to_string(plan).c_str());
    }
  }
}

// Every plan of the stream kernel that fits.
void bench_plans(const std::vector<std::int64_t>& rows) {
  for (const auto& [n, k] : kShapes) {
    for (const std::int64_t m : rows) {
      Product product(Format::kNvfp4, true, m, n, k);
      std::vector<StreamPlan> plans;
      const StreamPlan chosen = plan_stream(product.problem, kDevice, true, &plans);
      for (const StreamPlan& plan : plans) {
        const bool is_chosen = plan.chunk_rows == chosen.chunk_rows &&
                               plan.rounds == chosen.rounds && plan.split == chosen.split &&
                               plan.stages == chosen.stages;
        std::printf(
            "{\"n\": %ld, \"k\": %ld, \"m\": %ld, \"chunk\": %d, \"rounds\": %d, \"split\": %d, "
            "\"stages\": %d, "
            "\"group_tiles\": %d, \"chosen\": %d, \"us\": %.2f},\n",
            n, k, m, plan.chunk_rows, plan.rounds, plan.split, plan.stages, plan.group_tiles,
            is_chosen, time_decode(product, false, plan));
      }
    }
  }
}

// The products of a layer, each reading what the one before wrote: chained by the stream alone.
void bench_layer() {
  for (int model = 0; model < 2; ++model) {
    std::vector<std::unique_ptr<Product>> products;
    double floors = 0;
    for (const int shape : {2, 3, 0, 1}) {
      const auto& [n, k] = kShapes[static_cast<std::size_t>(4 * model + shape)];
      products.push_back(std::make_unique<Product>(Format::kNvfp4, true, 1, n, k));
      floors += time_floor(products.back()->weights.data, products.back()->bytes,
                           products.back()->copies);
    }
    double us[2];
    for (int programmatic = 0; programmatic < 2; ++programmatic) {
      base::Execution execution;
      execution.programmatic_launch = execution.constant_weights = programmatic != 0;
      us[programmatic] =
          4 * time_graph(
                  [&](int i, cudaStream_t stream) {
                    Product& product = *products[static_cast<std::size_t>(i % 4)];
                    product.rotate(i / 4);
                    execution.stream = stream;
                    check(cuda::launch_stream(product.problem,
                                              plan_stream(product.problem, kDevice), execution, 0));
                  },
                  4 * kLaunches);
    }
    std::printf(
        "{\"layer\": \"%s\", \"us\": %.2f, \"programmatic_us\": %.2f, \"floors_us\": %.2f, "
        "\"ratio\": %.3f},\n",
        model == 0 ? "Llama-3.1-8B" : "Llama-3.3-70B", us[0], us[1], floors, us[1] / floors);
  }
}

// Qwen3-30B-A3B: gate and up, then down, 8 experts a token out of 128, all different.
void bench_grouped() {
  constexpr std::int64_t kExperts = 128, kTop = 8;
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{1536, 2048}, {2048, 768}}) {
    for (const std::int64_t tokens : {1, 2, 4, 16}) {
      const std::int64_t m = tokens * kTop;
      Product product(Format::kNvfp4, true, m, n, k, kExperts);
      std::vector<std::int32_t> offsets(kExperts + 1);
      for (std::int64_t e = 0; e <= kExperts; ++e) {
        offsets[static_cast<std::size_t>(e)] = static_cast<std::int32_t>(e * m / kExperts);
      }
      Buffer row_offsets((kExperts + 1) * 4);
      CHECK(
          cudaMemcpy(row_offsets.data, offsets.data(), offsets.size() * 4, cudaMemcpyHostToDevice));
      product.problem.groups = kExperts;
      product.problem.row_offsets = reinterpret_cast<const std::int32_t*>(row_offsets.data);
      product.problem.scale_row_offsets = product.problem.row_offsets;
      const std::int64_t active = std::min(m, kExperts);
      const std::int64_t bytes = product.bytes / kExperts * active;
      const double floor = time_floor(product.weights.data, bytes,
                                      static_cast<int>(product.bytes * product.copies / bytes));
      const double us = time_decode(product);
      std::printf(
          "{\"grouped\": %ld, \"tokens\": %ld, \"n\": %ld, \"k\": %ld, \"us\": %.2f, "
          "\"floor_us\": %.2f, \"share\": %.3f},\n",
          kExperts, tokens, n, k, us, floor, floor / us);
    }
  }
}

// The gate-up products of the two models: the product alone, and with SiLU * mul and quantization.
void bench_gate_up() {
  for (const std::size_t shape : {std::size_t{0}, std::size_t{4}}) {
    const auto& [n, k] = kShapes[shape];
    for (const std::int64_t m : {1, 4, 8}) {
      Product product(Format::kNvfp4, true, m, n, k);
      Buffer codes(m * n / 4), scales(m * n / 32);
      GateUpProblem problem;
      problem.target.rows = problem.target.scale_rows = m;
      problem.target.columns = n / 2;
      problem.target.codes = codes.data;
      problem.target.code_rows = {m, m, n / 4, 0};
      problem.target.scales[0].data = scales.data;
      problem.target.given_value = 16.0f;
      const StreamPlan plan = plan_gate_up_stream(product.problem, kDevice);
      if (plan.stages == 0) continue;
      base::Execution execution;
      const double fused = time_graph([&](int i, cudaStream_t stream) {
        product.rotate(i);
        problem.product = product.problem;
        execution.stream = stream;
        check(cuda::launch_gate_up_stream(problem, plan, execution, 0));
      });
      std::printf(
          "{\"gate_up\": %ld, \"k\": %ld, \"m\": %ld, \"us\": %.2f, \"product_us\": %.2f},\n", n, k,
          m, fused, time_decode(product));
    }
  }
}

void bench_large() {
  for (const auto& [n, k] : kShapes) {
    for (const std::int64_t m : {1, 16, 32, 64, 128, 256, 1024, 4096}) {
      Product product(Format::kNvfp4, true, m, n, k);
      Buffer workspace(
          static_cast<std::int64_t>(cuda::dequantize_workspace_bytes(product.problem)));
      Buffer weights(2 * n * k * 2), factors(8);
      fill<<<4096, 256>>>(weights.data, 2 * n * k * 2, 9, Fill::kBf16);
      const float alpha[2] = {1.0f, 0.0f};
      CHECK(cudaMemcpy(factors.data, alpha, 8, cudaMemcpyHostToDevice));
      cublaslt::Matmul product16;
      product16.m = m, product16.n = n, product16.k = k, product16.stride = n;
      product16.a = product.x.data, product16.d = product.c.data;
      product16.alpha = reinterpret_cast<const float*>(factors.data);
      product16.workspace = workspace.data;
      const double bf16 = time_graph([&](int i, cudaStream_t stream) {
        product16.b = weights.data + (i % 2) * n * k * 2;
        check(cublaslt::matmul(product16, stream));
      });
      double dequantize = -1;
      if (m >= 32) {
        dequantize = time_graph([&](int i, cudaStream_t stream) {
          product.rotate(i);
          check(cuda::launch_dequantize(product.problem, stream, workspace.data));
        });
      }
      const double exact = m <= 256 ? time_decode(product) : -1;
      std::printf(
          "{\"n\": %ld, \"k\": %ld, \"m\": %ld, \"exact_us\": %.2f, \"dequantize_us\": %.2f, "
          "\"bf16_cublaslt_us\": %.2f},\n",
          n, k, m, exact, dequantize, bf16);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string what = argc > 1 ? argv[1] : "";
  std::printf("[\n");
  if (what == "decode" && argc > 4) {
    std::vector<std::int64_t> rows;
    for (int i = 4; i < argc; ++i) rows.push_back(std::atol(argv[i]));
    bench_decode(std::strcmp(argv[2], "mxfp4") == 0 ? Format::kMxfp4 : Format::kNvfp4,
                 std::strcmp(argv[3], "w4a16") != 0, rows);
  } else if (what == "plans") {
    std::vector<std::int64_t> rows;
    for (int i = 2; i < argc; ++i) rows.push_back(std::atol(argv[i]));
    bench_plans(rows);
  } else if (what == "layer") {
    bench_layer();
  } else if (what == "gate_up") {
    bench_gate_up();
  } else if (what == "grouped") {
    bench_grouped();
  } else if (what == "large") {
    bench_large();
  } else {
    std::fprintf(
        stderr,
        "usage: gemm_cuda decode FORMAT A M.. | plans M.. | layer | gate_up | grouped | large\n");
    return 2;
  }
  std::printf("{}]\n");
}
