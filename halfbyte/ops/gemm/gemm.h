// gemm: C[M, N] = A[M, K] * B[N, K]^T with FP4 weights, scaled, with an optional bias.
//
//   B  NVFP4 or MXFP4 weights, as a checkpoint has them or prepared once by prepare_weights
//   A  of the same format, quantized (W4A4), or bf16 or fp16 values (W4A16)
//   C  bf16, fp16 or fp32
//
//   C = T( fl( fl( fl(sum * d_a) * d_b ) + bias ) )
//
// Bit-exact (docs/numerics.md, "FP4 products") on the CPU and wherever `method` is kExact: the sum
// has one order, so a row of C depends on that row of A alone, not on M, threads or device. The
// other methods are bounded, and deterministic from run to run. Arguments are checked first: an
// error names argument, expected and actual, and nothing is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/packed_tensor.h"
#include "halfbyte/ops/common/quantize_spec.h"
#include "halfbyte/ops/gemm/gemm_math.h"
#include "halfbyte/ops/gemm/gemm_weights_math.h"

namespace halfbyte::ops {

using formats::PackedTensor;
using formats::ScaleKind;

// How C is computed. The values are part of the C ABI.
enum class GemmMethod : std::int32_t {
  kAuto = 0,        // the fastest; on the CPU that is the exact one
  kExact = 1,       // the order of the contract, whatever M: bit-exact
  kTensorCore = 2,  // CUDA: weights dequantized on the way to the tensor cores; bounded
  kDequantize = 3,  // CUDA: weights dequantized to the workspace, then cuBLASLt; bounded
  // CUDA, sm_89 on, never chosen by kAuto: both operands rounded to E4M3 in the workspace, then
  // cuBLASLt; bounded.
  kFp8 = 4,
  // CUDA, sm_100 on, never chosen by kAuto: NVFP4 as it is, through cuBLASLt; bounded. Plain
  // weights, scales of a and b in layout 128x4, dense rows of codes, N and K multiples of 32.
  kBlockScaled = 5,
};

enum class WeightForm : std::int32_t {
  kPlain = 0,     // codes and scales, as checkpoints have them
  kPrepared = 1,  // one array, in the order in which the kernels read (docs/formats.md)
};

// B, N x K. Of E groups (experts): E of these one after another, codes [E, N, K / 2].
struct GemmWeights {
  Format format = Format::kNvfp4;  // kNvfp4 or kMxfp4
  WeightForm form = WeightForm::kPlain;
  std::int64_t rows = 0;     // N
  std::int64_t columns = 0;  // K, a multiple of the block
  // Plain: u8 [N, K / 2], any row stride; u8, scale_bytes(layout, N, K / block), contiguous.
  TensorView codes;
  TensorView scales;
  ScaleLayout layout = ScaleLayout::kLinear;
  // Prepared: u8, prepared_weight_bytes(format, N, K), contiguous, kPreparedAlignment.
  TensorView prepared;
  // fp32 [1], or [E] with groups, on the device of c or, one value, on the host; absent exactly
  // where scale_kind is kNone: d_b = 1. MXFP4 has none. An encode scale on the host is finite and
  // > 0; a decode scale is not looked at (quantize gives NaN for NaN).
  TensorView scale;
  ScaleKind scale_kind = ScaleKind::kNone;
};

struct GemmArgs {
  // A: exactly one of the two. a: bf16 or fp16 [.., K], M rows, any row stride. a_packed: M x K of
  // b's format; its scale is one for all or one a row ([M]); with groups an encode scale is one for
  // all or one a group ([E]), as quantize takes it, and a decode scale one for all or one a row.
  TensorView a;
  PackedTensor a_packed;
  GemmWeights b;
  TensorView bias;  // optional: the type of c, or fp32; [N], with groups [E, N], contiguous
  TensorView c;     // out: bf16, fp16 or fp32 [.., N], M rows, last dimension dense, any row stride
  GemmMethod method = GemmMethod::kAuto;
  // Mixture of experts: the rows of group e (RowGroups) take the weights e. scale_row_offsets are
  // those of a_packed.scales, and absent with a. A row of no group is +0 in c, without bias.
  RowGroups groups{};
};

// CUDA takes execution.workspace: gemm_workspace_bytes of it, kGemmWorkspaceAlignment.
HALFBYTE_API base::Status gemm(const GemmArgs& args, const base::Execution& execution = {});

inline constexpr std::size_t kGemmWorkspaceAlignment = 256;

// It depends on shapes, types, method and device, not on pointers, which may be null. 0 on the CPU.
HALFBYTE_API base::Result<std::size_t> gemm_workspace_bytes(const GemmArgs& args,
                                                            const base::Execution& execution = {});

// What gemm would do, for people and for benchmarks that say what they time: the kernel, its
// numbers, and why that one. It depends on what gemm_workspace_bytes depends on.
HALFBYTE_API base::Result<std::string> explain_gemm(const GemmArgs& args,
                                                    const base::Execution& execution = {});

// Weights of one matrix, N x K: plain.codes, plain.scales <-> prepared. The fp32 scale is in
// neither: plain.scale is absent.
struct PrepareWeightsArgs {
  PackedTensor plain;   // NVFP4 or MXFP4, any layout; any row stride of codes
  TensorView prepared;  // u8, prepared_weight_bytes(format, N, K), contiguous, kPreparedAlignment
};

// Writes all of `prepared`.
HALFBYTE_API base::Status prepare_weights(const PrepareWeightsArgs& args,
                                          const base::Execution& execution = {});
// Writes all of plain.codes and plain.scales (padding as zero): what prepare_weights was given, but
// that the sign of a negative NVFP4 scale is in its block's codes.
HALFBYTE_API base::Status unprepare_weights(const PrepareWeightsArgs& args,
                                            const base::Execution& execution = {});

}  // namespace halfbyte::ops
