// Test support: simd/exp.h as a function of each CPU level.
#pragma once

#include <cstdint>
#include <vector>

namespace halfbyte::simd {

// y[i] = exp(x[i]); `count` is a multiple of 16. exp_of is simd/exp.h, scalar_exp_of numerics/exp.h
// compiled for the level, whose fma is then an instruction and not a call.
using ExpOf = void (*)(const float* x, std::int64_t count, float* y);
namespace v3 {
void exp_of(const float* x, std::int64_t count, float* y);
void scalar_exp_of(const float* x, std::int64_t count, float* y);
}  // namespace v3
namespace v4 {
void exp_of(const float* x, std::int64_t count, float* y);
void scalar_exp_of(const float* x, std::int64_t count, float* y);
}  // namespace v4
namespace neon {
void exp_of(const float* x, std::int64_t count, float* y);
void scalar_exp_of(const float* x, std::int64_t count, float* y);
}  // namespace neon

struct ExpLevel {
  ExpOf simd, scalar;
};
// Those that this build has and this machine runs.
std::vector<ExpLevel> available_exp_levels();

}  // namespace halfbyte::simd
