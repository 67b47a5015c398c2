// Launches of the tensor-core kernel: A as fp16 or bf16 rows, tensor maps, the kernel.
#include <algorithm>

#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_tensor_core.h"
#include "halfbyte/simt/launch.cuh"

namespace halfbyte::ops::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                            CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                            CUtensorMapFloatOOBfill);

// The driver's, found at run time: nothing links to it.
base::Result<Encode> encode_function() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                             12000, cudaEnableDefault, &result);
  HALFBYTE_RETURN_IF_ERROR(simt::cuda_status("cuTensorMapEncodeTiled", error));
  if (result != cudaDriverEntryPointSuccess || found == nullptr)
    return base::unsupported("gemm: the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<Encode>(found);
}

// Of a matrix of `rows` rows of `columns` elements, `stride` bytes apart; what a box has beyond it
// is zero.
base::Result<CUtensorMap> tensor_map(const void* data, CUtensorMapDataType type,
                                     std::int64_t columns, std::int64_t rows, std::int64_t stride,
                                     int box_columns, int box_rows, CUtensorMapSwizzle swizzle) {
  static const base::Result<Encode> encode = encode_function();
  if (!encode.ok()) return encode.status();
  CUtensorMap map{};
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns),
                            static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result =
      encode.value()(&map, type, 2, const_cast<void*>(data), sizes, strides, box, steps,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return map;
  return base::Status(base::StatusCode::kCuda, "gemm: cuTensorMapEncodeTiled: error " +
                                                   std::to_string(static_cast<int>(result)));
}

}  // namespace

base::Status launch_tensor_core(const GemmProblem& problem, const TensorCorePlan& plan,
                                void* stream, void* workspace) {
  const TensorCoreKind kind = tensor_core_kind(problem);
  const bool in_place = tensor_core_reads_in_place(problem);
  if (!in_place || plan.shares) {
    HALFBYTE_RETURN_IF_ERROR(launch_tensor_core_rows(problem, plan, stream, workspace));
  }
  const auto a_type = kind == TensorCoreKind::kFp16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                    : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const base::Result<CUtensorMap> a_map =
      tensor_map(in_place ? problem.x : workspace, a_type, problem.k, problem.m,
                 (in_place && problem.m > 1 ? problem.x_rows.inner_stride : problem.k) * 2, 64,
                 plan.tokens, CU_TENSOR_MAP_SWIZZLE_128B);
  if (!a_map.ok()) return a_map.status();
  const std::int64_t row_bytes = std::int64_t{plan.slices} * unit_bytes(problem.format);
  const std::int64_t tiles_n = (problem.n + kTileRows - 1) / kTileRows;
  const base::Result<CUtensorMap> b_map =
      tensor_map(problem.b_prepared, CU_TENSOR_MAP_DATA_TYPE_INT64, row_bytes / 8,
                 tiles_n * std::max<std::int64_t>(problem.groups, 1), row_bytes,
                 unit_bytes(problem.format) / 8, plan.warps, CU_TENSOR_MAP_SWIZZLE_NONE);
  if (!b_map.ok()) return b_map.status();

  TensorCoreArgs args;
  args.plan = plan;
  args.factor = tensor_core_factor(problem);
  args.programmatic = !in_place || plan.shares;
  args.parts = static_cast<float4*>(tensor_core_parts(problem, workspace));
  args.flags = tensor_core_flags_at(problem, plan, workspace);
  if (problem.quantized) {
    args.a_scale = problem.a_scale;
    if (tensor_core_has_decodes(problem)) args.a_decodes = tensor_core_decodes(problem, workspace);
  }
  args.b_scale = problem.b_scale;
  args.bias = problem.bias;
  args.bias_dtype = problem.bias_dtype;
  args.c = problem.c;
  args.c_dtype = problem.c_dtype;
  args.c_rows = problem.c_rows;
  const bool even = problem.c_rows.inner_rows == problem.c_rows.rows;
  args.c_inner_rows = even ? 0 : static_cast<int>(problem.c_rows.inner_rows);
  const auto aligned = [&](int elements) {
    return reinterpret_cast<std::uintptr_t>(problem.c) % (2u * static_cast<unsigned>(elements)) ==
               0 &&
           problem.c_rows.inner_stride % elements == 0 &&
           (even || problem.c_rows.outer_stride % elements == 0);
  };
  args.pairs = aligned(2);
  args.lines = aligned(8) && problem.c_dtype != base::DType::kF32;
  args.m = static_cast<int>(problem.m);
  args.n = static_cast<int>(problem.n);
  args.row_offsets = problem.row_offsets;
  args.scale_row_offsets = problem.scale_row_offsets;
  args.a_scale_rows = problem.a_scale_rows;
  args.a_scale_per_group = problem.a_scale_per_group;
  args.tiles_n = static_cast<int>(tiles_n);

  const TensorCoreKernel kernel =
      plan.groups != 0 ? grouped_tensor_core_kernel(kind, {plan.tokens, plan.warps})
                       : tensor_core_kernel_of<false>(kind, {plan.tokens, plan.warps});
  simt::LaunchOptions options;
  options.stream = static_cast<cudaStream_t>(stream);
  options.programmatic = args.programmatic;
  return simt::launch_as(
      "gemm", kernel,
      {dim3(static_cast<unsigned>(plan.blocks)),
       dim3(static_cast<unsigned>(tensor_core_threads(plan.warps))), plan.shared_bytes, plan.split},
      options, args, a_map.value(), b_map.value());
}

}  // namespace halfbyte::ops::cuda
