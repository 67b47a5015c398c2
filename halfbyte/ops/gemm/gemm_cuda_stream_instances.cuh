// The compiled stream kernels.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_stage.cuh"

namespace halfbyte::ops::cuda {

using StreamKernel = void (*)(StreamArgs);

StreamKernel stream_nvfp4_w4a4(int token_tiles, int stages, bool simple);
StreamKernel stream_nvfp4_w4a16(int token_tiles, int stages, bool simple);
StreamKernel stream_mxfp4_w4a4(int token_tiles, int stages, bool simple);
StreamKernel stream_mxfp4_w4a16(int token_tiles, int stages, bool simple);

// With SiLU * mul and quantization behind it (gemm_cuda_stream_gate_up.cuh).
struct GateUpStreamArgs;
using GateUpStreamKernel = void (*)(GateUpStreamArgs);

GateUpStreamKernel gate_up_nvfp4_w4a4();
GateUpStreamKernel gate_up_nvfp4_w4a16();
GateUpStreamKernel gate_up_mxfp4_w4a4();
GateUpStreamKernel gate_up_mxfp4_w4a16();

}  // namespace halfbyte::ops::cuda
