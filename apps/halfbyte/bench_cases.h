// The cases of every operator; each family's are in bench_<family>.cpp.
#pragma once

#include "apps/halfbyte/bench_case.h"

namespace halfbyte::app {

BenchCase bench_quantize(const BenchOptions& options, BenchShape shape);
BenchCase bench_dequantize(const BenchOptions& options, BenchShape shape);
BenchCase bench_amax(const BenchOptions& options, BenchShape shape);
BenchCase bench_gemm(const BenchOptions& options, BenchShape shape);
BenchCase bench_gemm_silu_mul_quantize(const BenchOptions& options, BenchShape shape);
BenchCase bench_rmsnorm(const BenchOptions& options, BenchShape shape);
BenchCase bench_rmsnorm_quantize(const BenchOptions& options, BenchShape shape);
BenchCase bench_rope(const BenchOptions& options, BenchShape shape);
BenchCase bench_silu_mul(const BenchOptions& options, BenchShape shape);
BenchCase bench_silu_mul_quantize(const BenchOptions& options, BenchShape shape);

}  // namespace halfbyte::app
