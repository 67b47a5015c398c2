// Test support: simd/exp.h as a function of each CPU level.
#pragma once

#include <cstdint>
#include <vector>

namespace halfbyte::simd {

// y[i] = exp(x[i]); `count` is a multiple of 16.
using ExpOf = void (*)(const float* x, std::int64_t count, float* y);
namespace v3 {
void exp_of(const float* x, std::int64_t count, float* y);
}
namespace v4 {
void exp_of(const float* x, std::int64_t count, float* y);
}
namespace neon {
void exp_of(const float* x, std::int64_t count, float* y);
}

// Those that this build has and this machine runs.
std::vector<ExpOf> available_exp_of();

}  // namespace halfbyte::simd
