#include "halfbyte/ops/rmsnorm/rmsnorm_cuda.cuh"

namespace halfbyte::ops::cuda {
HALFBYTE_RMSNORM_LAUNCHER(, numerics::Fp16)
}
