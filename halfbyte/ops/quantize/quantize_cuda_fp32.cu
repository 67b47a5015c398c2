#include "halfbyte/ops/quantize/quantize_cuda.cuh"

namespace halfbyte::ops::cuda {
HALFBYTE_QUANTIZE_LAUNCHERS(, float)
}
