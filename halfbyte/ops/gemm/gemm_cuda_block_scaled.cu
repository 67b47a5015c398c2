// method = block_scaled: cuBLASLt multiplies NVFP4 as it is, where the tensor cores do (sm_100 on).
// Compiled, not run: none of our machines has such a device.
#include <algorithm>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_cublaslt.h"
#include "halfbyte/ops/gemm/gemm_cuda_finish.h"
#include "halfbyte/ops/gemm/gemm_cuda_kernels.h"

namespace halfbyte::ops::cuda {
namespace {

constexpr std::size_t kAlphaOffset = cublaslt::kWorkspaceBytes;
constexpr std::size_t kSumsOffset = kAlphaOffset + kGemmWorkspaceAlignment;

// The sums' bytes, whether needed or not: see gemm.h.
std::size_t sums_bytes(const GemmProblem& problem) {
  return static_cast<std::size_t>(std::min(problem.m, rows_of_sums(problem.n)) * problem.n * 4);
}

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

// cuBLASLt has no fp32 scales of rows beside those of blocks: it writes C where one factor is for
// all and no bias is given, else fp32 sums go through the workspace.
bool writes_directly(const GemmProblem& problem) {
  return problem.a_scale.stride == 0 && is_direct_output(problem);
}

}  // namespace

std::size_t block_scaled_workspace_bytes(const GemmProblem& problem) {
  return kSumsOffset + sums_bytes(problem);
}

base::Status launch_block_scaled(const GemmProblem& problem, void* stream, void* workspace) {
  for (const void* operand :
       {static_cast<const void*>(problem.a_codes), static_cast<const void*>(problem.a_scales),
        static_cast<const void*>(problem.b_codes), static_cast<const void*>(problem.b_scales)}) {
    if (!aligned16(operand)) {
      return base::unsupported(
          "method: block_scaled: codes and scales of a and b aligned to 16 bytes are needed");
    }
  }
  auto* base = static_cast<std::byte*>(workspace);
  cublaslt::Matmul product;
  product.m = problem.m, product.n = problem.n, product.k = problem.k;
  product.input = cublaslt::Input::kNvfp4;
  product.a = problem.a_codes;
  product.b = problem.b_codes;
  product.a_scales = problem.a_scales;
  product.b_scales = problem.b_scales;
  product.workspace = base;
  if (writes_directly(problem)) {
    product.stride = problem.c_rows.inner_stride;
    product.output = problem.c_dtype;
    product.d = problem.c;
    auto* alpha = reinterpret_cast<float*>(base + kAlphaOffset);
    product.alpha = alpha;
    HALFBYTE_RETURN_IF_ERROR(launch_alpha(problem, true, alpha, stream));
    return cublaslt::matmul(product, stream);
  }
  FinishArgs finish;
  finish.stride = problem.n;
  // Parts of rows are tiles of 128 rows of scales, whole ones but for the last.
  return multiply_by_rows(problem, product, finish, base + kSumsOffset, stream,
                          [&](cublaslt::Matmul& part, std::int64_t first) {
                            part.a = problem.a_codes + first * problem.k / 2;
                            part.a_scales = problem.a_scales +
                                            formats::scale_row_offset(ScaleLayout::k128x4, first,
                                                                      problem.blocks());
                          });
}

}  // namespace halfbyte::ops::cuda
