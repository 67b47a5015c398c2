#include "halfbyte/ops/gemm/gemm_silu_mul.h"
#include "tests/golden_bits/golden_products.h"

namespace halfbyte::ops::golden {
namespace {

// Seeds of this family alone: they do not depend on what other families call.
constexpr std::uint64_t kFirstSeed = 3'000;
constexpr std::int64_t kY = 96;

const Activation kActivations[] = {
    {},
    {.rounding = Rounding::kHuggingFace},
    {.interleave = 1, .clamp = 7.0f, .alpha = 1.702f, .up_bias = 1.0f},
    {.interleave = 8, .clamp = 0.5f}};

}  // namespace

void add_gemm_silu_mul_calls(std::vector<Call>& calls) {
  std::uint64_t seed = kFirstSeed;
  for (const auto& [name, spec] : specs()) {
    if (spec.scale_rule == ScaleRule::kTe) continue;
    ++seed;
    const bool mxfp4 = spec.scale == ScaleMode::kComputed || spec.mx_rule == MxRule::kOcpFloor;
    const Product product{mxfp4 ? Format::kMxfp4 : Format::kNvfp4, seed % 4 != 1, kTypes[seed % 3],
                          2 * kY};
    const Activation activation = kActivations[seed % 4];
    Call call{name_of("gemm_silu_mul_quantize", name, product.dtype), {}, {}};
    // A NaN among the weights would make every row NaN where its scale is computed from it.
    add_product(product, seed, spec.scale == ScaleMode::kTensor, call.set);
    if (!mxfp4) testing::fill(call.set.view("b_scale"), {2e6f});  // y of about 1
    add_outputs(call.set, spec, kRows, kY);
    call.operation = [product, activation, spec = spec](const TensorSet& set,
                                                        const Execution& execution) {
      GemmSiluMulQuantizeArgs args;
      args.product = product_args(product, set);
      args.dtype = product.dtype;
      args.activation = activation;
      args.given = given(set);
      args.spec = spec;
      args.out = outputs(set);
      const base::Result<std::size_t> bytes = gemm_silu_mul_workspace_bytes(args, execution);
      if (!bytes.ok()) return bytes.status();
      Execution with_workspace = execution;
      if (bytes.value() > 0) with_workspace.workspace = testing::cuda_workspace(bytes.value());
      with_workspace.workspace_bytes = bytes.value();
      return gemm_silu_mul_quantize(args, with_workspace);
    };
    calls.push_back(std::move(call));
  }
}

}  // namespace halfbyte::ops::golden
