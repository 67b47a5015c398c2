// From the arguments of gemm to the resolved problem, checking each. Internal.
#pragma once

#include <optional>

#include "halfbyte/base/status.h"
#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"

namespace halfbyte::ops {

// Whether memory is looked at: a query for workspace has shapes, and perhaps no memory yet.
enum class GemmCheck { kCall, kShapes };

// Every tensor is added to `overlap`. `inner`, where given, is the type of a product that stays in
// memory of the operator's own: args.c is absent, a says how many rows there are and where, and
// problem.c is null, its rows dense.
base::Result<GemmProblem> resolve_gemm(const GemmArgs& args, GemmCheck check, OverlapCheck& overlap,
                                       std::optional<base::DType> inner = {});

// "codes" of `rows` x `columns` FP4 values under the argument's name.
base::Result<Rows> resolve_fp4_codes(const char* argument, const TensorView& codes,
                                     std::int64_t rows, std::int64_t columns, base::Device device);
// A format and a K that products are defined for.
base::Status check_fp4_format(const char* argument, Format format);
base::Status check_fp4_columns(const char* argument, Format format, std::int64_t columns);
// Rows that exist, and of which `matrices` matrices have a size in bytes; columns have been
// checked.
base::Status check_fp4_rows(const char* argument, std::int64_t rows, std::int64_t columns,
                            std::int64_t matrices);
// u8, `bytes`, contiguous, kPreparedAlignment.
base::Status check_prepared(const char* argument, const TensorView& prepared, std::int64_t bytes,
                            base::Device device);

}  // namespace halfbyte::ops
