// The compiled stream kernels.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_stage.cuh"

namespace halfbyte::ops::cuda {

using StreamKernel = void (*)(StreamArgs);

StreamKernel stream_nvfp4_w4a4(const StreamPlan& plan);
StreamKernel stream_nvfp4_w4a16(const StreamPlan& plan);
StreamKernel stream_mxfp4_w4a4(const StreamPlan& plan);
StreamKernel stream_mxfp4_w4a16(const StreamPlan& plan);

// With SiLU * mul and quantization behind it (gemm_cuda_stream_gate_up.cuh).
struct GateUpStreamArgs;
using GateUpStreamKernel = void (*)(GateUpStreamArgs);

GateUpStreamKernel gate_up_nvfp4_w4a4(const StreamPlan& plan);
GateUpStreamKernel gate_up_nvfp4_w4a16(const StreamPlan& plan);
GateUpStreamKernel gate_up_mxfp4_w4a4(const StreamPlan& plan);
GateUpStreamKernel gate_up_mxfp4_w4a16(const StreamPlan& plan);

}  // namespace halfbyte::ops::cuda
