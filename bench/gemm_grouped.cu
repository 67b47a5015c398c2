// Times gemm's grouped products (mixture of experts) on CUDA: the experts of Qwen3-30B-A3B, 128 of
// them, 8 a token at random, by the stream kernel and by method tensor_core, beside a floor (the
// bytes of the experts that have rows, of A and of C) and one bf16 cuBLASLt product an expert, all
// in one graph. Prints a JSON row a product and number of tokens, and, after `tiles`, every height
// of the tiles of tensor_core. Build, from the root, after a CUDA build in build/:
//   nvcc -std=c++20 -O3 --fmad=false -gencode=arch=compute_90a,code=sm_90a -DHALFBYTE_WITH_CUDA=1
//     '-DHALFBYTE_CUDA_ARCHS="90a"' -I. -Ibuild/include -o gemm_grouped bench/gemm_grouped.cu
//     halfbyte/ops/gemm/gemm_cuda_tensor_core*.cu halfbyte/ops/gemm/gemm_cuda_stream*.cu
//     halfbyte/ops/gemm/gemm_cuda_lt.cu halfbyte/ops/gemm/gemm_*_plan.cpp
//     halfbyte/ops/gemm/gemm_plan.cpp -ldl
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bench/gemm_timing.cuh"
#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.h"

using namespace halfbyte;
using namespace halfbyte::ops;

namespace {

constexpr std::int64_t kExperts = 128, kTop = 8;
constexpr int kRoutings = 16, kCopies = 4;  // launch i: routing i, copy i of the weights
const GemmDevice kDevice{90, 132, 227 * 1024, ""};

enum class Fill { kUnits, kMxfp4Units, kBytes, kE4m3, kE8m0, kBf16 };
__global__ void fill(std::uint32_t* to, std::int64_t words, std::uint32_t seed, Fill what) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  const bool mxfp4 = what == Fill::kMxfp4Units;
  const int unit = unit_bytes(mxfp4 ? Format::kMxfp4 : Format::kNvfp4) / 4;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < words; i += step) {
    const std::uint32_t r = hash(static_cast<std::uint32_t>(i) * 2654435761u + seed);
    std::uint32_t v = r;
    if (what == Fill::kE4m3) v = 0x28282828u + (r & 0x1F1F1F1Fu);
    if (what == Fill::kE8m0) v = 0x78787878u + (r & 0x07070707u);
    if (what == Fill::kBf16) v = (r & 0x81FF81FFu) + 0x3E003E00u;
    if ((what == Fill::kUnits || mxfp4) && i % unit >= kUnitCodeBytes / 4) {
      v = mxfp4 ? 0x78787878u + (r & 0x07070707u) : 0xA0A0A0A0u + (r & 0x1F1F1F1Fu);
      if (!mxfp4) v = __funnelshift_l(v, v, 7);
    }
    to[i] = v;
  }
}
__global__ void floor_kernel(const uint4* from, std::int64_t reads, uint4* to,
                             std::int64_t writes) {
  uint4 acc = make_uint4(0, 0, 0, 0);
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t first = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  std::int64_t i = first;
  for (; i + 3 * step < reads; i += 4 * step) {
    const uint4 a = __ldg(from + i), b = __ldg(from + i + step), c = __ldg(from + i + 2 * step),
                d = __ldg(from + i + 3 * step);
    acc.x ^= a.x ^ b.x ^ c.x ^ d.x, acc.y ^= a.y ^ b.y ^ c.y ^ d.y;
    acc.z ^= a.z ^ b.z ^ c.z ^ d.z, acc.w ^= a.w ^ b.w ^ c.w ^ d.w;
  }
  for (; i < reads; i += step) {
    const uint4 a = __ldg(from + i);
    acc.x ^= a.x, acc.y ^= a.y, acc.z ^= a.z, acc.w ^= a.w;
  }
  for (i = first; i < writes; i += step)
    asm volatile("st.global.cs.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to + i), "r"(acc.x), "r"(acc.y),
                 "r"(acc.z), "r"(acc.w)
                 : "memory");
}

struct Buffer {
  std::uint8_t* data = nullptr;
  explicit Buffer(std::int64_t bytes) {
    CHECK(cudaMalloc(&data, static_cast<std::size_t>(bytes) + 4096));
  }
  Buffer(std::int64_t bytes, Fill what, std::uint32_t seed) : Buffer(bytes) {
    fill<<<2048, 256>>>(reinterpret_cast<std::uint32_t*>(data), bytes / 4, seed, what);
    CHECK(cudaDeviceSynchronize());
  }
  template <class T>
  explicit Buffer(const std::vector<T>& from)
      : Buffer(static_cast<std::int64_t>(from.size() * sizeof(T))) {
    CHECK(cudaMemcpy(data, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data);
  }
};

// Where each expert's rows begin, for random tokens; bench/torch_grouped.py draws the same.
struct Routing {
  std::vector<std::int32_t> offsets{0}, scale_offsets{0};  // scales padded to 128 rows an expert
  std::int64_t active = 0;

  Routing(std::int64_t tokens, std::uint32_t seed) {
    std::uint32_t state = seed;
    std::array<std::int32_t, kExperts> rows{};
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::array<bool, kExperts> taken{};
      for (std::int64_t i = 0; i < kTop;) {
        state = state * 1664525u + 1013904223u;
        const std::size_t e = (state >> 16) % kExperts;
        if (taken[e]) continue;
        taken[e] = true, ++rows[e], ++i;
      }
    }
    for (const std::int32_t count : rows) {
      active += count > 0 ? 1 : 0;
      offsets.push_back(offsets.back() + count);
      scale_offsets.push_back(scale_offsets.back() + (count + 127) / 128 * 128);
    }
  }
};

struct Kind {
  const char* name;
  Format format;
  bool quantized;
};

void bench(std::int64_t n, std::int64_t k, std::int64_t tokens, bool all_tiles) {
  const std::int64_t m = tokens * kTop;
  const int routings = tokens > 1000 ? 2 : kRoutings;
  // Of one graph, about 5 ms.
  const double guess =
      std::max(20.0, static_cast<double>(2 * m * n) * static_cast<double>(k) / 4e8);
  const int launches = std::clamp(static_cast<int>(5000 / guess), 2, 20);
  std::vector<Routing> routes;
  std::vector<std::int32_t> offsets, scale_offsets;
  double active = 0;
  for (int i = 0; i < routings; ++i) {
    routes.emplace_back(tokens, static_cast<std::uint32_t>(12345 + i));
    const Routing& route = routes.back();
    offsets.insert(offsets.end(), route.offsets.begin(), route.offsets.end());
    scale_offsets.insert(scale_offsets.end(), route.scale_offsets.begin(),
                         route.scale_offsets.end());
    active += static_cast<double>(route.active) / routings;
  }
  const Buffer row_starts(offsets), scale_starts(scale_offsets);
  const std::int64_t scale_rows = m + 128 * kExperts;
  const Buffer codes(m * k / 2, Fill::kBytes, 5), x(m * k * 2, Fill::kBf16, 7), c(m * n * 2);
  const Buffer scales(std::vector<float>(kExperts, 1.0f));
  GemmProblem largest;
  largest.m = m, largest.k = k;
  const TensorCorePlan shared{
      .tokens = 128, .warps = kTensorCoreMaxWarps, .blocks = 132, .shares = true};
  const Buffer workspace(
      static_cast<std::int64_t>(cuda::tensor_core_workspace_bytes(largest, shared)));
  std::printf("{\"n\": %ld, \"k\": %ld, \"tokens\": %ld, \"rows\": %ld, \"active\": %.1f", n, k,
              tokens, m, active);
  for (const Kind& kind :
       {Kind{"w4a4_nvfp4", Format::kNvfp4, true}, Kind{"w4a16_bf16_nvfp4", Format::kNvfp4, false},
        Kind{"w4a4_mxfp4", Format::kMxfp4, true}}) {
    const bool nvfp4 = kind.format == Format::kNvfp4, first = nvfp4 && kind.quantized;
    const std::int64_t one = prepared_weight_bytes(kind.format, n, k), bytes = one * kExperts;
    const Buffer weights(bytes * kCopies, nvfp4 ? Fill::kUnits : Fill::kMxfp4Units, 3);
    const Buffer a_scales(scale_rows * k / 16, nvfp4 ? Fill::kE4m3 : Fill::kE8m0, 6);
    GemmProblem p;
    p.format = kind.format, p.quantized = kind.quantized, p.form = WeightForm::kPrepared;
    p.m = m, p.n = n, p.k = k, p.groups = kExperts;
    if (nvfp4) p.b_scale = {scales.as<float>(), 1, 1.0f, ScaleKind::kDecode};
    if (p.quantized) {
      p.a_codes = codes.data, p.a_rows = {m, m, k / 2, 0};
      p.a_scales = a_scales.data, p.a_scale_rows = scale_rows, p.a_layout = ScaleLayout::k128x4;
      if (nvfp4) p.a_scale = {scales.as<float>(), 1, 1.0f, ScaleKind::kEncode};
      p.a_scale_per_group = true;
    } else {
      p.x = x.data, p.x_rows = {m, m, k, 0};
    }
    p.b_prepared_stride = one;
    p.c = c.data, p.c_dtype = base::DType::kBF16, p.c_rows = {m, m, n, 0};
    const auto rotate = [&](int i) {
      p.b_prepared = weights.data + bytes * (i % kCopies);
      p.row_offsets = row_starts.as<std::int32_t>() + i % routings * (kExperts + 1);
      p.scale_row_offsets =
          p.quantized ? scale_starts.as<std::int32_t>() + i % routings * (kExperts + 1) : nullptr;
    };
    if (first) {
      const auto from =
          static_cast<std::int64_t>(active * static_cast<double>(one)) + m * k / 2 + m * k / 16;
      const std::int64_t places = std::max<std::int64_t>(1, bytes * kCopies / from);
      double best = 1e9;
      for (const int waves : {1, 2, 4, 8}) {
        for (const int threads : {256, 512}) {
          best = std::min(best, time_graph(
                                    [&](int i, cudaStream_t stream) {
                                      floor_kernel<<<132 * waves, threads, 0, stream>>>(
                                          reinterpret_cast<const uint4*>(
                                              weights.data + i % places * from / 256 * 256),
                                          std::min(from, bytes * kCopies) / 16,
                                          reinterpret_cast<uint4*>(c.data), m * n / 8);
                                    },
                                    launches));
        }
      }
      std::printf(", \"floor_us\": %.2f", best);
    }
    base::Execution execution;
    const StreamPlan stream_plan = plan_stream(p, kDevice);
    const auto time_stream = [&](bool programmatic) {
      execution.programmatic_launch = programmatic;
      return time_graph(
          [&](int i, cudaStream_t stream) {
            rotate(i);
            execution.stream = stream;
            check(cuda::launch_stream(p, stream_plan, execution, 0));
          },
          tokens <= 64 ? launches : std::max(2, launches / 8));
    };
    const double stream_us = time_stream(false), programmatic_us = time_stream(true);
    const auto time_plan = [&](const TensorCorePlan& plan) {
      return time_graph(
          [&](int i, cudaStream_t stream) {
            rotate(i);
            check(cuda::launch_tensor_core(p, plan, stream, workspace.data));
          },
          launches);
    };
    const TensorCorePlan plan = plan_tensor_core(p, kDevice);
    const double us = time_plan(plan);
    std::printf(
        ", \"%s\": {\"stream_us\": %.2f, \"programmatic_stream_us\": %.2f, \"us\": %.2f, "
        "\"tflops\": %.0f, \"plan\": \"%d/%d%s\"",
        kind.name, stream_us, programmatic_us, us,
        2e-6 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / us,
        plan.tokens, plan.split, plan.shares ? "s" : "");
    if (first && all_tiles) {
      std::printf(", \"tiles\": {");
      const char* comma = "";
      for (const int split : {0, 1, 2, 3}) {  // 0: shared tiles
        for (const int tokens_of : {16, 32, 64, 96, 128}) {
          const TensorCorePlan other = plan_tensor_core(
              p, kDevice, {tokens_of, kTensorCoreMaxWarps}, std::max(split, 1), split == 0);
          if (other.tokens == 0 || other.split != std::max(split, 1)) continue;
          if (split > 1 && other.tiles_m * other.tiles_n > tensor_core_clusters(kDevice, split))
            continue;
          std::printf("%s\"%d/%d%s\": %.2f", comma, tokens_of, other.split, split == 0 ? "s" : "",
                      time_plan(other));
          comma = ", ";
        }
      }
      std::printf("}");
    }
    std::printf("}");
  }
  {
    const std::int64_t one = n * k * 2;
    const Buffer weights(one * kExperts, Fill::kBf16, 9), lt(cublaslt::kWorkspaceBytes);
    const Buffer alpha(std::vector<float>{1.0f, 0.0f});
    cublaslt::Matmul product;
    product.n = n, product.k = k, product.stride = n;
    product.alpha = alpha.as<float>(), product.workspace = lt.data;
    const double us = time_graph(
        [&](int i, cudaStream_t stream) {
          const Routing& route = routes[static_cast<std::size_t>(i % routings)];
          for (std::size_t e = 0; e < kExperts; ++e) {
            product.m = route.offsets[e + 1] - route.offsets[e];
            if (product.m == 0) continue;
            product.a = x.data + route.offsets[e] * k * 2;
            product.d = c.data + route.offsets[e] * n * 2;
            product.b = weights.data + static_cast<std::int64_t>(e) * one;
            check(cublaslt::matmul(product, stream));
          }
        },
        std::max(2, launches / 8));
    std::printf(", \"bf16_cublaslt_each_us\": %.2f},\n", us);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<std::int64_t> tokens;
  bool all_tiles = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "tiles") == 0) {
      all_tiles = true;
    } else {
      tokens.push_back(std::atol(argv[i]));
    }
  }
  if (tokens.empty()) tokens = {1, 16, 64, 256, 1024, 4096, 16384};
  std::printf("[\n");
  for (const std::int64_t of : tokens) {
    bench(1536, 2048, of, all_tiles);
    bench(2048, 768, of, all_tiles);
  }
  std::printf("{}]\n");
}
