#include "halfbyte/ops/rope/rope_cuda.cuh"

namespace halfbyte::ops::cuda {
HALFBYTE_ROPE_LAUNCHER(, float)
}
