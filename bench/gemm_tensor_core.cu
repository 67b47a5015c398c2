// Times gemm's methods tensor_core, dequantize and fp8 on CUDA (prepared weights; W4A4 and W4A16,
// NVFP4 and MXFP4) beside cuBLASLt on bf16 and on FP8, with and without fast accumulation; prints a
// JSON row a product. Arguments: "fp8" leaves out what the table of method fp8 does not have; rows
// of A. Build, from the root, after a CUDA build in build/:
//   nvcc -std=c++20 -O3 --fmad=false -gencode=arch=compute_90a,code=sm_90a -DHALFBYTE_WITH_CUDA=1
//     '-DHALFBYTE_CUDA_ARCHS="90a"' -I. -Ibuild/include -o gemm_tensor_core
//     bench/gemm_tensor_core.cu halfbyte/ops/gemm/gemm_cuda_tensor_core.cu
//     halfbyte/ops/gemm/gemm_cuda_tensor_core_rows.cu halfbyte/ops/gemm/gemm_tensor_core_plan.cpp
//     halfbyte/ops/gemm/gemm_cuda_{dequantize,finish,lt}.cu halfbyte/ops/gemm/gemm_cuda_fp8*.cu
//     -ldl
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
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
        v |= (mx ? 120 + (b & 15) : (uint32_t)prepared_scale((uint8_t)(64 + (b & 255) % 63)))
             << (8 * j);
      }
      if (!mx) v = __funnelshift_l(v, v, 7);
    }
    reinterpret_cast<uint32_t*>(w)[i] = v;
  }
}
enum Fill { kBytes, kE8m0, kE4m3, kBf16, kFp16, kFp8 };
__global__ void fill(void* to, int64_t n, uint32_t seed, Fill kind) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x) {
    const uint32_t r = hash((uint32_t)i * 2654435761u + seed), sign = r >> 31;
    if (kind == kBytes) ((uint8_t*)to)[i] = r;
    if (kind == kE8m0) ((uint8_t*)to)[i] = 120 + (r & 15);
    if (kind == kE4m3) ((uint8_t*)to)[i] = 64 + r % 63;
    if (kind == kBf16) ((uint16_t*)to)[i] = sign << 15 | (0x3C00 + (r & 0x3FF));
    if (kind == kFp16) ((uint16_t*)to)[i] = sign << 15 | (0x3000 + (r & 0xFFF));
    if (kind == kFp8) ((uint8_t*)to)[i] = sign << 7 | (0x20 + (r & 31));
  }
}
// Of one launch; `guess`: microseconds, about.
double time_graph(const std::function<void(int, cudaStream_t)>& f, double guess) {
  cudaStream_t s;
  CK(cudaStreamCreate(&s));
  const int n = guess > 500 ? std::max(2, (int)(10000 / guess)) : 20;
  cudaGraph_t g;
  cudaGraphExec_t e;
  CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < n; ++i) f(i, s);
  CK(cudaStreamEndCapture(s, &g));
  CK(cudaGraphInstantiate(&e, g, 0));
  cudaEvent_t a, b;
  CK(cudaEventCreate(&a));
  CK(cudaEventCreate(&b));
  std::vector<double> t;
  for (int r = 0; r < (guess > 500 ? 9 : 12); ++r) {
    CK(cudaEventRecord(a, s));
    CK(cudaGraphLaunch(e, s));
    CK(cudaEventRecord(b, s));
    CK(cudaEventSynchronize(b));
    float ms;
    CK(cudaEventElapsedTime(&ms, a, b));
    if (r >= 2) t.push_back(ms * 1000 / n);
  }
  std::sort(t.begin(), t.end());
  cudaGraphExecDestroy(e), cudaGraphDestroy(g), cudaStreamDestroy(s);
  cudaEventDestroy(a), cudaEventDestroy(b);
  return t[t.size() / 2];
}
double time_fp8(int64_t m, int64_t n, int64_t k, const void* a, const uint8_t* b, int copies,
                void* d, float* one, void* workspace, bool fast_sums, double guess) {
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
  if (count == 0) return -1;
  const float alpha = 1, beta = 0;
  return time_graph(
      [&](int i, cudaStream_t st) {
        cublasLtMatmul_(handle, op, &alpha, b + (i % copies) * n * k, la, a, lb, &beta, d, ld, d,
                        ld, &found.algo, workspace, bytes, st);
      },
      guess);
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
  bool only_fp8 = false;
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] == 'f') {
      only_fp8 = true;
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
  const Kind kinds[] = {{"w4a4_nvfp4_us", Format::kNvfp4, true, base::DType::kBF16},
                        {"w4a16_bf16_nvfp4_us", Format::kNvfp4, false, base::DType::kBF16},
                        {"w4a16_fp16_nvfp4_us", Format::kNvfp4, false, base::DType::kF16},
                        {"w4a4_mxfp4_us", Format::kMxfp4, true, base::DType::kBF16},
                        {"w4a16_bf16_mxfp4_us", Format::kMxfp4, false, base::DType::kBF16}};
  const Kind fp8_kinds[] = {{"w4a4_nvfp4", Format::kNvfp4, true, base::DType::kBF16},
                            {"w4a16_bf16_nvfp4", Format::kNvfp4, false, base::DType::kBF16},
                            {"w4a4_mxfp4", Format::kMxfp4, true, base::DType::kBF16}};
  const GemmDevice device{90, 132, 227 * 1024, ""};
  const float scales[2] = {1.0f, 0.0f};
  auto* one = (float*)mem(8);
  CK(cudaMemcpy(one, scales, 8, cudaMemcpyHostToDevice));
  void* lt = mem(cublaslt::kWorkspaceBytes);
  printf("[\n");
  for (const auto& shape : shapes) {
    const int64_t n = shape[0], k = shape[1], bytes16 = n * k * 2;
    const int64_t most_bytes = prepared_weight_bytes(Format::kNvfp4, n, k);
    const auto copies_of = [](int64_t bytes) {
      return std::max<int>(2, (int)((190000000 + bytes - 1) / bytes));
    };
    const int copies = copies_of(most_bytes), copies16 = copies_of(bytes16);
    auto* w = (uint8_t*)mem(most_bytes * copies);
    auto* w16 = (uint8_t*)mem(bytes16 * copies16);
    void *codes = mem(most * k / 2), *a_scales = mem(most * k / 16), *x = mem(most * k * 2);
    void* c = mem(most * n * 2);
    fill<<<1024, 256>>>(codes, most * k / 2, 5, kBytes);
    GemmProblem largest;
    largest.m = most, largest.k = k;
    largest.n = n;
    void* workspace = mem(
        std::max({cuda::tensor_core_workspace_bytes(largest),
                  cuda::dequantize_workspace_bytes(largest), cuda::fp8_workspace_bytes(largest)}));
    const Operands at{codes, a_scales, x, one, c};
    for (const int64_t m : rows) {
      const double flops = 2.0 * (double)m * (double)n * (double)k;
      printf("{\"n\": %ld, \"k\": %ld, \"m\": %ld", n, k, m);
      fill<<<1024, 256>>>(w16, bytes16 / 2 * copies16, 9, kBf16);
      fill<<<1024, 256>>>(x, most * k, 8, kBf16);
      cublaslt::Matmul product;
      product.m = m, product.n = n, product.k = k, product.stride = n;
      product.a = x, product.d = c, product.alpha = one, product.workspace = lt;
      const double bf16 = time_graph(
          [&](int i, cudaStream_t st) {
            product.b = w16 + (i % copies16) * bytes16;
            must(cublaslt::matmul(product, st));
          },
          flops / 7e8);
      fill<<<1024, 256>>>(w16, bytes16 * copies16, 9, kFp8);
      fill<<<1024, 256>>>(x, most * k, 8, kFp8);
      printf(", \"bf16_cublaslt_us\": %.2f", bf16);
      for (const bool fast : {true, false}) {
        printf(", \"fp8_cublaslt%s_us\": %.2f", fast ? "" : "_precise",
               time_fp8(m, n, k, x, w16, copies16 * 2, c, one, lt, fast, flops / 1.4e9));
      }
      const auto fill_operands = [&](Format format, base::DType type) {
        const int unit = unit_bytes(format);
        fill_weights<<<2048, 256>>>(w, prepared_weight_bytes(format, n, k) / unit * copies, unit,
                                    format == Format::kMxfp4);
        fill<<<1024, 256>>>(x, most * k, 8, type == base::DType::kF16 ? kFp16 : kBf16);
        fill<<<1024, 256>>>(a_scales, most * k / 16, 6, format == Format::kMxfp4 ? kE8m0 : kE4m3);
        CK(cudaDeviceSynchronize());
      };
      const auto time = [&](GemmProblem& p, double guess, const auto& launch) {
        const int64_t bytes = prepared_weight_bytes(p.format, n, k);
        const double us = time_graph(
            [&](int i, cudaStream_t st) {
              p.b_prepared = w + bytes * (i % copies);
              must(launch(st));
            },
            guess);
        CK(cudaDeviceSynchronize());
        return us;
      };
      for (const Kind& kind : kinds) {
        if (only_fp8 && &kind != kinds) continue;
        fill_operands(kind.format, kind.x);
        GemmProblem p = problem_of(kind.format, kind.quantized, kind.x, m, n, k, at);
        const TensorCorePlan plan = plan_tensor_core(p, device);
        printf(", \"%s\": %.2f", kind.name, time(p, flops / 7e8, [&](cudaStream_t st) {
                 return cuda::launch_tensor_core(p, plan, st, workspace);
               }));
      }
      for (const Kind& kind : fp8_kinds) {
        fill_operands(kind.format, kind.x);
        GemmProblem p = problem_of(kind.format, kind.quantized, kind.x, m, n, k, at);
        auto* part = (uint8_t*)workspace + cublaslt::kWorkspaceBytes;
        const cuda::Fp8Rows weights{n, part, (float*)(part + n * k)};
        auto* rest = part + n * k + n * 4;
        const cuda::Fp8Rows activations{m, rest, (float*)(rest + m * k)};
        const auto fp8 = [&](cudaStream_t st) {
          return cuda::launch_fp8(p, device, st, workspace);
        };
        printf(", \"fp8_%s_us\": %.2f", kind.name, time(p, flops / 1.4e9, fp8));
        printf(", \"fp8_%s_weights_us\": %.2f", kind.name, time(p, 100, [&](cudaStream_t st) {
                 return cuda::launch_fp8_weights(p, weights, 132, st);
               }));
        printf(", \"fp8_%s_activations_us\": %.2f", kind.name, time(p, 100, [&](cudaStream_t st) {
                 return cuda::launch_fp8_activations(p, activations, st);
               }));
        if (&kind != fp8_kinds) continue;
        printf(", \"dequantize_%s_us\": %.2f", kind.name,
               time(p, flops / 7e8,
                    [&](cudaStream_t st) { return cuda::launch_dequantize(p, st, workspace); }));
      }
      printf("},\n");
    }
    for (void* p : {(void*)w, (void*)w16, codes, a_scales, x, c, workspace}) cudaFree(p);
  }
  printf("{}]\n");
}
