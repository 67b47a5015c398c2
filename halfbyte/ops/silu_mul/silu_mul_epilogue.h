// What an operator of another room takes that ends in silu_mul_quantize: the checks of its options,
// and its rows, where gate_up is memory of that operator's own. Internal.
#pragma once

#include <cstdint>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/common/activation.h"
#include "halfbyte/ops/common/quantize_target.h"
#include "halfbyte/ops/silu_mul/silu_mul_kernels.h"

namespace halfbyte::ops {

// The number of gate_up's columns, under the name of the argument that gives it; `what` is how the
// message begins: "2I".
struct GateUpColumns {
  const char* argument;
  const char* what;
  std::int64_t count;
};

// Sets columns, interleave and rule. The number is even, and 2I with I a multiple of 8 where
// interleave is.
base::Status resolve_activation(const GateUpColumns& gate_up, const Activation& args,
                                SiluMulProblem& problem);

// A format that I is a multiple of the blocks of, and a scale rule that the operator has.
base::Status check_silu_mul_spec(const GateUpColumns& gate_up, const QuantizeSpec& spec);

// What becomes of y, rows x gate_up.count / 2.
base::Result<formats::RowTarget> resolve_silu_mul_target(
    const GateUpColumns& gate_up, std::int64_t rows, base::Device device, const QuantizeSpec& spec,
    const GivenScale& given, const QuantizeOutputs& out, const RowGroups& groups,
    OverlapCheck& overlap, const char* scale_row_offsets = "scale_row_offsets");

// The kernel of a CPU level.
SiluMulKernel silu_mul_kernel(base::CpuLevel level);

namespace cuda {
// problem, whose target this is. Of scale = computed `amax` is 4 bytes of device memory; else
// unused.
base::Status silu_mul_quantize(const SiluMulProblem& problem, formats::RowTarget& target,
                               float* amax, base::Device device, const base::Execution& execution);
}  // namespace cuda

}  // namespace halfbyte::ops
