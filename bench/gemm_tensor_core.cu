// Times gemm's methods tensor_core, dequantize and fp8 on CUDA (prepared weights; W4A4 and W4A16,
// NVFP4 and MXFP4) beside cuBLASLt on bf16 and on FP8, with and without fast accumulation; prints a
// JSON row a product. Arguments: "fp8" leaves out what the table of method fp8 does not have,
// "plans" has every plan of tensor_core instead of the other methods (rows of A a tile / parts of
// K; s: shared tiles), "6144x4096": no other N x K; rows of A. Build, from the root, after a CUDA
// build in build/:
//   nvcc -std=c++20 -O3 --fmad=false -gencode=arch=compute_90a,code=sm_90a -DHALFBYTE_WITH_CUDA=1
//     '-DHALFBYTE_CUDA_ARCHS="90a"' -I. -Ibuild/include -o gemm_tensor_core
//     bench/gemm_tensor_core.cu halfbyte/ops/gemm/gemm_cuda_tensor_core*.cu
//     halfbyte/ops/gemm/gemm_tensor_core_plan.cpp halfbyte/ops/gemm/gemm_cuda_fp8*.cu
//     halfbyte/ops/gemm/gemm_cuda_{dequantize,finish,lt}.cu -ldl
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_fp8.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.h"
#include "halfbyte/ops/gemm/gemm_plan.h"
using namespace halfbyte;
using namespace halfbyte::ops;
#define CK(x)                                                                \
  do {                                                                       \
    cudaError_t e_ = (x);                                                    \
    if (e_ != cudaSuccess) {                                                 \
      printf("CUDA %s line %d: %s\n", #x, __LINE__, cudaGetErrorString(e_)); \
      exit(1);                                                               \
    }                                                                        \
  } while (0)
void must(const base::Status& s) {
  if (s.ok()) return;
  printf("%s\n", s.message().c_str());
  exit(1);
}
void* mem(std::size_t bytes) {
  void* p = nullptr;
  CK(cudaMalloc(&p, bytes + 4096));
  return p;
}
__device__ uint32_t hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352d;
  x ^= x >> 15;
  x *= 0x846ca68b;
  x ^= x >> 16;
  return x;
}
__global__ void fill_weights(uint8_t* w, int64_t units, int unit, bool mx) {
  const int words = unit / 4;
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < units * words;
       i += (int64_t)gridDim.x * blockDim.x) {
    uint32_t r = hash((uint32_t)i * 2654435761u + 3), v = r;
    if (i % words >= kUnitCodeBytes / 4) {
      v = 0;
      for (int j = 0; j < 4; ++j) {
        const uint32_t b = r >> (8 * j);
        v |= (mx ? 120 + (b & 15) : (uint32_t)prepared_scale((uint8_t)(96 + (b & 255) % 31)))
             << (8 * j);
      }
      if (!mx) v = __funnelshift_l(v, v, 7);
    }
    reinterpret_cast<uint32_t*>(w)[i] = v;
  }
}
enum Fill { kBytes, kE8m0, kE4m3, kBf16, kFp16 };
__global__ void fill(void* to, int64_t n, uint32_t seed, Fill kind) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x) {
    const uint32_t r = hash((uint32_t)i * 2654435761u + seed), sign = r >> 31;
    if (kind == kBytes) ((uint8_t*)to)[i] = r;
    if (kind == kE8m0) ((uint8_t*)to)[i] = 120 + (r & 15);
    if (kind == kE4m3) ((uint8_t*)to)[i] = 96 + r % 31;
    if (kind == kBf16) ((uint16_t*)to)[i] = sign << 15 | (0x3C00 + (r & 0x3FF));
    if (kind == kFp16) ((uint16_t*)to)[i] = sign << 15 | (0x3000 + (r & 0xFFF));
  }
}
using Launch = std::function<void(int, cudaStream_t)>;
// Microseconds of one launch of each; `guess`: about, of the longest. Their graphs take turns, in
// another order each time: what ran before changes the clock.
std::vector<double> time_graphs(const std::vector<Launch>& launches, double guess) {
  cudaStream_t s;
  CK(cudaStreamCreate(&s));
  const int n = guess > 500 ? std::max(2, (int)(10000 / guess)) : 20;
  std::vector<cudaGraphExec_t> graphs;
  for (const Launch& launch : launches) {
    cudaGraph_t g;
    CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < n; ++i) launch(i, s);
    CK(cudaStreamEndCapture(s, &g));
    graphs.emplace_back();
    CK(cudaGraphInstantiate(&graphs.back(), g, 0));
    CK(cudaGraphDestroy(g));
  }
  cudaEvent_t a, b;
  CK(cudaEventCreate(&a));
  CK(cudaEventCreate(&b));
  std::vector<std::vector<double>> times(graphs.size());
  std::vector<std::size_t> order(graphs.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(1);
  for (int r = 0; r < (guess > 500 ? 9 : 12); ++r) {
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t i : order) {
      CK(cudaEventRecord(a, s));
      CK(cudaGraphLaunch(graphs[i], s));
      CK(cudaEventRecord(b, s));
      CK(cudaEventSynchronize(b));
      float ms;
      CK(cudaEventElapsedTime(&ms, a, b));
      if (r >= 2) times[i].push_back(ms * 1000 / n);
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& t : times) {
    std::sort(t.begin(), t.end());
    medians.push_back(t[t.size() / 2]);
  }
  for (cudaGraphExec_t e : graphs) cudaGraphExecDestroy(e);
  cudaStreamDestroy(s), cudaEventDestroy(a), cudaEventDestroy(b);
  return medians;
}
double time_graph(const Launch& launch, double guess) { return time_graphs({launch}, guess)[0]; }
// cuBLASLt on E4M3, of `copies` weights; what it describes stays.
Launch fp8_product(int64_t m, int64_t n, int64_t k, const void* a, const uint8_t* b, int copies,
                   void* d, float* one, void* workspace, bool fast_sums) {
  static void* lib = dlopen("libcublasLt.so.13", RTLD_NOW);
#define LT(x) static const auto x##_ = (decltype(&x))dlsym(lib, #x)
  LT(cublasLtCreate);
  LT(cublasLtMatmul);
  LT(cublasLtMatmulAlgoGetHeuristic);
  LT(cublasLtMatmulDescCreate);
  LT(cublasLtMatmulDescSetAttribute);
  LT(cublasLtMatrixLayoutCreate);
  LT(cublasLtMatmulPreferenceCreate);
  LT(cublasLtMatmulPreferenceSetAttribute);
  static cublasLtHandle_t handle = nullptr;
  if (handle == nullptr) cublasLtCreate_(&handle);
  cublasLtMatmulDesc_t op;
  cublasLtMatrixLayout_t la, lb, ld;
  cublasLtMatmulPreference_t preference;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const int8_t fast = fast_sums ? 1 : 0;
  const size_t bytes = cublaslt::kWorkspaceBytes;
  cublasLtMatmulDescCreate_(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const auto set = [&](cublasLtMatmulDescAttributes_t what, const void* to, size_t size) {
    cublasLtMatmulDescSetAttribute_(op, what, to, size);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &one, sizeof one);
  set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &one, sizeof one);
  set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
  cublasLtMatrixLayoutCreate_(&la, CUDA_R_8F_E4M3, k, n, k);
  cublasLtMatrixLayoutCreate_(&lb, CUDA_R_8F_E4M3, k, m, k);
  cublasLtMatrixLayoutCreate_(&ld, CUDA_R_16BF, n, m, n);
  cublasLtMatmulPreferenceCreate_(&preference);
  cublasLtMatmulPreferenceSetAttribute_(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                        &bytes, sizeof bytes);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  cublasLtMatmulAlgoGetHeuristic_(handle, op, la, lb, ld, ld, preference, 1, &found, &count);
  if (count == 0) printf("no FP8 product\n"), exit(1);
  const cublasLtMatmulAlgo_t algo = found.algo;
  return [=](int i, cudaStream_t st) {
    const float alpha = 1, beta = 0;
    cublasLtMatmul_(handle, op, &alpha, b + (i % copies) * n * k, la, a, lb, &beta, d, ld, d, ld,
                    &algo, workspace, bytes, st);
  };
}
__global__ void widen(const __nv_fp8_e4m3* from, int64_t n, __nv_bfloat16* to) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x)
    to[i] = __float2bfloat16((float)from[i]);
}
// What gemm_arguments.cpp makes of m rows of A and prepared weights.
struct Operands {
  const void *codes, *a_scales, *x;
  const float* one;
  void* c;
};
GemmProblem problem_of(Format format, bool quantized, base::DType x, int64_t m, int64_t n,
                       int64_t k, const Operands& at) {
  GemmProblem p;
  p.format = format;
  p.m = m, p.n = n, p.k = k, p.quantized = quantized, p.form = WeightForm::kPrepared;
  if (format == Format::kNvfp4) p.b_scale.data = at.one, p.b_scale.kind = ScaleKind::kDecode;
  if (quantized) {
    p.a_codes = (const uint8_t*)at.codes, p.a_rows = {m, m, k / 2, 0};
    p.a_scales = (const uint8_t*)at.a_scales, p.a_scale_rows = m, p.a_scale = p.b_scale;
  } else {
    p.x = at.x, p.x_dtype = x, p.x_rows = {m, m, k, 0};
  }
  p.c = at.c, p.c_dtype = base::DType::kBF16, p.c_rows = {m, m, n, 0};
  return p;
}
int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<int64_t> rows;
  bool only_fp8 = false, plans = false;
  int64_t only[2] = {0, 0};
  for (int i = 1; i < argc; ++i) {
    if (int64_t of[2]; sscanf(argv[i], "%ldx%ld", of, of + 1) == 2) {
      only[0] = of[0], only[1] = of[1];
    } else if (argv[i][0] == 'f') {
      only_fp8 = true;
    } else if (argv[i][0] == 'p') {
      plans = true;
    } else {
      rows.push_back(atoi(argv[i]));
    }
  }
  if (rows.empty()) rows = {16, 32, 64, 128, 256, 1024, 4096};
  const int64_t most = *std::max_element(rows.begin(), rows.end());
  const int64_t shapes[][2] = {{28672, 4096}, {4096, 14336}, {6144, 4096},  {4096, 4096},
                               {57344, 8192}, {8192, 28672}, {10240, 8192}, {8192, 8192}};
  struct Kind {
    const char* name;
    Format format;
    bool quantized;
    base::DType x;
  };
  const Kind kinds[] = {{"w4a4_nvfp4", Format::kNvfp4, true, base::DType::kBF16},
                        {"w4a16_bf16_nvfp4", Format::kNvfp4, false, base::DType::kBF16},
                        {"w4a4_mxfp4", Format::kMxfp4, true, base::DType::kBF16},
                        {"w4a16_bf16_mxfp4", Format::kMxfp4, false, base::DType::kBF16},
                        {"w4a16_fp16_nvfp4", Format::kNvfp4, false, base::DType::kF16}};
  constexpr int kFp8Kinds = 3;  // the first of them
  const GemmDevice device{90, 132, 227 * 1024, ""};
  const float scales[2] = {1.0f, 0.0f};
  auto* one = (float*)mem(8);
  CK(cudaMemcpy(one, scales, 8, cudaMemcpyHostToDevice));
  void* lt = mem(cublaslt::kWorkspaceBytes);
  printf("[\n");
  for (const auto& shape : shapes) {
    const int64_t n = shape[0], k = shape[1];
    if (only[1] != 0 && (n != only[0] || k != only[1])) continue;
    const int64_t most_bytes = prepared_weight_bytes(Format::kNvfp4, n, k);
    const auto copies_of = [](int64_t bytes) {
      return std::max<int>(2, (int)((190000000 + bytes - 1) / bytes));
    };
    const int copies = copies_of(most_bytes), copies8 = copies_of(n * k);
    // Weights and activations of both formats, and the same in E4M3 and bf16, for cuBLASLt.
    const Format formats[2] = {Format::kNvfp4, Format::kMxfp4};
    uint8_t *w[2], *a_scales[2];
    auto* codes = (uint8_t*)mem(most * k / 2);
    fill<<<1024, 256>>>(codes, most * k / 2, 5, kBytes);
    for (int f = 0; f < 2; ++f) {
      const int64_t bytes = prepared_weight_bytes(formats[f], n, k);
      w[f] = (uint8_t*)mem(bytes * copies);
      a_scales[f] = (uint8_t*)mem(most * k / 16);
      const int unit = unit_bytes(formats[f]);
      fill_weights<<<2048, 256>>>(w[f], bytes / unit * copies, unit, f == 1);
      fill<<<1024, 256>>>(a_scales[f], most * k / 16, 6, f == 1 ? kE8m0 : kE4m3);
    }
    auto *x = (uint16_t*)mem(most * k * 2), *half_x = (uint16_t*)mem(most * k * 2);
    fill<<<1024, 256>>>(x, most * k, 8, kBf16);
    fill<<<1024, 256>>>(half_x, most * k, 8, kFp16);
    auto *w8 = (uint8_t*)mem(n * k * copies8), *x8 = (uint8_t*)mem(most * k);
    auto* w16 = (__nv_bfloat16*)mem(n * k * 2 * copies8);
    auto* factors = (float*)mem((most + n) * 4);
    void* c = mem(most * n * 2);
    const auto problem_of_kind = [&](const Kind& kind, int64_t m) {
      const int f = kind.format == Format::kMxfp4;
      return problem_of(kind.format, kind.quantized, kind.x, m, n, k,
                        {codes, a_scales[f], kind.x == base::DType::kF16 ? half_x : x, one, c});
    };
    GemmProblem largest = problem_of_kind(kinds[0], most);
    for (int i = 0; i < copies8; ++i) {
      largest.b_prepared = w[0] + most_bytes * (i % copies);
      must(cuda::launch_fp8_weights(largest, {n, w8 + n * k * i, factors}, 132, nullptr));
    }
    must(cuda::launch_fp8_activations(largest, {most, x8, factors}, nullptr));
    widen<<<2048, 256>>>((const __nv_fp8_e4m3*)w8, n * k * copies8, w16);
    CK(cudaDeviceSynchronize());
    const TensorCorePlan shared{
        .tokens = 128, .warps = kTensorCoreMaxWarps, .blocks = 132, .shares = true};
    void* workspace = mem(
        std::max({cuda::tensor_core_workspace_bytes(largest, shared),
                  cuda::dequantize_workspace_bytes(largest), cuda::fp8_workspace_bytes(largest)}));
    for (const int64_t m : rows) {
      const double flops = 2.0 * (double)m * (double)n * (double)k;
      printf("{\"n\": %ld, \"k\": %ld, \"m\": %ld", n, k, m);
      std::vector<std::string> names;
      std::vector<Launch> launches;
      const auto add = [&](const std::string& name, const Launch& launch) {
        names.push_back(name), launches.push_back(launch);
      };
      const auto print = [&](double guess) {
        const std::vector<double> us = time_graphs(launches, guess);
        CK(cudaDeviceSynchronize());
        for (std::size_t i = 0; i < us.size(); ++i)
          printf(", \"%s_us\": %.2f", names[i].c_str(), us[i]);
        names.clear(), launches.clear();
      };
      // Of a kind, with weights that rotate.
      const auto add_kind = [&](const std::string& name, const Kind& kind, const auto& launch) {
        add(name, [=, p = problem_of_kind(kind, m)](int i, cudaStream_t st) mutable {
          p.b_prepared = w[kind.format == Format::kMxfp4] +
                         prepared_weight_bytes(kind.format, n, k) * (i % copies);
          must(launch(p, st));
        });
      };
      cublaslt::Matmul product;
      product.m = m, product.n = n, product.k = k, product.stride = n;
      product.a = x, product.d = c, product.alpha = one, product.workspace = lt;
      add("bf16_cublaslt", [=](int i, cudaStream_t st) mutable {
        product.b = w16 + (i % copies8) * n * k;
        must(cublaslt::matmul(product, st));
      });
      add("fp8_cublaslt", fp8_product(m, n, k, x8, w8, copies8, c, one, lt, true));
      add("fp8_cublaslt_precise", fp8_product(m, n, k, x8, w8, copies8, c, one, lt, false));
      for (const Kind& kind : kinds) {
        if ((only_fp8 || plans) && &kind != kinds && &kind != kinds + 1) continue;
        const TensorCorePlan plan = plan_tensor_core(problem_of_kind(kind, m), device);
        add_kind(kind.name, kind, [=](const GemmProblem& p, cudaStream_t st) {
          return cuda::launch_tensor_core(p, plan, st, workspace);
        });
      }
      for (const TensorCoreShape& tile : kTensorCoreShapes) {
        for (int split = 0; plans && split <= kTensorCoreMaxSplit; ++split) {  // 0: shared tiles
          const TensorCorePlan plan = plan_tensor_core(problem_of_kind(kinds[0], m), device, tile,
                                                       std::max(split, 1), split == 0);
          const bool fits = plan.tokens != 0 && plan.split == std::max(split, 1);
          const bool at_once =
              plan.tiles_m * plan.tiles_n <= tensor_core_clusters(device, plan.split);
          const bool slow =
              std::abs(std::log2((double)tile.tokens / std::min<int64_t>(m, 128))) > 1.1;
          if (!fits || (split > 1 && !at_once) || slow) continue;
          const std::string narrow =
              tile.warps < kTensorCoreMaxWarps ? "x" + std::to_string(tile.rows()) : "";
          for (int i = 0; i < 2; ++i)
            add_kind((i == 0 ? "plan_" : "plan16_") + std::to_string(tile.tokens) + narrow + "/" +
                         (split == 0 ? "s" : std::to_string(split)),
                     kinds[i], [=](const GemmProblem& p, cudaStream_t st) {
                       return cuda::launch_tensor_core(p, plan, st, workspace);
                     });
        }
      }
      if (plans) {
        print(flops / 7e8);
        printf("},\n");
        continue;
      }
      add_kind("dequantize_w4a4_nvfp4", kinds[0], [=](const GemmProblem& p, cudaStream_t st) {
        return cuda::launch_dequantize(p, st, workspace);
      });
      for (int i = 0; i < kFp8Kinds; ++i) {
        add_kind(std::string("fp8_") + kinds[i].name, kinds[i],
                 [=](const GemmProblem& p, cudaStream_t st) {
                   return cuda::launch_fp8(p, device, st, workspace);
                 });
      }
      print(flops / 7e8);
      auto* part = (uint8_t*)workspace + cublaslt::kWorkspaceBytes;
      for (int i = 0; i < kFp8Kinds; ++i) {
        const std::string name = std::string("fp8_") + kinds[i].name;
        add_kind(name + "_weights", kinds[i], [=](const GemmProblem& p, cudaStream_t st) {
          return cuda::launch_fp8_weights(p, {n, part, factors}, 132, st);
        });
        add_kind(name + "_activations", kinds[i], [=](const GemmProblem& p, cudaStream_t st) {
          return cuda::launch_fp8_activations(p, {m, part, factors}, st);
        });
      }
      print(100);
      printf("},\n");
    }
    for (void* p : std::initializer_list<void*>{w[0], w[1], a_scales[0], a_scales[1], codes, x,
                                                half_x, w8, x8, w16, factors, c, workspace})
      cudaFree(p);
  }
  printf("{}]\n");
}
