// One measurement of rmsnorm_quantize: fused, unfused and floor on the same data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/ops/common/quantize_spec.h"

namespace halfbyte::app {

// What to run, on host tensors that are copied: [M, H], [M, H] or absent, [H].
struct NormCase {
  base::TensorView x;
  base::TensorView residual;
  base::TensorView weight;
  float eps = 1e-6f;
  ops::QuantizeSpec spec;  // scale = tensor; the fp32 scale is taken from the data
  base::Backend backend = base::Backend::kAuto;
  int num_threads = 0;
};

struct NormTiming {
  double fused_us = 0;
  double unfused_us = 0;           // rmsnorm (with the residual, if any), then quantize
  std::optional<double> floor_us;  // the best variant's
  std::int64_t bytes = 0;          // that the fused operator must read and write
  bool bits_equal = false;         // fused == unfused, and == the reference where it was run
  bool checked_reference = false;  // small cases only

  std::optional<double> ratio() const {
    return floor_us ? std::optional(fused_us / *floor_us) : std::nullopt;
  }
  double gb_per_s() const { return static_cast<double>(bytes) / fused_us / 1e3; }
};

// Buffers rotate over three times the last-level cache (CUDA: the L2).
base::Result<NormTiming> measure_norm_quantize(const NormCase& norm_case);

// CPU threads that a call with `num_threads` gets.
int resolved_threads(int num_threads);

}  // namespace halfbyte::app
