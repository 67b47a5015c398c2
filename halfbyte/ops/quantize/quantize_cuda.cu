// From a run-time type to the launchers of quantize_cuda.cuh.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/quantize/quantize_cuda.cuh"

namespace halfbyte::ops::cuda {

HALFBYTE_QUANTIZE_LAUNCHERS(extern, numerics::Bf16)
HALFBYTE_QUANTIZE_LAUNCHERS(extern, numerics::Fp16)
HALFBYTE_QUANTIZE_LAUNCHERS(extern, float)

base::Status quantize(const Rows& x, const formats::RowTarget& target, base::Device device,
                      const base::Execution& execution) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  const simt::LaunchOptions options = simt::launch_options(execution, device.index);
  return numerics::visit_float(x.dtype, [&]<class T>(T) -> base::Status {
    formats::RowTarget resolved = target;
    if (target.mode == formats::ScaleMode::kComputed) {
      float* amax = static_cast<float*>(execution.workspace);
      HALFBYTE_RETURN_IF_ERROR(launch_amax<T>(x, false, amax, options));
      resolved.tensor_amax = amax;
    }
    return launch_quantize<T>(x, resolved, options);
  });
}

base::Status dequantize(const DequantizeProblem& problem, base::Device device,
                        const base::Execution& execution) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  return numerics::visit_float(problem.x.dtype, [&]<class T>(T) {
    return launch_dequantize<T>(problem, simt::launch_options(execution, device.index));
  });
}

base::Status amax(const Rows& x, bool per_row, float* amax, base::Device device,
                  const base::Execution& execution) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  return numerics::visit_float(x.dtype, [&]<class T>(T) {
    return launch_amax<T>(x, per_row, amax, simt::launch_options(execution, device.index));
  });
}

}  // namespace halfbyte::ops::cuda
