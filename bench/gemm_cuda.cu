// Times gemm on CUDA (W4A4, prepared NVFP4 weights) at decode sizes beside the read-only floor and
// bf16 cuBLASLt, and the dequantize path; prints JSON rows. With an argument: every compiled decode
// shape instead. Build, from the root, after a CUDA build in build/:
//   nvcc -std=c++20 -O3 --fmad=false -gencode=arch=compute_90a,code=sm_90a -DHALFBYTE_WITH_CUDA=1
//   '-DHALFBYTE_CUDA_ARCHS="90a"' -I. \
//     -Ibuild/include -o gemm_cuda bench/gemm_cuda.cu halfbyte/ops/gemm/gemm_cuda_decode.cu
//     halfbyte/ops/gemm/gemm_plan.cpp \ halfbyte/ops/gemm/gemm_cuda_lt.cu
//     halfbyte/ops/gemm/gemm_cuda_dequantize.cu -ldl
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
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
__device__ __forceinline__ uint32_t hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352d;
  x ^= x >> 15;
  x *= 0x846ca68b;
  x ^= x >> 16;
  return x;
}
__global__ void fill_weights(uint8_t* w, int64_t units, uint32_t seed) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < units * 288;
       i += (int64_t)gridDim.x * blockDim.x) {
    uint32_t r = hash((uint32_t)i * 2654435761u + seed), v = r;
    if (i % 288 >= 256) {
      v = 0;
      for (int j = 0; j < 4; ++j) v |= (0x28 + (r >> (8 * j) & 31) + 120) << (8 * j);
      v = __funnelshift_l(v, v, 7);
    }
    reinterpret_cast<uint32_t*>(w)[i] = v;
  }
}
__global__ void fill_act(uint8_t* a, int64_t n, uint32_t seed, int kind) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x) {
    uint32_t r = hash((uint32_t)i + seed);
    a[i] = kind == 0 ? r : 0x28 + (r & 31);
  }
}
__global__ void floor_kernel(const uint4* w, int64_t n16, uint32_t* out) {
  uint32_t acc = 0;
  const int64_t step = (int64_t)gridDim.x * blockDim.x;
  int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  for (; i + 3 * step < n16; i += 4 * step) {
    uint4 a = __ldg(w + i), b = __ldg(w + i + step), c = __ldg(w + i + 2 * step),
          d = __ldg(w + i + 3 * step);
    acc ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^
           d.w;
  }
  for (; i < n16; i += step) {
    uint4 a = __ldg(w + i);
    acc ^= a.x ^ a.y ^ a.z ^ a.w;
  }
  if (acc == 0x12345678u) out[threadIdx.x] = acc;
}
double time_graph(const std::function<void(int, cudaStream_t)>& f) {
  cudaStream_t s;
  CK(cudaStreamCreate(&s));
  const int n = 20;
  cudaGraph_t g;
  cudaGraphExec_t e;
  CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < n; ++i) f(i, s);
  CK(cudaStreamEndCapture(s, &g));
  CK(cudaGraphInstantiate(&e, g, 0));
  cudaEvent_t a, b;
  cudaEventCreate(&a), cudaEventCreate(&b);
  std::vector<double> t;
  for (int r = 0; r < 12; ++r) {
    CK(cudaEventRecord(a, s));
    CK(cudaGraphLaunch(e, s));
    CK(cudaEventRecord(b, s));
    CK(cudaEventSynchronize(b));
    float ms;
    cudaEventElapsedTime(&ms, a, b);
    if (r >= 3) t.push_back(ms * 1000 / n);
  }
  std::sort(t.begin(), t.end());
  cudaGraphExecDestroy(e), cudaGraphDestroy(g), cudaStreamDestroy(s);
  return t[t.size() / 2];
}
int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const bool all = argc > 1;
  const int shapes[][2] = {{28672, 4096}, {4096, 14336}, {6144, 4096},  {4096, 4096},
                           {57344, 8192}, {8192, 28672}, {10240, 8192}, {8192, 8192}};
  float* one;
  CK(cudaMalloc(&one, 256));
  float h1[64];
  for (float& x : h1) x = 1.0f;
  CK(cudaMemcpy(one, h1, 256, cudaMemcpyHostToDevice));
  const GemmDevice device{90, 132, 227 * 1024, ""};
  printf("[\n");
  for (auto& sh : shapes) {
    const int64_t n = sh[0], k = sh[1], bytes = prepared_weight_bytes(Format::kNvfp4, n, k);
    const int copies = std::max<int>(2, (190000000 + bytes - 1) / bytes);
    uint8_t *w, *ac, *as;
    uint16_t* c;
    CK(cudaMalloc(&w, bytes * copies));
    CK(cudaMalloc(&ac, 64 * k / 2));
    CK(cudaMalloc(&as, 64 * k / 16));
    CK(cudaMalloc(&c, 64 * n * 2));
    fill_weights<<<2048, 256>>>(w, bytes / 1152 * copies, 3);
    fill_act<<<256, 256>>>(ac, 64 * k / 2, 5, 0);
    fill_act<<<256, 256>>>(as, 64 * k / 16, 6, 1);
    CK(cudaDeviceSynchronize());
    double floor = 1e9;
    for (int threads : {256, 512, 1024})
      for (int waves : {1, 2, 3, 4, 8}) {
        if (waves * threads > 4096) continue;
        floor = std::min(floor, time_graph([&](int i, cudaStream_t st) {
                           floor_kernel<<<132 * waves, threads, 0, st>>>(
                               (const uint4*)(w + bytes * (i % copies)), bytes / 16, (uint32_t*)c);
                         }));
      }
    double m1 = 0;
    for (int m : {1, 2, 4, 8, 16, 32}) {
      GemmProblem p;
      p.format = Format::kNvfp4;
      p.m = m, p.n = n, p.k = k;
      p.method = GemmMethod::kExact;
      p.quantized = true;
      p.a_codes = ac;
      p.a_rows = {m, m, k / 2, 0};
      p.a_scales = as;
      p.a_scale_rows = m;
      p.a_scale.data = one;
      p.a_scale.kind = ScaleKind::kDecode;
      p.b_scale = p.a_scale;
      p.form = WeightForm::kPrepared;
      p.c = c;
      p.c_dtype = base::DType::kBF16;
      p.c_rows = {m, m, n, 0};
      double best = 1e9;
      std::string name;
      double chosen_t = 0;
      const DecodeShape chosen = choose_decode_shape(m, n, k, device);
      for (const DecodeShape& shape : kDecodeShapes) {
        if (shape.tokens() < m || shape.one_token != (m == 1) || (!all && !(shape == chosen)) ||
            shape.tokens() > std::max(2, 2 * m - 1))
          continue;
        const DecodePlan plan = plan_decode(shape, n, k, device);
        const double t = time_graph([&](int i, cudaStream_t st) {
          p.b_prepared = w + bytes * (i % copies);
          const auto s = cuda::launch_decode(p, plan, st);
          if (!s.ok()) {
            printf("%s\n", s.message().c_str());
            exit(1);
          }
        });
        if (all)
          printf("   # m %d ss %d g %d wk %d nt %d: %.2f us\n", m, shape.slices_shared,
                 shape.groups, shape.warps_k, shape.token_tiles, t);
        if (shape == chosen) chosen_t = t;
        best = std::min(best, t);
      }
      if (m == 1) m1 = chosen_t;
      printf(
          "{\"n\": %ld, \"k\": %ld, \"m\": %d, \"us\": %.2f, \"floor_us\": %.2f, \"ratio\": %.3f, "
          "\"of_m1\": %.2f, \"best\": %.2f},\n",
          n, k, m, chosen_t, floor, floor / chosen_t, chosen_t / m1, best);
    }
    if (!all) {
      cudaFree(ac);
      cudaFree(as);
      cudaFree(c);
      const int64_t most = 4096;
      void *ws, *bw, *bx;
      CK(cudaMalloc(&ac, most * k / 2));
      CK(cudaMalloc(&as, most * k / 16));
      CK(cudaMalloc(&c, most * n * 2));
      fill_act<<<1024, 256>>>(ac, most * k / 2, 5, 0);
      fill_act<<<256, 256>>>(as, most * k / 16, 6, 1);
      CK(cudaMalloc(&bw, 2 * n * k * 2));
      CK(cudaMalloc(&bx, most * k * 2));
      fill_act<<<1024, 256>>>((uint8_t*)bw, 2 * n * k * 2, 9, 1);
      fill_act<<<1024, 256>>>((uint8_t*)bx, most * k * 2, 8, 1);
      float two[2] = {1.0f, 0.0f};
      float* alpha;
      CK(cudaMalloc(&alpha, 8));
      CK(cudaMemcpy(alpha, two, 8, cudaMemcpyHostToDevice));
      GemmProblem q;
      q.format = Format::kNvfp4;
      q.m = most, q.n = n, q.k = k;
      q.quantized = true;
      q.form = WeightForm::kPrepared;
      q.c_rows = {most, most, n, 0};
      CK(cudaMalloc(&ws, cuda::dequantize_workspace_bytes(q)));
      for (int64_t m : {1, 8, 16, 32, 64, 128, 256, 1024, 4096}) {
        GemmProblem p;
        p.format = Format::kNvfp4;
        p.m = m, p.n = n, p.k = k;
        p.method = GemmMethod::kExact;
        p.quantized = true;
        p.a_codes = ac;
        p.a_rows = {m, m, k / 2, 0};
        p.a_scales = as;
        p.a_scale_rows = m;
        p.a_scale.data = one;
        p.a_scale.kind = ScaleKind::kDecode;
        p.b_scale = p.a_scale;
        p.form = WeightForm::kPrepared;
        p.c = c;
        p.c_dtype = base::DType::kBF16;
        p.c_rows = {m, m, n, 0};
        cublaslt::Matmul mm;
        mm.m = m, mm.n = n, mm.k = k, mm.stride = n;
        mm.a = bx, mm.d = c, mm.alpha = alpha, mm.workspace = ws;
        double exact = -1, deq = -1, bf = -1;
        bf = time_graph([&](int i, cudaStream_t st) {
          mm.b = (uint8_t*)bw + (i % 2) * n * k * 2;
          const auto s = cublaslt::matmul(mm, st);
          if (!s.ok()) {
            printf("%s\n", s.message().c_str());
            exit(1);
          }
        });
        if (m >= 32)
          deq = time_graph([&](int i, cudaStream_t st) {
            p.b_prepared = w + bytes * (i % copies);
            const auto s = cuda::launch_dequantize(p, st, ws);
            if (!s.ok()) {
              printf("%s\n", s.message().c_str());
              exit(1);
            }
          });
        if (m <= 256) {
          const DecodePlan plan =
              plan_decode(choose_decode_shape(std::min<int>(m, 32), n, k, device), n, k, device);
          exact = time_graph([&](int i, cudaStream_t st) {
            p.b_prepared = w + bytes * (i % copies);
            const auto s = cuda::launch_decode(p, plan, st);
            if (!s.ok()) exit(1);
          });
        }
        printf(
            "{\"n\": %ld, \"k\": %ld, \"m\": %ld, \"exact_us\": %.2f, \"dequantize_us\": %.2f, "
            "\"bf16_cublaslt_us\": %.2f},\n",
            n, k, m, exact, deq, bf);
      }
      cudaFree(ws);
      cudaFree(bw);
      cudaFree(bx);
      cudaFree(alpha);
    }
    cudaFree(w);
    cudaFree(ac);
    cudaFree(as);
    cudaFree(c);
  }
  printf("{}]\n");
}
