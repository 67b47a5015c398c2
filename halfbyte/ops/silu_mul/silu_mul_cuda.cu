// From a run-time type to the launcher of silu_mul_cuda.cuh.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/silu_mul/silu_mul_cuda.cuh"

namespace halfbyte::ops::cuda {

HALFBYTE_SILU_MUL_LAUNCHER(extern, numerics::Bf16)
HALFBYTE_SILU_MUL_LAUNCHER(extern, numerics::Fp16)
HALFBYTE_SILU_MUL_LAUNCHER(extern, float)

base::Status silu_mul_rows(const SiluMulProblem& problem, base::Device device,
                           const base::Execution& execution) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  SiluMulKernelArgs args{problem, {}, problem.target != nullptr};
  if (args.quantizes) args.target = *problem.target;
  args.problem.target = nullptr;
  return numerics::visit_float(problem.gate_up.dtype, [&]<class T>(T) {
    return launch_silu_mul<T>(args, simt::launch_options(execution, device.index));
  });
}

}  // namespace halfbyte::ops::cuda
