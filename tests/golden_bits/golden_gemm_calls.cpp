#include "tests/golden_bits/golden_products.h"

namespace halfbyte::ops::golden {
namespace {

// Seeds of this family alone: they do not depend on what other families call.
constexpr std::uint64_t kFirstSeed = 2'000;
constexpr std::int64_t kN = 37;

void add_bytes(TensorSet& set, const char* name, std::vector<std::int64_t> shape, Lcg& lcg,
               std::uint32_t least, std::uint32_t count) {
  set.add(name, TestTensor(DType::kU8, std::move(shape)));
  const TensorView view = set.view(name);
  for (std::int64_t i = 0; i < view.numel(); ++i) {
    testing::set_bits(view, i, least + (lcg.next() >> 16) % count);
  }
}

// With `nan`, the seventh row of A, or of B, has a NaN among its scales.
void add_operand(TensorSet& set, const std::string& name, Format format, std::int64_t rows,
                 ScaleLayout layout, bool nan, Lcg& lcg) {
  const std::int64_t blocks = kColumns / formats::block_elements(format);
  add_bytes(set, (name + "_codes").c_str(), {rows, kColumns / 2}, lcg, 0, 256);
  const std::string scales = name + "_scales";
  const bool nvfp4 = format == Format::kNvfp4;
  add_bytes(set, scales.c_str(), {formats::scale_bytes(layout, rows, blocks)}, lcg, nvfp4 ? 0 : 120,
            nvfp4 ? 0x7F : 15);
  if (!nan) return;
  testing::set_bits(set.view(scales), formats::scale_offset(layout, 6, 3, blocks),
                    nvfp4 ? 0x7F : 0xFF);
}

void add_prepared(TensorSet& set, Format format, std::int64_t n, ScaleLayout layout) {
  set.add("b_prepared", TestTensor(DType::kU8, {prepared_weight_bytes(format, n, kColumns)}));
  PrepareWeightsArgs args;
  args.plain.format = format;
  args.plain.layout = layout;
  args.plain.rows = n;
  args.plain.columns = kColumns;
  args.plain.codes = set.view("b_codes");
  args.plain.scales = set.view("b_scales");
  args.prepared = set.view("b_prepared");
  (void)prepare_weights(args);
}

constexpr ScaleLayout kInputLayout = ScaleLayout::kLinear;  // what CUDA's exact kernels take

Call make_call(Format format, bool quantized, DType dtype, std::uint64_t seed) {
  const std::string option =
      std::string(formats::format_name(format)) + (quantized ? "_w4a4" : "_w4a16");
  const Product product{format, quantized, dtype, kN};
  Call call{name_of("gemm", option.c_str(), dtype), {}, {}};
  add_product(product, seed, true, call.set);
  call.set.add("c", TestTensor(dtype, {kRows, kN}));
  call.operation = [=](const TensorSet& tensors, const Execution& execution) {
    GemmArgs args = product_args(product, tensors);
    args.c = tensors.view("c");
    return gemm(args, execution);
  };
  return call;
}

}  // namespace

void add_product(const Product& product, std::uint64_t seed, bool nan, TensorSet& set) {
  Lcg lcg(seed);
  const auto b_layout = static_cast<ScaleLayout>(seed / 3 % 3);
  const DType dtype = product.dtype;
  if (product.quantized) {
    add_operand(set, "a", product.format, kRows, kInputLayout, nan, lcg);
  } else {
    set.add("a", TestTensor(dtype == DType::kF16 ? DType::kF16 : DType::kBF16, {kRows, kColumns}));
    fill(lcg, set.view("a"), nan);
  }
  add_operand(set, "b", product.format, product.n, b_layout, nan, lcg);
  add_prepared(set, product.format, product.n, b_layout);
  if (product.format == Format::kNvfp4) {
    set.add("a_scale", TestTensor(DType::kF32, {kRows}));
    for (int row = 0; row < kRows; ++row) {
      testing::set(set.view("a_scale"), row, std::fabs(lcg.value(-3)) + 0.001f);
    }
    set.add("b_scale", TestTensor(DType::kF32, {1}));
    testing::fill(set.view("b_scale"), {91.3f});
  }
  set.add("bias", TestTensor(seed % 2 == 0 ? dtype : DType::kF32, {product.n}));
  fill(lcg, set.view("bias"), false);
}

GemmArgs product_args(const Product& product, const TensorSet& tensors) {
  const bool nvfp4 = product.format == Format::kNvfp4;
  GemmArgs args;
  args.a = tensors.view("a");
  if (product.quantized) {
    args.a_packed.format = product.format;
    args.a_packed.layout = kInputLayout;
    args.a_packed.rows = kRows;
    args.a_packed.columns = kColumns;
    args.a_packed.codes = tensors.view("a_codes");
    args.a_packed.scales = tensors.view("a_scales");
    if (nvfp4) {
      args.a_packed.scale = tensors.view("a_scale");
      args.a_packed.scale_kind = ScaleKind::kDecode;
    }
  }
  args.b.format = product.format;
  args.b.rows = product.n;
  args.b.columns = kColumns;
  args.b.form = WeightForm::kPrepared;
  args.b.prepared = tensors.view("b_prepared");
  if (nvfp4) {
    args.b.scale = tensors.view("b_scale");
    args.b.scale_kind = ScaleKind::kEncode;
  }
  args.bias = tensors.view("bias");
  args.method = GemmMethod::kExact;
  return args;
}

void add_gemm_calls(std::vector<Call>& calls) {
  std::uint64_t seed = kFirstSeed;
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const bool quantized : {true, false}) {
      for (const DType dtype : kTypes) calls.push_back(make_call(format, quantized, dtype, ++seed));
    }
  }
}

}  // namespace halfbyte::ops::golden
