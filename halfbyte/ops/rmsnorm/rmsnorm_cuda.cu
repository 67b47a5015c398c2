// From a run-time type to the launcher of rmsnorm_cuda.cuh.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_cuda.cuh"

namespace halfbyte::ops::cuda {

HALFBYTE_RMSNORM_LAUNCHER(extern, numerics::Bf16)
HALFBYTE_RMSNORM_LAUNCHER(extern, numerics::Fp16)
HALFBYTE_RMSNORM_LAUNCHER(extern, float)

base::Status rmsnorm_rows(const NormProblem& problem, base::Device device,
                          const base::Execution& execution) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  NormKernelArgs args{problem, {}, problem.target != nullptr};
  if (args.quantizes) args.target = *problem.target;
  args.problem.target = nullptr;
  return numerics::visit_float(problem.x.dtype, [&]<class T>(T) {
    return launch_rmsnorm<T>(args, simt::launch_options(execution, device.index));
  });
}

}  // namespace halfbyte::ops::cuda
