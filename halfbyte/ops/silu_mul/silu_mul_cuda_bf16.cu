#include "halfbyte/ops/silu_mul/silu_mul_cuda.cuh"

namespace halfbyte::ops::cuda {
HALFBYTE_SILU_MUL_LAUNCHER(, numerics::Bf16)
}
