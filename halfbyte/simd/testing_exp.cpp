#include "halfbyte/simd/testing_exp.h"

#include "halfbyte/base/cpu_level.h"

namespace halfbyte::simd {

std::vector<ExpLevel> available_exp_levels() {
  std::vector<ExpLevel> levels;
  for (const base::CpuLevel level : base::available_cpu_levels()) {
#ifdef HALFBYTE_HAS_CPU_V4
    if (level == base::CpuLevel::kV4) levels.push_back({v4::exp_of, v4::scalar_exp_of});
#endif
#ifdef HALFBYTE_HAS_CPU_V3
    if (level == base::CpuLevel::kV3) levels.push_back({v3::exp_of, v3::scalar_exp_of});
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
    if (level == base::CpuLevel::kNeon) levels.push_back({neon::exp_of, neon::scalar_exp_of});
#endif
  }
  return levels;
}

}  // namespace halfbyte::simd
