// From a run-time type to the launcher of rope_cuda.cuh.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/rope/rope_cuda.cuh"

namespace halfbyte::ops::cuda {

HALFBYTE_ROPE_LAUNCHER(extern, numerics::Bf16)
HALFBYTE_ROPE_LAUNCHER(extern, numerics::Fp16)
HALFBYTE_ROPE_LAUNCHER(extern, float)

base::Status rope(const RopeProblem& problem, base::Device device,
                  const base::Execution& execution) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  return numerics::visit_float(problem.dtype, [&]<class T>(T) {
    return launch_rope<T>(problem, simt::launch_options(execution, device.index));
  });
}

}  // namespace halfbyte::ops::cuda
