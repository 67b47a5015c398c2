// Cases of gemm and gemm_silu_mul_quantize: M x N x K. dtype is the type of c, and of a where
// activations are 16-bit (fp32 there is bf16). The floor reads the same bytes: weights, activation,
// scales. Of the gate-up product N is 2I, and the unfused path is gemm, then silu_mul_quantize.
#include "apps/halfbyte/bench_gemm.h"

#include <random>
#include <utility>

#include "apps/halfbyte/bench_cases.h"
#include "apps/halfbyte/bench_tail.h"
#include "apps/halfbyte/gemm_plans.h"
#include "apps/halfbyte/op_tensors.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/gemm/gemm_silu_mul.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Execution;
using base::Status;
using formats::Format;
using ops::GemmMethod;
using ops::WeightForm;

// Prepared weights of random codes, their scales 0.5 to 1.875 (NVFP4) or 1/8 to 4.
std::vector<std::uint8_t> prepared_weights(Format format, std::int64_t n, std::int64_t k) {
  std::vector<std::uint8_t> bytes(
      static_cast<std::size_t>(ops::prepared_weight_bytes(format, n, k)));
  std::mt19937 generator(7);
  const auto unit = static_cast<std::size_t>(ops::unit_bytes(format));
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    const bool scale = at % unit >= ops::kUnitCodeBytes;
    const auto random = static_cast<std::uint32_t>(generator());
    bytes[at] = static_cast<std::uint8_t>(
        !scale ? random
        : format == Format::kMxfp4
            ? 124 + random % 6
            : ops::prepared_scale(static_cast<std::uint8_t>(0x30 + random % 16)));
  }
  if (format == Format::kMxfp4) return bytes;
  for (std::size_t start = 0; start < bytes.size(); start += unit) {
    for (std::size_t at = start + ops::kUnitCodeBytes; at < start + unit; at += 4) {
      const std::uint8_t scales[4] = {bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]};
      ops::store_word(ops::scale_word(scales), bytes.data() + at);
    }
  }
  return bytes;
}

struct Product {
  Format format = Format::kNvfp4;
  formats::ScaleLayout layout = formats::ScaleLayout::kLinear;
  GemmMethod plan = GemmMethod::kAuto;
  bool on_cuda = false;
  BenchShape shape;
  int a = kAbsent, a_codes = kAbsent, a_scales = kAbsent, c = kAbsent;
  int b_codes = kAbsent, b_scales = kAbsent, b_prepared = kAbsent;
  std::shared_ptr<const std::vector<std::uint8_t>> prepared;  // the contents of b_prepared
  std::shared_ptr<float> scale = std::make_shared<float>(0.5f);
  // Device memory that the plan asks for; made at the first call, which is not timed.
  std::shared_ptr<std::optional<OwnedTensor>> workspace =
      std::make_shared<std::optional<OwnedTensor>>();

  ops::GemmArgs args(const TensorSet& set) const {
    ops::GemmArgs args;
    // CUDA's answer is compared with the host's exact one.
    args.method = on_cuda && set[c].device == kHost ? GemmMethod::kExact : plan;
    args.a = set[a];
    args.a_packed.format = args.b.format = format;
    args.a_packed.layout = layout;
    args.a_packed.rows = shape.rows;
    args.a_packed.columns = args.b.columns = shape.inner;
    args.a_packed.codes = set[a_codes];
    args.a_packed.scales = set[a_scales];
    args.b.rows = shape.columns;
    args.b.codes = set[b_codes];
    args.b.scales = set[b_scales];
    args.b.prepared = set[b_prepared];
    args.b.form = b_prepared == kAbsent ? WeightForm::kPlain : WeightForm::kPrepared;
    args.c = set[c];
    if (format == Format::kMxfp4) return args;
    args.b.scale = base::TensorView(scale.get(), DType::kF32, {1});
    args.b.scale_kind = ops::ScaleKind::kDecode;
    if (a != kAbsent) return args;
    args.a_packed.scale = args.b.scale;
    args.a_packed.scale_kind = args.b.scale_kind;
    return args;
  }

  // `call` with the workspace that `query` asks for.
  template <class Args>
  Status run(const Args& arguments, Execution execution,
             base::Result<std::size_t> (*query)(const Args&, const Execution&),
             Status (*call)(const Args&, const Execution&)) const {
    const base::Result<std::size_t> bytes = query(arguments, execution);
    if (!bytes.ok()) return bytes.status();
    if (bytes.value() > 0 && (!*workspace || (*workspace)->size_bytes() < bytes.value())) {
      const std::int64_t size[] = {static_cast<std::int64_t>(bytes.value())};
      base::Result<OwnedTensor> memory = OwnedTensor::create(DType::kU8, size, kCudaDevice);
      if (!memory.ok()) return memory.status();
      *workspace = std::move(memory).value();
    }
    if (*workspace) {
      execution.workspace = (*workspace)->view().data;
      execution.workspace_bytes = (*workspace)->size_bytes();
    }
    return call(arguments, execution);
  }
  Status run_gemm(const TensorSet& set, const Execution& execution) const {
    return run(args(set), execution, ops::gemm_workspace_bytes, ops::gemm);
  }
};

// The operands; c is the caller's to add.
Product add_product(BenchCase& result, const BenchOptions& options, BenchShape shape, Format format,
                    formats::ScaleLayout layout) {
  Product product;
  product.format = format;
  product.layout = layout;
  product.plan = options.plan;
  product.on_cuda = options.backend == base::Backend::kCuda;
  product.shape = shape;
  const std::int64_t n = shape.columns, k = shape.inner;
  const std::int64_t blocks = k / formats::block_elements(product.format);
  const Fill scales = product.format == Format::kNvfp4 ? Fill::kE4m3Scales : Fill::kE8m0Scales;
  if (options.activations16) {
    product.a = result.add(Role::kRead, options.dtype == DType::kF16 ? DType::kF16 : DType::kBF16,
                           {shape.rows, k}, Fill::kNormal);
  } else {
    product.a_codes = result.add(Role::kRead, DType::kU8, {shape.rows, k / 2}, Fill::kCodes);
    product.a_scales =
        result.add(Role::kRead, DType::kU8,
                   {formats::scale_bytes(product.layout, shape.rows, blocks)}, scales);
    result.tensors[static_cast<std::size_t>(product.a_scales)].must_touch_bytes =
        shape.rows * blocks;
  }
  if (bench_weights(options) == WeightForm::kPrepared) {
    product.prepared =
        std::make_shared<const std::vector<std::uint8_t>>(prepared_weights(product.format, n, k));
    auto* bytes = const_cast<std::uint8_t*>(product.prepared->data());  // it is read from
    product.b_prepared = result.add_given(
        Role::kRead,
        base::TensorView(bytes, DType::kU8, {static_cast<std::int64_t>(product.prepared->size())}));
  } else {
    product.b_codes = result.add(Role::kRead, DType::kU8, {n, k / 2}, Fill::kCodes);
    product.b_scales = result.add(Role::kRead, DType::kU8, {n, blocks}, scales);
  }
  return product;
}

}  // namespace

WeightForm bench_weights(const BenchOptions& options) {
  return options.weights.value_or(options.backend == base::Backend::kCuda ? WeightForm::kPrepared
                                                                          : WeightForm::kPlain);
}

std::string_view bench_plan_name(GemmMethod plan) {
  for (const auto& [name, value] : kGemmPlans) {
    if (value == plan) return name;
  }
  return "auto";
}
GemmMethod bench_plan(std::string_view name) {
  for (const auto& [known, value] : kGemmPlans) {
    if (known == name) return value;
  }
  return GemmMethod::kAuto;
}

base::Result<std::string> explain_product(const BenchOptions& options, BenchShape shape) {
  const base::Device device = options.backend == base::Backend::kCuda ? kCudaDevice : kHost;
  const auto tensor = [&](DType dtype, std::initializer_list<std::int64_t> sizes) {
    return base::TensorView(nullptr, dtype, sizes, device);
  };
  const Format format = options.spec.format;
  const std::int64_t m = shape.rows, n = shape.columns, k = shape.inner;
  const std::int64_t blocks = k / formats::block_elements(format);
  float one = 1.0f;
  ops::GemmArgs args;
  args.method = options.plan;
  args.b.format = format;
  args.b.rows = n;
  args.b.columns = k;
  args.b.form = bench_weights(options);
  if (args.b.form == WeightForm::kPrepared) {
    args.b.prepared = tensor(DType::kU8, {ops::prepared_weight_bytes(format, n, k)});
  } else {
    args.b.codes = tensor(DType::kU8, {n, k / 2});
    args.b.scales = tensor(DType::kU8, {n, blocks});
  }
  if (format == Format::kNvfp4) {
    args.b.scale = base::TensorView(&one, DType::kF32, {1});
    args.b.scale_kind = ops::ScaleKind::kDecode;
  }
  if (options.activations16) {
    args.a = tensor(options.dtype == DType::kF16 ? DType::kF16 : DType::kBF16, {m, k});
  } else {
    args.a_packed.format = format;
    args.a_packed.layout = options.spec.layout;
    args.a_packed.rows = m;
    args.a_packed.columns = k;
    args.a_packed.codes = tensor(DType::kU8, {m, k / 2});
    args.a_packed.scales =
        tensor(DType::kU8, {formats::scale_bytes(options.spec.layout, m, blocks)});
    args.a_packed.scale = args.b.scale;
    args.a_packed.scale_kind = args.b.scale_kind;
  }
  args.c = tensor(options.dtype, {m, n});
  Execution execution;
  execution.backend = options.backend;
  return ops::explain_gemm(args, execution);
}

BenchCase bench_gemm(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  Product product = add_product(result, options, shape, options.spec.format, options.spec.layout);
  product.c = result.add(Role::kWrite, options.dtype, {shape.rows, shape.columns});
  result.fused = [product](const TensorSet& set, const Execution& execution) {
    return product.run_gemm(set, execution);
  };
  return result;
}

// --format and --layout are the result's; the weights of an FP8 result are NVFP4.
BenchCase bench_gemm_silu_mul_quantize(const BenchOptions& options, BenchShape shape) {
  BenchCase result;
  const Format format = options.spec.format == Format::kMxfp4 ? Format::kMxfp4 : Format::kNvfp4;
  Product product = add_product(result, options, shape, format, formats::ScaleLayout::kLinear);
  product.c = result.add(Role::kScratch, options.dtype, {shape.rows, shape.columns});
  const BenchShape y_shape{shape.rows, shape.columns / 2, 0};
  const int y = result.add(Role::kScratch, options.dtype, {y_shape.rows, y_shape.columns});
  const QuantizeTail tail(result, options, y_shape, y);
  ops::Activation activation;
  activation.interleave = options.interleave;
  // Workspace of its own: what one call asks for must not move what the other has been captured
  // with.
  Product inside = product;
  inside.workspace = std::make_shared<std::optional<OwnedTensor>>();
  result.fused = [=](const TensorSet& set, const Execution& execution) {
    ops::GemmSiluMulQuantizeArgs args;
    args.product = inside.args(set);
    args.product.c = {};
    args.dtype = options.dtype;
    args.activation = activation;
    args.given = tail.given();
    args.spec = tail.spec();
    args.out = tail.out(set);
    return inside.run(args, execution, ops::gemm_silu_mul_workspace_bytes,
                      ops::gemm_silu_mul_quantize);
  };
  result.make_quantized = [=](const TensorSet& set, const Execution& execution) -> Status {
    HALFBYTE_RETURN_IF_ERROR(product.run_gemm(set, execution));
    return ops::silu_mul({set[product.c], activation, set[y]}, execution);
  };
  result.unfused = [=](const TensorSet& set, const Execution& execution) -> Status {
    HALFBYTE_RETURN_IF_ERROR(product.run_gemm(set, execution));
    ops::SiluMulQuantizeArgs args;
    args.gate_up = set[product.c];
    args.activation = activation;
    args.given = tail.given();
    args.spec = tail.spec();
    args.out = tail.out(set);
    return ops::silu_mul_quantize(args, execution);
  };
  return result;
}

}  // namespace halfbyte::app
