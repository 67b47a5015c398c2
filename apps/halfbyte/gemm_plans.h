// The plans of a matrix product by the names that commands take.
#pragma once

#include <string_view>
#include <utility>

#include "halfbyte/ops/gemm/gemm.h"

namespace halfbyte::app {

inline constexpr std::pair<std::string_view, ops::GemmMethod> kGemmPlans[] = {
    {"auto", ops::GemmMethod::kAuto},
    {"exact", ops::GemmMethod::kExact},
    {"tensor_core", ops::GemmMethod::kTensorCore},
    {"dequantize", ops::GemmMethod::kDequantize},
    {"fp8", ops::GemmMethod::kFp8},
    {"block_scaled", ops::GemmMethod::kBlockScaled}};

}  // namespace halfbyte::app
