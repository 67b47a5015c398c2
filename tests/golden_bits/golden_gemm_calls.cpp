#include "halfbyte/ops/gemm/gemm.h"
#include "tests/golden_bits/golden_calls.h"

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

// The seventh row of A, or of B, has a NaN among its scales.
void add_operand(TensorSet& set, const std::string& name, Format format, std::int64_t rows,
                 ScaleLayout layout, Lcg& lcg) {
  const std::int64_t blocks = kColumns / formats::block_elements(format);
  add_bytes(set, (name + "_codes").c_str(), {rows, kColumns / 2}, lcg, 0, 256);
  const std::string scales = name + "_scales";
  const bool nvfp4 = format == Format::kNvfp4;
  add_bytes(set, scales.c_str(), {formats::scale_bytes(layout, rows, blocks)}, lcg, nvfp4 ? 0 : 120,
            nvfp4 ? 0x7F : 15);
  testing::set_bits(set.view(scales), formats::scale_offset(layout, 6, 3, blocks),
                    nvfp4 ? 0x7F : 0xFF);
}

void add_prepared(TensorSet& set, Format format, ScaleLayout layout) {
  set.add("b_prepared", TestTensor(DType::kU8, {prepared_weight_bytes(format, kN, kColumns)}));
  PrepareWeightsArgs args;
  args.plain.format = format;
  args.plain.layout = layout;
  args.plain.rows = kN;
  args.plain.columns = kColumns;
  args.plain.codes = set.view("b_codes");
  args.plain.scales = set.view("b_scales");
  args.prepared = set.view("b_prepared");
  (void)prepare_weights(args);
}

Call make_call(Format format, bool quantized, DType dtype, std::uint64_t seed) {
  Lcg lcg(seed);
  constexpr ScaleLayout a_layout = ScaleLayout::kLinear;  // what CUDA's exact kernels take
  const auto b_layout = static_cast<ScaleLayout>(seed / 3 % 3);
  const bool nvfp4 = format == Format::kNvfp4;
  const std::string option =
      std::string(formats::format_name(format)) + (quantized ? "_w4a4" : "_w4a16");
  Call call{name_of("gemm", option.c_str(), dtype), {}, {}};
  TensorSet& set = call.set;
  if (quantized) {
    add_operand(set, "a", format, kRows, a_layout, lcg);
  } else {
    set.add("a", TestTensor(dtype == DType::kF16 ? DType::kF16 : DType::kBF16, {kRows, kColumns}));
    fill(lcg, set.view("a"), true);
  }
  add_operand(set, "b", format, kN, b_layout, lcg);
  add_prepared(set, format, b_layout);
  if (nvfp4) {
    set.add("a_scale", TestTensor(DType::kF32, {kRows}));
    for (int row = 0; row < kRows; ++row) {
      testing::set(set.view("a_scale"), row, std::fabs(lcg.value(-3)) + 0.001f);
    }
    set.add("b_scale", TestTensor(DType::kF32, {1}));
    testing::fill(set.view("b_scale"), {91.3f});
  }
  set.add("bias", TestTensor(seed % 2 == 0 ? dtype : DType::kF32, {kN}));
  fill(lcg, set.view("bias"), false);
  set.add("c", TestTensor(dtype, {kRows, kN}));
  call.operation = [=](const TensorSet& tensors, const Execution& execution) {
    GemmArgs args;
    args.a = tensors.view("a");
    if (quantized) {
      args.a_packed.format = format;
      args.a_packed.layout = a_layout;
      args.a_packed.rows = kRows;
      args.a_packed.columns = kColumns;
      args.a_packed.codes = tensors.view("a_codes");
      args.a_packed.scales = tensors.view("a_scales");
      if (nvfp4) {
        args.a_packed.scale = tensors.view("a_scale");
        args.a_packed.scale_kind = ScaleKind::kDecode;
      }
    }
    args.b.format = format;
    args.b.rows = kN;
    args.b.columns = kColumns;
    args.b.form = WeightForm::kPrepared;
    args.b.prepared = tensors.view("b_prepared");
    if (nvfp4) {
      args.b.scale = tensors.view("b_scale");
      args.b.scale_kind = ScaleKind::kEncode;
    }
    args.bias = tensors.view("bias");
    args.c = tensors.view("c");
    args.method = GemmMethod::kExact;
    return gemm(args, execution);
  };
  return call;
}

}  // namespace

void add_gemm_calls(std::vector<Call>& calls) {
  std::uint64_t seed = kFirstSeed;
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    for (const bool quantized : {true, false}) {
      for (const DType dtype : kTypes) calls.push_back(make_call(format, quantized, dtype, ++seed));
    }
  }
}

}  // namespace halfbyte::ops::golden
