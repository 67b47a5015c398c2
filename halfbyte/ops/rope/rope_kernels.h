// What one implementation of this room is, over checked, resolved arguments. Internal.
#pragma once

#include <cstdint>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/ops/rope/rope_math.h"

namespace halfbyte::ops {

// Element k of head h of token m is data[m * token_stride + h * head_stride + k].
struct RopeRows {
  void* data = nullptr;
  std::int64_t token_stride = 0;  // elements
  std::int64_t head_stride = 0;
};

struct RopeProblem {
  RopeRows x, y;  // one and the same in place
  bool in_place = false;
  base::DType dtype = base::DType::kF32;
  std::int64_t tokens = 0, heads = 0, head_dim = 0;

  const void* positions = nullptr;
  bool wide_positions = false;  // i64
  const float* cos = nullptr;
  const float* sin = nullptr;
  std::int64_t cos_stride = 0, sin_stride = 0;  // elements
  std::int64_t table_rows = 0;                  // P

  RopeStyle style = RopeStyle::kNeox;
  std::int64_t rope_dim = 0, rope_offset = 0;
  bool inverse = false;
  // Store past the caches (CPU): y is larger than they are. A hint that changes no bit.
  bool streaming = false;

  HALFBYTE_HD std::int64_t position(std::int64_t token) const {
    return wide_positions ? static_cast<const std::int64_t*>(positions)[token]
                          : static_cast<const std::int32_t*>(positions)[token];
  }
};

using RopeKernel = void (*)(const RopeProblem& problem, int num_threads);

namespace reference {
void rope(const RopeProblem& problem, int num_threads);
}
namespace v3 {
void rope(const RopeProblem& problem, int num_threads);
}
namespace v4 {
void rope(const RopeProblem& problem, int num_threads);
}
namespace neon {
void rope(const RopeProblem& problem, int num_threads);
}
namespace cuda {
base::Status rope(const RopeProblem& problem, base::Device device,
                  const base::Execution& execution);
}

}  // namespace halfbyte::ops
