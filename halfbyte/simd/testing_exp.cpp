#include "halfbyte/simd/testing_exp.h"

#include "halfbyte/base/cpu_level.h"

namespace halfbyte::simd {

std::vector<ExpOf> available_exp_of() {
  std::vector<ExpOf> functions;
  for (const base::CpuLevel level : base::available_cpu_levels()) {
#ifdef HALFBYTE_HAS_CPU_V4
    if (level == base::CpuLevel::kV4) functions.push_back(v4::exp_of);
#endif
#ifdef HALFBYTE_HAS_CPU_V3
    if (level == base::CpuLevel::kV3) functions.push_back(v3::exp_of);
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
    if (level == base::CpuLevel::kNeon) functions.push_back(neon::exp_of);
#endif
  }
  return functions;
}

}  // namespace halfbyte::simd
