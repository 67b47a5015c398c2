// From a run-time type to the launchers of quantize_cuda.cuh.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/quantize/quantize_cuda.cuh"

namespace halfbyte::ops::cuda {

HALFBYTE_QUANTIZE_LAUNCHERS(extern, numerics::Bf16)
HALFBYTE_QUANTIZE_LAUNCHERS(extern, numerics::Fp16)
HALFBYTE_QUANTIZE_LAUNCHERS(extern, float)

base::Status quantize(const Rows& x, const formats::RowTarget& target, base::Device device,
                      void* stream, float* workspace) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return numerics::visit_float(x.dtype, [&]<class T>(T) -> base::Status {
    formats::RowTarget resolved = target;
    if (target.mode == formats::ScaleMode::kComputed) {
      HALFBYTE_RETURN_IF_ERROR(launch_amax<T>(x, false, workspace, cuda_stream));
      resolved.tensor_amax = workspace;
    }
    return launch_quantize<T>(x, resolved, cuda_stream);
  });
}

base::Status dequantize(const DequantizeProblem& problem, base::Device device, void* stream) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  return numerics::visit_float(problem.x.dtype, [&]<class T>(T) {
    return launch_dequantize<T>(problem, static_cast<cudaStream_t>(stream));
  });
}

base::Status amax(const Rows& x, bool per_row, float* amax, base::Device device, void* stream) {
  const simt::DeviceScope scope(device);
  HALFBYTE_RETURN_IF_ERROR(scope.status());
  return numerics::visit_float(x.dtype, [&]<class T>(T) {
    return launch_amax<T>(x, per_row, amax, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace halfbyte::ops::cuda
