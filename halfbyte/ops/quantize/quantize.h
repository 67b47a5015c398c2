// quantize, dequantize, amax: a tensor to NVFP4, MXFP4 or FP8 and back.
//
// All bit-exact (docs/numerics.md): reference, every CPU level, any number of threads and every GPU
// give the same bits, and a row's result does not depend on the other rows (except scale =
// computed, which is a property of the whole tensor).
//
// Every function checks its arguments first and returns kInvalidArgument, naming argument, expected
// and actual, before anything is written. CUDA calls are asynchronous on the stream, allocate
// nothing and can be captured in a graph.
#pragma once

#include "halfbyte/base/execution.h"
#include "halfbyte/base/macros.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/formats/packed_tensor.h"
#include "halfbyte/ops/common/quantize_spec.h"

namespace halfbyte::ops {

struct QuantizeArgs {
  TensorView x;  // fp32, fp16 or bf16 [.., H], last dimension dense; H a multiple of the block
  GivenScale given;
  QuantizeSpec spec;
  QuantizeOutputs out;
  RowGroups groups{};
};

// x -> codes and scales. One launch on CUDA; scale = computed takes two and a workspace of
// base::kComputedWorkspaceBytes.
HALFBYTE_API base::Status quantize(const QuantizeArgs& args, const base::Execution& execution = {});

struct DequantizeArgs {
  formats::PackedTensor packed;  // M x H
  TensorView x;                  // out: fp32, fp16 or bf16 [.., H], M rows, last dimension dense
};

// The fp32 scale is read as an encode or a decode scale as packed.scale_kind says.
HALFBYTE_API base::Status dequantize(const DequantizeArgs& args,
                                     const base::Execution& execution = {});

struct AmaxArgs {
  TensorView x;     // fp32, fp16 or bf16 [.., H], last dimension dense
  TensorView amax;  // out: fp32 [1] (of the tensor) or, if per_row, [M]
  bool per_row = false;
};

// The largest magnitude; NaN if any element is NaN; 0 of nothing.
HALFBYTE_API base::Status amax(const AmaxArgs& args, const base::Execution& execution = {});

}  // namespace halfbyte::ops
