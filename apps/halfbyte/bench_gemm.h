// What the command line and the report of `halfbyte bench` need to know of products.
#pragma once

#include <string>
#include <string_view>

#include "apps/halfbyte/bench_case.h"

namespace halfbyte::app {

// The form of the weights: as asked for, or what the device is fastest with.
ops::WeightForm bench_weights(const BenchOptions& options);
std::string_view bench_plan_name(ops::GemmMethod plan);
ops::GemmMethod bench_plan(std::string_view name);  // kAuto if there is none of this name
// What `bench gemm` would time, and why that: nothing is run.
base::Result<std::string> explain_product(const BenchOptions& options, BenchShape shape);

}  // namespace halfbyte::app
