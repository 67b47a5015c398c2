#include "halfbyte/base/cpu_level.h"

#ifdef HALFBYTE_HAS_CPU_V3
#include <cpuid.h>
#endif

#include <algorithm>
#include <cstdlib>

namespace halfbyte::base {
namespace {

struct LevelName {
  CpuLevel level;
  std::string_view name;
};
constexpr LevelName kNames[] = {{CpuLevel::kReference, "reference"},
                                {CpuLevel::kV3, "v3"},
                                {CpuLevel::kV4, "v4"},
                                {CpuLevel::kNeon, "neon"}};

#ifdef HALFBYTE_HAS_CPU_V3
// F16C and LZCNT by CPUID: clang 14's __builtin_cpu_supports does not know their names.
bool has_f16c_and_lzcnt() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
  const bool lzcnt =
      __get_cpuid(0x80000001u, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 5)) != 0;
  return f16c && lzcnt;
}

bool runs_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_f16c_and_lzcnt();
}
bool runs_v4() {
  return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

std::vector<CpuLevel> find_levels() {
  std::vector<CpuLevel> levels = {CpuLevel::kReference};
#ifdef HALFBYTE_HAS_CPU_V3
  if (runs_v3()) levels.push_back(CpuLevel::kV3);
  if (runs_v4()) levels.push_back(CpuLevel::kV4);
#endif
#ifdef HALFBYTE_HAS_CPU_NEON
  levels.push_back(CpuLevel::kNeon);
#endif
  return levels;
}

CpuLevel choose_default() {
  const std::vector<CpuLevel>& levels = available_cpu_levels();
  if (const char* name = std::getenv("HALFBYTE_CPU_LEVEL")) {
    const std::optional<CpuLevel> wanted = cpu_level_from_name(name);
    if (wanted && std::find(levels.begin(), levels.end(), *wanted) != levels.end()) return *wanted;
  }
  return levels.back();
}

}  // namespace

std::string_view cpu_level_name(CpuLevel level) {
  for (const LevelName& entry : kNames) {
    if (entry.level == level) return entry.name;
  }
  return "unknown";
}

std::optional<CpuLevel> cpu_level_from_name(std::string_view name) {
  for (const LevelName& entry : kNames) {
    if (entry.name == name) return entry.level;
  }
  return std::nullopt;
}

const std::vector<CpuLevel>& available_cpu_levels() {
  // Asked once: CPUID leaves a virtual machine, which took 28 us of every call.
  static const std::vector<CpuLevel> levels = find_levels();
  return levels;
}

CpuLevel default_cpu_level() {
  static const CpuLevel level = choose_default();
  return level;
}

}  // namespace halfbyte::base
