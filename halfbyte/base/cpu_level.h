// Which instruction set the CPU kernels use. Every kernel exists once a level, all with the same
// bits; below the lowest level the reference runs.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "halfbyte/base/macros.h"

namespace halfbyte::base {

enum class CpuLevel {
  kReference,  // naive loops, any processor
  kV3,         // x86-64-v3: AVX2, FMA, F16C
  kV4,         // x86-64-v4: AVX-512 F, BW, CD, DQ, VL
  kNeon,       // AArch64
};

HALFBYTE_API std::string_view cpu_level_name(CpuLevel level);  // "reference", "v3", "v4", "neon"
HALFBYTE_API std::optional<CpuLevel> cpu_level_from_name(std::string_view name);

// The levels that this build has and this processor runs, lowest first; the first is kReference.
HALFBYTE_API const std::vector<CpuLevel>& available_cpu_levels();

// The highest available one, or a lower one named by the environment variable HALFBYTE_CPU_LEVEL
// (read once; a name that is unknown or not available here is ignored, `halfbyte doctor` tells).
HALFBYTE_API CpuLevel default_cpu_level();

}  // namespace halfbyte::base
