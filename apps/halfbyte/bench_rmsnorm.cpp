// Cases of rmsnorm and rmsnorm_quantize. Unfused: rmsnorm (with the residual addition), quantize.
#include "apps/halfbyte/bench_cases.h"
#include "apps/halfbyte/bench_tail.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::app {
namespace {

using base::Execution;
using base::Status;

// What every form of the norm takes.
struct NormTensors {
  int x = kAbsent, weight = kAbsent, residual = kAbsent;
  float eps = 1e-6f;

  ops::NormArgs args(const TensorSet& set) const {
    ops::NormArgs norm;
    norm.x = set[x];
    norm.weight = set[weight];
    norm.residual = set[residual];
    norm.eps = eps;
    return norm;
  }
};

// The first rows of a tensor.
base::TensorView first_rows(base::TensorView view, std::int64_t rows) {
  if (view.given) view.shape[0] = rows;
  return view;
}

NormTensors add_norm(BenchCase& result, const BenchOptions& options, BenchShape shape) {
  NormTensors norm;
  norm.eps = options.eps;
  if (options.norm != nullptr) {
    const base::TensorView& residual = options.norm->residual.view();
    norm.x = result.add_given(Role::kRead, first_rows(options.norm->x.view(), shape.rows));
    norm.weight = result.add_given(Role::kRead, options.norm->weight.view());
    if (residual.given) {
      norm.residual = result.add_given(Role::kUpdate, first_rows(residual, shape.rows));
    }
    return norm;
  }
  const std::vector<std::int64_t> all = {shape.rows, shape.columns};
  norm.x = result.add(Role::kRead, options.dtype, all, Fill::kNormal);
  norm.weight = result.add(Role::kRead, options.dtype, {shape.columns}, Fill::kWeight);
  if (options.residual) {
    norm.residual = result.add(Role::kUpdate, options.dtype, all, Fill::kNormal);
  }
  return norm;
}

BenchCall rmsnorm_into(const NormTensors& norm, int y) {
  return [norm, y](const TensorSet& set, const Execution& execution) {
    ops::RmsNormArgs args;
    args.norm = norm.args(set);
    args.y = set[y];
    return ops::rmsnorm(args, execution);
  };
}

base::DType dtype_of_x(const BenchCase& bench_case, const NormTensors& norm) {
  return bench_case.tensors[static_cast<std::size_t>(norm.x)].model.dtype;
}

}  // namespace

BenchCase bench_rmsnorm(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const NormTensors norm = add_norm(result, options, shape);
  const int y = result.add(Role::kWrite, dtype_of_x(result, norm), {shape.rows, shape.columns});
  result.fused = rmsnorm_into(norm, y);
  return result;
}

BenchCase bench_rmsnorm_quantize(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const NormTensors norm = add_norm(result, options, shape);
  const bool normed = options.normed;
  const int y = result.add(normed ? Role::kWrite : Role::kScratch, dtype_of_x(result, norm),
                           {shape.rows, shape.columns});
  const QuantizeTail tail(result, options, shape, y);
  result.fused = [=](const TensorSet& set, const Execution& execution) {
    ops::RmsNormQuantizeArgs args;
    args.norm = norm.args(set);
    if (normed) args.normed = set[y];
    args.given = tail.given();
    args.spec = tail.spec();
    args.out = tail.out(set);
    return ops::rmsnorm_quantize(args, execution);
  };
  const BenchCall rmsnorm = rmsnorm_into(norm, y);
  result.make_quantized = rmsnorm;
  result.unfused = [=](const TensorSet& set, const Execution& execution) -> Status {
    HALFBYTE_RETURN_IF_ERROR(rmsnorm(set, execution));
    return tail.quantize(set[y], set, execution);
  };
  return result;
}

}  // namespace halfbyte::app
