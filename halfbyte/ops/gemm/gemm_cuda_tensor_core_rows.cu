// A for the tensor-core kernel: quantized rows as fp16 (NVFP4, value * 2^-7) or bf16 (MXFP4), both
// exact; 16-bit rows that no tensor map can describe, copied.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>

#include "halfbyte/formats/e8m0.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_cuda_fragments.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

constexpr int kThreads = 128, kRowsAtOnce = 4;

struct RowsArgs {
  std::int64_t m, k;
  const std::uint8_t* codes;
  base::RowMap rows;
  const std::uint8_t* scales;
  ScaleLayout layout;
  bool aligned;  // four bytes of codes at a time
  ScaleValue scale;
  float factor;
  float* decodes;  // nullptr: one for all
  std::uint16_t* to;
  int groups;  // 0: row m's scales are row m
  const std::int32_t *row_offsets, *scale_row_offsets;
  std::int64_t scale_rows;
  std::uint32_t* flags;
  int flag_count;
};

__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ __half2 as_half2(std::uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}
template <class T>
__device__ __forceinline__ std::uint32_t bits_of(T pair) {
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// Eight codes, in order, as fp16 of e2m1 * 2^-14.
__device__ __forceinline__ void spread8(std::uint32_t codes, std::uint32_t (&to)[4]) {
  const std::uint32_t even = (codes << 4 & 0x80808080u) | (codes << 1 & 0x0E0E0E0Eu);
  const std::uint32_t odd = (codes & 0x80808080u) | (codes >> 3 & 0x0E0E0E0Eu);
  to[0] = __byte_perm(even, odd, 0x4000) & 0xFF00FF00u;
  to[1] = __byte_perm(even, odd, 0x5010) & 0xFF00FF00u;
  to[2] = __byte_perm(even, odd, 0x6020) & 0xFF00FF00u;
  to[3] = __byte_perm(even, odd, 0x7030) & 0xFF00FF00u;
}

// Where the scales of rows `first` on lie; -1: such a row is in no group. By whole warps.
__device__ __forceinline__ void find_scale_rows(const RowsArgs& args, std::int64_t first,
                                                std::int64_t (&rows)[kRowsAtOnce]) {
  int passed[kRowsAtOnce] = {};  // groups that end at or before the row
#pragma unroll 4
  for (int e = static_cast<int>(threadIdx.x) % 32; e < args.groups; e += 32) {
    const std::int32_t end = args.row_offsets[e + 1];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) passed[i] += end <= first + i ? 1 : 0;
  }
#pragma unroll
  for (int i = 0; i < kRowsAtOnce; ++i) {
    const int group = __reduce_add_sync(0xFFFFFFFFu, passed[i]);
    rows[i] = -1;
    if (group == args.groups) continue;
    const std::int64_t in = first + i - args.row_offsets[group];
    const std::int64_t row = args.scale_row_offsets[group] + in;
    if (in >= 0 && row >= 0 && row < args.scale_rows) rows[i] = row;
  }
}

// By the first block.
__device__ __forceinline__ void zero_flags(std::uint32_t* flags, int count) {
  if (blockIdx.x + blockIdx.y != 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) flags[i] = 0;
}
__global__ void __launch_bounds__(kThreads) zero_flags_kernel(std::uint32_t* flags, int count) {
  launch_dependents();
  zero_flags(flags, count);
}

// Eight columns a thread, of kRowsAtOnce rows.
template <bool kMxfp4, bool kGrouped>
__global__ void __launch_bounds__(kThreads) dequantize_rows_kernel(const RowsArgs args) {
  launch_dependents();
  zero_flags(args.flags, args.flag_count);
  const std::int64_t piece = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t blocks = args.k / (kMxfp4 ? 32 : 16), block = piece / (kMxfp4 ? 4 : 2);
  const bool is_column = piece * 8 < args.k;
  if (!kGrouped && !is_column) return;
  for (std::int64_t first = std::int64_t{blockIdx.y} * kRowsAtOnce; first < args.m;
       first += std::int64_t{gridDim.y} * kRowsAtOnce) {
    std::uint32_t words[kRowsAtOnce], scales[kRowsAtOnce];
    std::int64_t scale_rows[kRowsAtOnce];
    if constexpr (kGrouped) {
      find_scale_rows(args, first, scale_rows);
      if (!is_column) continue;
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const std::int64_t row = min(first + i, args.m - 1);
      if (kGrouped && scale_rows[i] < 0) continue;
      const std::uint8_t* codes = args.codes + args.rows.offset(row) + piece * 4;
      words[i] = args.aligned ? *reinterpret_cast<const std::uint32_t*>(codes) : load_word(codes);
      scales[i] = args.scales[formats::scale_offset(args.layout, kGrouped ? scale_rows[i] : row,
                                                    block, blocks)];
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const std::int64_t row = first + i;
      if (row >= args.m) return;
      if (kGrouped && scale_rows[i] < 0) continue;
      if (piece == 0 && args.decodes != nullptr)
        args.decodes[row] = __fmul_rn(args.scale.decode(row), args.factor);
      std::uint32_t out[4];
      spread8(words[i], out);
      if constexpr (kMxfp4) {
        const float s = formats::e8m0_to_float(static_cast<std::uint8_t>(scales[i]));
#pragma unroll
        for (std::uint32_t& pair : out) {
          const float2 v = __half22float2(as_half2(pair));
          pair = bits_of(__floats2bfloat162_rn(__fmul_rn(__fmul_rn(v.x, 16384.0f), s),
                                               __fmul_rn(__fmul_rn(v.y, 16384.0f), s)));
        }
      } else {
        // S * 2^7 in fp16: the prepared form's.
        std::uint32_t s = std::uint32_t{prepared_scale(static_cast<std::uint8_t>(scales[i]))} << 7;
        s |= (scales[i] & 0x80u) << 8;
        s |= s << 16;
#pragma unroll
        for (std::uint32_t& pair : out) pair = bits_of(__hmul2(as_half2(pair), as_half2(s)));
      }
      store_global16(args.to + row * args.k + piece * 8,
                     make_uint4(out[0], out[1], out[2], out[3]));
    }
  }
}

// Rows of 16-bit elements anywhere, an element a thread.
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(const std::uint16_t* x, base::RowMap rows, std::int64_t m, std::int64_t k,
                     std::uint16_t* to) {
  launch_dependents();
  const std::int64_t threads = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < m * k;
       i += threads) {
    to[i] = x[rows.offset(i / k) + i % k];
  }
}

}  // namespace

bool tensor_core_reads_in_place(const GemmProblem& problem) {
  const base::RowMap& rows = problem.x_rows;
  return !problem.quantized && reinterpret_cast<std::uintptr_t>(problem.x) % 16 == 0 &&
         (problem.m <= 1 || (rows.inner_rows == rows.rows && rows.inner_stride % 8 == 0 &&
                             rows.inner_stride >= problem.k));
}

namespace {
std::size_t padded(std::int64_t bytes) {
  return (static_cast<std::size_t>(bytes) + kGemmWorkspaceAlignment - 1) / kGemmWorkspaceAlignment *
         kGemmWorkspaceAlignment;
}
std::size_t rows_bytes(const GemmProblem& problem) { return padded(problem.m * problem.k * 2); }
std::size_t decodes_bytes(const GemmProblem& problem) { return padded(problem.m * 4); }
}  // namespace

float tensor_core_factor(const GemmProblem& problem) {
  const int exponent = tensor_core_kind(problem) == TensorCoreKind::kMxfp4
                           ? kTensorCoreMxfp4Exponent
                           : kTensorCoreNvfp4Exponent * (problem.quantized ? 2 : 1);
  return std::ldexp(1.0f, exponent);
}
// A's copy is in it whether needed or not: it depends on no pointer.
std::size_t tensor_core_workspace_bytes(const GemmProblem& problem, const TensorCorePlan& plan) {
  return rows_bytes(problem) + decodes_bytes(problem) +
         static_cast<std::size_t>(tensor_core_part_bytes(plan)) +
         static_cast<std::size_t>(tensor_core_flags(plan)) * sizeof(std::uint32_t);
}
void* tensor_core_parts(const GemmProblem& problem, void* workspace) {
  return static_cast<std::byte*>(workspace) + rows_bytes(problem) + decodes_bytes(problem);
}
std::uint32_t* tensor_core_flags_at(const GemmProblem& problem, const TensorCorePlan& plan,
                                    void* workspace) {
  return reinterpret_cast<std::uint32_t*>(
      static_cast<std::byte*>(tensor_core_parts(problem, workspace)) +
      tensor_core_part_bytes(plan));
}
bool tensor_core_has_decodes(const GemmProblem& problem) {
  return problem.quantized && problem.a_scale.stride != 0 && !problem.a_scale_per_group;
}
float* tensor_core_decodes(const GemmProblem& problem, void* workspace) {
  return reinterpret_cast<float*>(static_cast<std::byte*>(workspace) + rows_bytes(problem));
}

base::Status launch_tensor_core_rows(const GemmProblem& problem, const TensorCorePlan& plan,
                                     void* stream, void* workspace) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  auto* to = static_cast<std::uint16_t*>(workspace);
  std::uint32_t* flags = tensor_core_flags_at(problem, plan, workspace);
  const int flag_count = tensor_core_flags(plan);
  if (!problem.quantized && flag_count != 0) {
    zero_flags_kernel<<<1, kThreads, 0, cuda_stream>>>(flags, flag_count);
    HALFBYTE_RETURN_IF_ERROR(simt::launch_status("gemm"));
  }
  if (tensor_core_reads_in_place(problem)) return {};
  if (!problem.quantized) {
    const std::int64_t blocks = (problem.m * problem.k + kThreads - 1) / kThreads;
    copy_rows_kernel<<<static_cast<unsigned>(std::min<std::int64_t>(blocks, 1 << 16)), kThreads, 0,
                       cuda_stream>>>(static_cast<const std::uint16_t*>(problem.x), problem.x_rows,
                                      problem.m, problem.k, to);
    return simt::launch_status("gemm");
  }
  const auto multiple_of_4 = [](std::int64_t value) { return value % 4 == 0; };
  const base::RowMap& rows = problem.a_rows;
  const bool aligned = multiple_of_4(reinterpret_cast<std::intptr_t>(problem.a_codes)) &&
                       multiple_of_4(rows.inner_stride) && multiple_of_4(rows.outer_stride);
  RowsArgs args{};
  args.m = problem.m, args.k = problem.k;
  args.codes = problem.a_codes, args.rows = rows, args.aligned = aligned;
  args.scales = problem.a_scales, args.layout = problem.a_layout;
  args.scale = problem.a_scale;
  args.factor = tensor_core_factor(problem);
  if (tensor_core_has_decodes(problem)) args.decodes = tensor_core_decodes(problem, workspace);
  args.to = to;
  args.flags = flags, args.flag_count = flag_count;
  args.groups = static_cast<int>(problem.groups);
  args.row_offsets = problem.row_offsets, args.scale_row_offsets = problem.scale_row_offsets;
  args.scale_rows = problem.a_scale_rows;
  const dim3 blocks(static_cast<unsigned>((problem.k / 8 + kThreads - 1) / kThreads),
                    static_cast<unsigned>(std::min<std::int64_t>(
                        (problem.m + kRowsAtOnce - 1) / kRowsAtOnce, 65535)));
  const bool mxfp4 = problem.format == Format::kMxfp4;
  const auto kernel =
      problem.groups != 0
          ? (mxfp4 ? dequantize_rows_kernel<true, true> : dequantize_rows_kernel<false, true>)
          : (mxfp4 ? dequantize_rows_kernel<true, false> : dequantize_rows_kernel<false, false>);
  kernel<<<blocks, kThreads, 0, cuda_stream>>>(args);
  return simt::launch_status("gemm");
}

}  // namespace halfbyte::ops::cuda
