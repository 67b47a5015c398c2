// What is checked before an operator is timed, and the fp32 scale that suits the data.
#pragma once

#include <cstdint>

#include "apps/halfbyte/bench_data.h"
#include "apps/halfbyte/bench_table.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

// Rows of `shape` that the naive reference can do in a moment: the check of a larger tensor is that
// of its first rows.
std::int64_t reference_rows(BenchShape shape);

// The scale for a case's data, from the largest magnitude of what is quantized (of the first rows,
// if the data are random: every part of them is like the next). 1 where none is given.
base::Result<float> fit_scale(const BenchOperator& op, const BenchOptions& options,
                              BenchShape shape, BenchData& data);

// The operator on `device` against the reference on the host: whether all outputs have equal bits.
base::Result<bool> equals_reference(const BenchOperator& op, const BenchOptions& options,
                                    BenchShape shape, float scale, base::Device device,
                                    const base::Execution& execution, BenchData& data);

// The fused path against the unfused one, which the case has.
base::Result<bool> equals_unfused(const BenchCase& bench_case, base::Device device,
                                  const base::Execution& execution, BenchData& data);

}  // namespace halfbyte::app
