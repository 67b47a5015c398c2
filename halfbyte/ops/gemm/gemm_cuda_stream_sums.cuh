// From the sums of parts to elements of C.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_stage.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_values.cuh"

namespace halfbyte::ops::cuda {

#if __CUDA_ARCH__ >= 800

// Rows that are in no group are +0.
__device__ __noinline__ void put_rows_of_no_group(const StreamArgs& args, const int* rows) {
  const GemmProblem& problem = args.problem;
  for (std::int64_t row = blockIdx.x; row < problem.m; row += gridDim.x) {
    if (formats::group_of(rows, problem.groups, row) >= 0) continue;
    const std::int64_t at = problem.c_rows.offset(row);
    for (std::int64_t n = threadIdx.x; n < problem.n; n += kStreamThreads) {
      put_value(problem.c, problem.c_dtype, at + n, 0.0f);
    }
  }
}

__device__ __noinline__ std::int64_t find_c_row(const StreamArgs& args, std::int64_t row) {
  return args.problem.c_rows.offset(row);
}

// A row of A: where its row of C starts, its decode scale, whether it has scales.
struct StreamRow {
  std::int64_t c;
  float decode;
  int there;
};
static_assert(sizeof(StreamRow) == kStreamRowBytes);

// Scales as they lie in memory: read long before they are wanted.
struct StreamScales {
  float a, b;

  template <StreamKind kKind>
  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk) {
    load<kKind>(args, chunk, static_cast<int>(threadIdx.x));
  }
  // m: the row whose scale this thread has.
  template <StreamKind kKind>
  __device__ __forceinline__ void load(const StreamArgs& args, const StreamChunk& chunk, int m) {
    const GemmProblem& problem = args.problem;
    a = problem.a_scale.value, b = problem.b_scale.value;
    if (is_quantized(kKind) && problem.a_scale.data != nullptr && m < chunk.rows) {
      const std::int64_t index = problem.a_scale_per_group ? chunk.group : chunk.first_row + m;
      a = problem.a_scale.data[index * problem.a_scale.stride];
    }
    if (problem.b_scale.data != nullptr)
      b = problem.b_scale.data[chunk.group * problem.b_scale.stride];
  }
  __device__ static __forceinline__ float decode(float raw, ScaleKind kind) {
    return kind == ScaleKind::kNone     ? 1.0f
           : kind == ScaleKind::kEncode ? __fdiv_rn(1.0f, raw)
                                        : raw;
  }
};

// The rows of a chunk, a thread each: this one's is m.
template <StreamKind kKind>
__device__ __forceinline__ void put_rows(const StreamArgs& args, const StreamChunk& chunk,
                                         const StreamScales& scales, StreamRow* rows, int m) {
  const GemmProblem& problem = args.problem;
  if (m >= chunk.rows) return;
  const std::int64_t row = chunk.first_row + m;
  StreamRow to;
  to.c = problem.c_rows.inner_rows == problem.c_rows.rows ? row * problem.c_rows.inner_stride
                                                          : find_c_row(args, row);
  to.decode = is_quantized(kKind) ? StreamScales::decode(scales.a, problem.a_scale.kind) : 1.0f;
  to.there = !is_quantized(kKind) || chunk.regular || problem.a_scale_row(row, chunk.group) >= 0;
  rows[m] = to;
}

template <StreamKind kKind>
__device__ __forceinline__ void put_rows(const StreamArgs& args, const StreamChunk& chunk,
                                         const StreamScales& scales, StreamRow* rows) {
  put_rows<kKind>(args, chunk, scales, rows, static_cast<int>(threadIdx.x));
}

// What is rounded to an element of C: fl(fl(fl(sum * d_a) * d_b) + bias).
template <StreamKind kKind>
__device__ __forceinline__ float scaled_sum(const GemmProblem& problem, int group, int n, float sum,
                                            float decode_a, float decode_b) {
  if (kKind == StreamKind::kNvfp4W4A4) sum = __fmul_rn(sum, 32768.0f);
  const float v = __fmul_rn(__fmul_rn(sum, decode_a), decode_b);
  if (problem.bias == nullptr) return v;
  return __fadd_rn(v, value_at(problem.bias, problem.bias_dtype, group * problem.n + n));
}

template <StreamKind kKind>
__device__ __forceinline__ void put_output(const StreamArgs& args, const StreamChunk& chunk,
                                           const StreamRow& row, int n, float sum, float decode_b) {
  const GemmProblem& problem = args.problem;
  if (n >= problem.n) return;
  const float v =
      row.there != 0 ? scaled_sum<kKind>(problem, chunk.group, n, sum, row.decode, decode_b) : 0.0f;
  put_value(problem.c, problem.c_dtype, row.c + n, v);
}

// The barrier of a cluster's CTAs, of one CTA's threads without one.
__device__ __forceinline__ void sync_split(int split) {
#if __CUDA_ARCH__ >= 900
  if (split > 1) {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
    return;
  }
#endif
  __syncthreads();
}
template <bool kSplit>
__device__ __forceinline__ float load_of_cta(std::uint32_t at, int rank) {
  float v;
#if __CUDA_ARCH__ >= 900
  if constexpr (kSplit) {
    asm volatile(
        "{\n.reg .b32 a;\nmapa.shared::cluster.u32 a, %1, %2;\nld.shared::cluster.f32 %0, [a];\n}"
        : "=f"(v)
        : "r"(at), "r"(rank)
        : "memory");
    return v;
  }
#endif
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
  return v;
}

// The sum of `count` values by the tree; a node without a sibling passes up. Value i lies in the
// shared memory of CTA i / each, (i % each) * stride bytes from `values` on.
template <bool kSplit>
__device__ __forceinline__ float tree_sum(std::uint32_t values, int count, int stride, int each) {
  constexpr int kWidth = 8, kLevels = 10;  // eight values at a time, then levels above them
  static_assert(kWidth * (1 << kLevels) * kSliceColumns >= 1 << 20);
  float waiting[kLevels];  // the last node of each level that has no right sibling yet
  float v = 0.0f;
  const int last = (count - 1) / kWidth;
  int rank = 0, local = 0;
#pragma unroll 1
  for (int node = 0; node <= last; ++node) {
    const int have = count - node * kWidth;
    float x[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      x[i] = i < have ? load_of_cta<kSplit>(values + local * stride, rank) : 0.0f;
      ++local;
      if (kSplit && local == each) local = 0, ++rank;
    }
#pragma unroll
    for (int step = 1; step < kWidth; step *= 2) {
#pragma unroll
      for (int i = 0; i < kWidth; i += 2 * step) {
        if (i + step < have) x[i] = __fadd_rn(x[i], x[i + step]);
      }
    }
    v = x[0];
    if (last == 0) break;
    bool carry = true;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      const bool right = (node >> level & 1) != 0;
      if (right && (carry || node == last)) v = __fadd_rn(waiting[level], v);
      if (!right && carry) {
        waiting[level] = v;
        carry = false;
      }
    }
  }
  return v;
}

#endif  // __CUDA_ARCH__

}  // namespace halfbyte::ops::cuda
