#include "halfbyte/ops/gemm/gemm_testing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::ops::testing {
namespace {

using base::DType;

// Every remainder of the kernels' tiles, and K below, at and past slices.
GemmShape random_gemm_shape(Random& random, bool grouped) {
  GemmShape shape;
  shape.format = random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4});
  shape.m = random.one_in(3) ? 1 : random.in(1, 20);
  if (random.one_in(10)) shape.m = random.in(21, 70);
  shape.n = random.one_in(3) ? random.in(1, 40) : random.in(1, 100);
  std::int64_t blocks = random.one_in(3) ? random.in(1, 9) : random.in(1, 70);
  if (random.one_in(20)) blocks = random.in(70, 600);
  if (random.one_in(4)) blocks = formats::round_up_to(blocks, 8);
  const std::int64_t most = 40'000;  // blocks of the product
  while (shape.m * shape.n * blocks > most) {
    (shape.m > shape.n ? shape.m : shape.n) /= 2;
    if (shape.m * shape.n == 1) break;
    shape.m = std::max<std::int64_t>(shape.m, 1);
    shape.n = std::max<std::int64_t>(shape.n, 1);
  }
  if (random.one_in(60)) shape.m = 0;
  if (random.one_in(60)) shape.n = 0;
  shape.k = blocks * formats::block_elements(shape.format);
  if (grouped) shape.groups = random.in(1, 7);
  return shape;
}

void add_array(Random& random, const std::string& name, DType dtype, std::int64_t count,
               TensorSet& set) {
  set.add(name, TestTensor(dtype, {count}, {}, random.one_in(2) ? 0 : random.in(1, 7)));
}

// A scale that is given: `many` or one, perhaps on the host.
ScaleKind add_scale(Random& random, const std::string& name, std::int64_t many, ScaleKind kind,
                    TensorSet& set) {
  if (kind == ScaleKind::kNone) return kind;
  const bool one = many == 0 || random.one_in(2);
  add_array(random, name, DType::kF32, one ? 1 : many, set);
  if (one && random.one_in(3)) set.keep_on_host(name);
  const TensorView view = set.view(name);
  for (std::int64_t i = 0; i < view.numel(); ++i) {
    float scale = random.one_in(4)
                      ? random_scale(random)
                      : std::ldexp(1 + random.uniform() / 2, static_cast<int>(random.in(-12, 6)));
    if (kind == ScaleKind::kDecode && random.one_in(40)) {
      scale = random.pick(
          {0.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()});
    }
    set.view(name);
    testing::set(view, i, scale);
  }
  return kind;
}

// Where each group's rows and scales begin; rows of no group before and after.
void add_groups(Random& random, const GemmShape& shape, bool quantized, ScaleLayout layout,
                TensorSet& set) {
  std::vector<std::int64_t> rows;
  for (std::int64_t e = 0; e <= shape.groups; ++e) rows.push_back(random.in(0, shape.m));
  std::sort(rows.begin(), rows.end());
  if (!random.one_in(4)) rows.front() = 0;
  if (!random.one_in(4)) rows.back() = shape.m;
  if (random.one_in(8)) {  // one group has all
    const std::int64_t all = random.in(0, shape.groups - 1);
    for (std::int64_t e = 0; e <= shape.groups; ++e) {
      rows[static_cast<std::size_t>(e)] = e <= all ? 0 : shape.m;
    }
  }
  const std::int64_t unit = formats::padded_scale_rows(layout, 1);
  std::vector<std::int64_t> scale_rows = {unit * random.in(0, 1)};
  for (std::size_t e = 0; e + 1 < rows.size(); ++e) {
    scale_rows.push_back(
        formats::round_up_to(scale_rows.back() + rows[e + 1] - rows[e] + random.in(0, 3), unit));
  }
  const auto add = [&](const char* name, const std::vector<std::int64_t>& offsets) {
    set.add(name, TestTensor(DType::kI32, {static_cast<std::int64_t>(offsets.size())}));
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      set_bits(set.view(name), static_cast<std::int64_t>(i),
               static_cast<std::uint32_t>(offsets[i]));
    }
  };
  add("row_offsets", rows);
  if (!quantized) return;
  add("scale_row_offsets", scale_rows);
  add_array(random, "a_scales", DType::kU8,
            formats::scale_bytes(layout, scale_rows.back() + unit * random.in(0, 1),
                                 shape.k / formats::block_elements(shape.format)),
            set);
}

void add_input(Random& random, const GemmChoices& choices, GemmCase& test) {
  const GemmShape& shape = test.shape;
  TensorSet& set = test.set;
  if (!choices.quantized) {
    set.add("a",
            random_tensor(random, random.pick({DType::kBF16, DType::kF16}), {shape.m, shape.k}));
    fill_random(random, set.view("a"));
    if (choices.grouped) add_groups(random, shape, false, ScaleLayout::kLinear, set);
    return;
  }
  PackedTensor& a = test.args.a_packed;
  a.format = shape.format;
  a.rows = shape.m;
  a.columns = shape.k;
  a.layout = static_cast<ScaleLayout>(choices.any_layout ? random.in(0, 2) : 0);
  set.add("a_codes", random_tensor(random, DType::kU8, {shape.m, shape.k / 2}));
  fill_bytes(random, set.view("a_codes"));
  if (choices.grouped) {
    add_groups(random, shape, true, a.layout, set);
  } else {
    add_array(
        random, "a_scales", DType::kU8,
        formats::scale_bytes(a.layout, shape.m, shape.k / formats::block_elements(shape.format)),
        set);
  }
  fill_scales(random, shape.format, set.view("a_scales"));
  if (shape.format == Format::kMxfp4) return;
  const ScaleKind kind = static_cast<ScaleKind>(random.in(0, 2));
  const bool per_group = choices.grouped && kind == ScaleKind::kEncode;
  a.scale_kind = add_scale(random, "a_scale", per_group ? shape.groups : shape.m, kind, set);
}

void add_weights(Random& random, const GemmChoices& choices, GemmCase& test) {
  const GemmShape& shape = test.shape;
  TensorSet& set = test.set;
  GemmWeights& b = test.args.b;
  b.format = shape.format;
  b.rows = shape.n;
  b.columns = shape.k;
  b.layout = static_cast<ScaleLayout>(random.in(0, 2));
  const std::int64_t rows = shape.matrices() * shape.n;
  set.add("b_codes", random_tensor(random, DType::kU8, {rows, shape.k / 2}));
  fill_bytes(random, set.view("b_codes"));
  add_array(
      random, "b_scales", DType::kU8,
      shape.matrices() *
          formats::scale_bytes(b.layout, shape.n, shape.k / formats::block_elements(shape.format)),
      set);
  fill_scales(random, shape.format, set.view("b_scales"));
  if (!choices.plain_weights || random.one_in(2)) {
    b.codes = set.view("b_codes");
    b.scales = set.view("b_scales");
    add_prepared(b, shape, set);
    set.tensors().erase("b_codes");
    set.tensors().erase("b_scales");
    b.form = WeightForm::kPrepared;
  }
  if (shape.format == Format::kMxfp4) return;
  b.scale_kind =
      add_scale(random, "b_scale", shape.groups, static_cast<ScaleKind>(random.in(0, 2)), set);
}

std::string describe(const GemmCase& test) {
  const GemmShape& shape = test.shape;
  const auto kind = [](ScaleKind scale) {
    return scale == ScaleKind::kNone ? "none" : scale == ScaleKind::kEncode ? "encode" : "decode";
  };
  const GemmArgs& args = test.args;
  return "gemm " + std::to_string(shape.m) + "x" + std::to_string(shape.n) + "x" +
         std::to_string(shape.k) + ", " + formats::format_name(shape.format) + ", a " +
         (test.set.view("a") ? std::string(base::dtype_name(test.set.view("a").dtype))
                             : std::string(formats::layout_name(args.a_packed.layout))) +
         ", scale " + kind(args.a_packed.scale_kind) + ", b " +
         (args.b.form == WeightForm::kPrepared ? "prepared" : formats::layout_name(args.b.layout)) +
         ", scale " + kind(args.b.scale_kind) + ", groups " + std::to_string(shape.groups);
}

}  // namespace

void fill_bytes(Random& random, const TensorView& codes) {
  const bool zeros = random.one_in(8);
  for (const std::int64_t row : row_offsets(codes)) {
    for (std::int64_t k = 0; k < codes.shape[codes.ndim - 1]; ++k) {
      const std::uint64_t bits = random.bits();
      // Blocks of zeros of either sign, and everything at its largest, among any codes.
      const std::uint64_t byte = zeros && k % 32 < 16 ? bits & 0x88 : bits >> 8;
      set_bits(codes, row + k, static_cast<std::uint32_t>(byte & 0xFF));
    }
  }
}

void fill_scales(Random& random, Format format, const TensorView& scales) {
  // MXFP4: exponents about `middle`; two operands' terms then reach subnormals, FLT_MAX and Inf.
  const std::int64_t middle = random.pick<std::int64_t>({127, 127, 127, 120, 64, 3, 191, 250});
  const bool special = random.one_in(3), signs = random.one_in(6);
  for (std::int64_t i = 0; i < scales.numel(); ++i) {
    std::uint32_t byte = 0;
    if (format == Format::kNvfp4) {
      byte = static_cast<std::uint32_t>(random.in(special ? 0 : 0x20, 0x7E));
      if (signs && random.one_in(4)) byte |= 0x80;
      if (special && random.one_in(400)) byte = random.one_in(2) ? 0x7F : 0xFF;
    } else {
      byte =
          static_cast<std::uint32_t>(std::clamp<std::int64_t>(middle + random.in(-6, 6), 0, 254));
      if (special && random.one_in(20)) byte = static_cast<std::uint32_t>(random.in(0, 254));
      if (special && random.one_in(400)) byte = 0xFF;
    }
    set_bits(scales, i, byte);
  }
}

void add_prepared(const GemmWeights& plain, const GemmShape& shape, TensorSet& set) {
  const std::int64_t bytes = prepared_weight_bytes(shape.format, shape.n, shape.k);
  set.add("b_prepared", TestTensor(DType::kU8, {shape.matrices() * bytes}));
  const std::int64_t scale_bytes =
      formats::scale_bytes(plain.layout, shape.n, shape.k / formats::block_elements(shape.format));
  for (std::int64_t e = 0; e < shape.matrices(); ++e) {
    PrepareWeightsArgs args;
    args.plain.format = shape.format;
    args.plain.layout = plain.layout;
    args.plain.rows = shape.n;
    args.plain.columns = shape.k;
    args.plain.codes = plain.codes;
    args.plain.codes.shape[0] = shape.n;
    args.plain.codes.data = plain.codes.as<std::uint8_t>() + e * shape.n * plain.codes.strides[0];
    args.plain.scales =
        TensorView(plain.scales.as<std::uint8_t>() + e * scale_bytes, DType::kU8, {scale_bytes});
    args.prepared =
        TensorView(set.view("b_prepared").as<std::uint8_t>() + e * bytes, DType::kU8, {bytes});
    const base::Status status = prepare_weights(args);
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

GemmCase random_gemm(Random& random, const GemmChoices& choices) {
  return random_gemm(random, choices, random_gemm_shape(random, choices.grouped));
}

GemmCase random_gemm(Random& random, const GemmChoices& choices, const GemmShape& shape) {
  GemmCase test;
  test.shape = shape;
  test.args.method = choices.method;
  test.args.groups.count = shape.groups;
  add_input(random, choices, test);
  add_weights(random, choices, test);
  const DType dtype = random_float_dtype(random);
  if (shape.n == 0) {
    test.set.add("c", TestTensor(dtype, {shape.m, 0}));
  } else {
    test.set.add("c", random_tensor(random, dtype, {shape.m, shape.n}));
  }
  if (random.one_in(2)) {
    add_array(random, "bias", random.one_in(2) ? dtype : DType::kF32, shape.matrices() * shape.n,
              test.set);
    const TensorView bias = test.set.view("bias");
    for (std::int64_t n = 0; n < bias.numel(); ++n) {
      testing::set(bias, n,
                   random.one_in(20) ? std::numeric_limits<float>::infinity() : random.normal());
    }
  }
  test.text = describe(test);
  return test;
}

GemmArgs gemm_args(const GemmCase& test, const TensorSet& set) {
  GemmArgs args = test.args;
  args.a = set.view("a");
  args.a_packed.codes = set.view("a_codes");
  args.a_packed.scales = set.view("a_scales");
  args.a_packed.scale = set.view("a_scale");
  args.b.codes = set.view("b_codes");
  args.b.scales = set.view("b_scales");
  args.b.prepared = set.view("b_prepared");
  args.b.scale = set.view("b_scale");
  args.bias = set.view("bias");
  args.c = set.view("c");
  args.groups.row_offsets = set.view("row_offsets");
  args.groups.scale_row_offsets = set.view("scale_row_offsets");
  return args;
}

Case gemm_case(GemmCase test) {
  Case made;
  made.tensors = test.set;
  made.text = test.text;
  test.set = {};
  made.operation = [test](const TensorSet& set, const base::Execution& execution) -> base::Status {
    const GemmArgs args = gemm_args(test, set);
    base::Execution with_workspace = execution;
    const base::Result<std::size_t> bytes = gemm_workspace_bytes(args, execution);
    if (!bytes.ok()) return bytes.status();
    if (bytes.value() > 0) {
      with_workspace.workspace = cuda_workspace(bytes.value());
      with_workspace.workspace_bytes = bytes.value();
    }
    return gemm(args, with_workspace);
  };
  return made;
}

}  // namespace halfbyte::ops::testing
