#include "halfbyte/ops/common/testing_random.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "halfbyte/formats/e2m1.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::ops::testing {

using base::DType;

float Random::uniform() {
  return static_cast<float>(in(-(1 << 24), (1 << 24) - 1)) / static_cast<float>(1 << 24);
}

float Random::normal() {
  float sum = 0.0f;
  for (int i = 0; i < 6; ++i) sum += uniform();
  return sum * 0.70710678f;
}

std::int64_t Shape::rows() const {
  std::int64_t product = 1;
  for (const std::int64_t size : lead) product *= size;
  return product;
}

std::vector<std::int64_t> Shape::with_columns(std::int64_t count) const {
  std::vector<std::int64_t> shape = lead;
  shape.push_back(count);
  return shape;
}

namespace {

std::int64_t random_factor(Random& random, std::int64_t of) {
  std::vector<std::int64_t> factors;
  for (std::int64_t f = 1; f <= of; ++f) {
    if (of % f == 0) factors.push_back(f);
  }
  return factors[static_cast<std::size_t>(
      random.in(0, static_cast<std::int64_t>(factors.size()) - 1))];
}

}  // namespace

Shape random_shape(Random& random, std::int64_t column_multiple) {
  std::int64_t rows = random.in(1, 40);
  if (random.one_in(3)) rows = random.pick<std::int64_t>({1, 7, 8, 9});
  if (random.one_in(12)) rows = random.pick<std::int64_t>({127, 128, 129});
  if (random.one_in(25)) rows = 0;
  const std::int64_t elements = random.one_in(50) ? 100'000 : 4096;
  const std::int64_t most =
      std::max<std::int64_t>(1, elements / std::max<std::int64_t>(rows, 1) / column_multiple);
  std::int64_t groups = random.in(1, most);
  if (elements == 4096 && random.one_in(3)) groups = random.in(1, std::min<std::int64_t>(most, 9));
  if (elements > 4096) groups = most;

  if (random.columns > 0) {  // few rows of it
    groups = (random.columns + column_multiple - 1) / column_multiple;
    rows = random.rows > 0 ? random.rows : std::min<std::int64_t>(rows, 3);
  }

  Shape shape;
  shape.columns = groups * column_multiple;
  if (rows == 1 && random.one_in(3)) return shape;  // 1-D
  const int dims = static_cast<int>(random.pick<std::int64_t>({1, 1, 1, 2, 2, 3}));
  if (rows == 0) {
    for (int i = 0; i < dims; ++i) shape.lead.push_back(random.in(0, 3));
    shape.lead[static_cast<std::size_t>(random.in(0, dims - 1))] = 0;
    return shape;
  }
  for (int i = 1; i < dims; ++i) {
    const std::int64_t factor = random_factor(random, rows);
    shape.lead.push_back(factor);
    rows /= factor;
  }
  shape.lead.push_back(rows);
  return shape;
}

DType random_float_dtype(Random& random) {
  return random.pick({DType::kF32, DType::kF16, DType::kBF16});
}

TestTensor random_tensor(Random& random, DType dtype, std::vector<std::int64_t> shape) {
  const std::int64_t columns = shape.back();
  const std::size_t lead = shape.size() - 1;
  std::int64_t pitch = columns, offset = 0;  // from one row to the next
  switch (random.in(0, random.aligned ? 2 : 5)) {
    case 0:
    case 1:  // dense
      break;
    case 2:  // a column slice of a wider tensor, kept aligned
      pitch += 16 * random.in(1, 4);
      offset = 16 * random.in(0, 2);
      break;
    case 3:  // any gap, any start
      pitch += random.in(1, 9);
      offset = random.in(0, 9);
      break;
    case 4:  // aligned to the element alone, rows and all
      pitch += 1 + pitch % 2;
      offset = 1 + 2 * random.in(0, 3);
      break;
    default:  // dense, off alignment
      offset = random.in(1, 7);
      break;
  }
  const bool regular = random.aligned || random.one_in(2);
  const std::int64_t gap = regular ? 0 : random.in(1, 2 * columns + 3);
  std::vector<std::int64_t> strides(shape.size(), 1);
  const auto size = [&](std::size_t i) { return std::max<std::int64_t>(shape[i], 1); };
  if (lead == 1) {
    strides[0] = pitch;
  } else if (lead == 2 && !regular && random.one_in(3)) {  // the leading dimensions transposed
    strides[0] = pitch;
    strides[1] = pitch * size(0) + gap;
  } else if (lead == 2) {
    strides[1] = pitch;
    strides[0] = pitch * size(1) + gap;
  } else if (lead == 3 && random.one_in(2)) {  // the last two fold into one level
    strides[2] = pitch;
    strides[1] = pitch * size(2);
    strides[0] = strides[1] * size(1) + gap;
  } else if (lead == 3) {  // the first two do
    strides[2] = pitch;
    strides[1] = pitch * size(2) + gap;
    strides[0] = strides[1] * size(1);
  }
  if (lead == 1 && random.one_in(20)) strides[0] = -strides[0];  // rows from the last to the first
  return TestTensor(dtype, std::move(shape), std::move(strides), offset);
}

namespace {

// Exponents of the type's values: of its subnormals, and of its largest.
struct Exponents {
  int tiny, small, large;
};
Exponents exponents(DType dtype) {
  return dtype == DType::kF16 ? Exponents{-25, -14, 15} : Exponents{-149, -120, 127};
}

enum class Flavour {
  kNormal,       // weights and activations
  kWide,         // each element with an exponent of its own
  kTiny,         // down to the type's subnormals
  kHuge,         // up to its largest: block scales and sums of squares overflow
  kBits,         // any bit pattern, NaN and Inf among them
  kZero,         // zeros of both signs
  kOutlier,      // one element far above the rest: blocks whose S rounds to 0
  kE2m1Ties,     // the codes and midpoints of E2M1 under a power of two
  kE4m3Ties,     // the same for E4M3
  kAlternating,  // one magnitude, alternating signs
  kCount
};

void fill_row(Random& random, const base::TensorView& view, std::int64_t offset, Flavour flavour) {
  const std::int64_t columns = view.shape[view.ndim - 1];
  const Exponents range = exponents(view.dtype);
  const int exponent = static_cast<int>(random.in(-4, 4));
  const int tiny = static_cast<int>(random.in(range.tiny, range.small));
  const int huge = static_cast<int>(random.in(range.large - 12, range.large - 1));
  const int any = static_cast<int>(random.in(range.small + 12, range.large - 12));
  const float magnitude = std::ldexp(1.0f + std::fabs(random.uniform()), exponent);
  for (std::int64_t k = 0; k < columns; ++k) {
    const float sign = random.one_in(2) ? -1.0f : 1.0f;
    float x = 0.0f;
    switch (flavour) {
      case Flavour::kNormal:
      case Flavour::kOutlier:
        x = std::ldexp(random.normal(), exponent);
        break;
      case Flavour::kWide:
        x = std::ldexp(random.uniform(), static_cast<int>(random.in(range.tiny, range.large)));
        break;
      case Flavour::kTiny:
        x = std::ldexp(random.uniform(), tiny);
        break;
      case Flavour::kHuge:
        x = std::ldexp(random.uniform(), huge + 1);
        break;
      case Flavour::kBits:
        set_bits(view, offset + k, static_cast<std::uint32_t>(random.bits()));
        continue;
      case Flavour::kZero:
        x = sign * 0.0f;
        break;
      case Flavour::kE2m1Ties: {
        const auto code = static_cast<std::uint8_t>(random.in(0, 6));
        const float low = formats::e2m1_to_float(code);
        const float high = formats::e2m1_to_float(static_cast<std::uint8_t>(code + 1));
        const float middle = random.one_in(2) ? (low + high) / 2 : high;
        // A 6 a block of 16 makes the power of two the block's scale.
        x = sign * std::ldexp(k % 16 == 3 ? 6.0f : middle, any);
        break;
      }
      case Flavour::kE4m3Ties: {
        const auto code = static_cast<std::uint8_t>(random.in(0, 0x7D));
        const float low = formats::e4m3_to_float(code);
        const float high = formats::e4m3_to_float(static_cast<std::uint8_t>(code + 1));
        x = sign * (random.one_in(2) ? (low + high) / 2 : high);
        break;
      }
      default:
        x = k % 2 == 0 ? magnitude : -magnitude;
        break;
    }
    set(view, offset + k, x);
  }
  if (flavour == Flavour::kOutlier) {
    set(view, offset + random.in(0, columns - 1), std::ldexp(1.5f, range.large - 2));
  }
}

// A few elements or blocks that have a rule of their own.
void poke(Random& random, const base::TensorView& view, std::int64_t offset) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::int64_t columns = view.shape[view.ndim - 1];
  const std::int64_t at = random.in(0, columns - 1);
  const std::int64_t block = at / 16 * 16, end = std::min(columns, block + 16);
  switch (random.in(0, 24)) {
    case 0:
    case 1:
      set(view, offset + at, random.pick({1.0f, -1.0f}) * std::numeric_limits<float>::quiet_NaN());
      break;
    case 2:
    case 3:
      set(view, offset + at, random.pick({kInf, -kInf}));
      break;
    case 4:
    case 5:
    case 6:
      for (std::int64_t k = block; k < end; ++k) set(view, offset + k, k % 3 == 0 ? -0.0f : 0.0f);
      break;
    case 7:  // the NaN poisons a block of zeros too, if the scale is the row's or the tensor's
      for (std::int64_t k = block; k < end; ++k) set(view, offset + k, 0.0f);
      set(view, offset + (at + 16) % columns, std::numeric_limits<float>::quiet_NaN());
      break;
    case 8:
      set(view, offset + at, -0.0f);
      break;
    default:
      break;
  }
}

}  // namespace

void fill_random(Random& random, const base::TensorView& view) {
  const auto flavour = [&] {
    return random.one_in(3)
               ? Flavour::kNormal
               : static_cast<Flavour>(random.in(0, static_cast<int>(Flavour::kCount) - 1));
  };
  const bool mixed = random.one_in(3), poked = random.one_in(2);
  Flavour all = flavour();
  for (const std::int64_t row : row_offsets(view)) {
    fill_row(random, view, row, mixed ? flavour() : all);
    if (poked) poke(random, view, row);
  }
}

float random_scale(Random& random) {
  switch (random.in(0, random.aligned ? 2 : 5)) {
    case 0:
      return random.pick({1e-38f, 3e38f, 1e-45f, 1e-40f, std::numeric_limits<float>::max(),
                          std::numeric_limits<float>::min(), 0x1p-127f, 0x1p127f});
    case 1:
      return random.pick({1.0f, 448.0f, 2688.0f, 6.0f, 0.5f, 1.0f / 448.0f});
    case 2:
    case 3:
      return std::ldexp(1.0f + std::fabs(random.uniform()) / 2,
                        static_cast<int>(random.in(-6, 12)));
    default:
      return std::ldexp(1.0f + std::fabs(random.uniform()) / 2,
                        static_cast<int>(random.in(-148, 126)));
  }
}

QuantizeSpec random_spec(Random& random, Format format, bool with_te) {
  QuantizeSpec spec;
  spec.format = format;
  const auto layout = [&] { return static_cast<ScaleLayout>(random.in(0, 2)); };
  if (format != Format::kFp8) {
    spec.layout = layout();
    if (random.one_in(2)) spec.second_layout = layout();
  }
  if (format == Format::kNvfp4) {
    spec.scale = static_cast<ScaleMode>(random.in(0, 2));
    if (with_te && random.one_in(3)) spec.scale_rule = ScaleRule::kTe;
  } else if (format == Format::kMxfp4) {
    spec.mx_rule = static_cast<MxRule>(random.in(0, 1));
  } else {
    spec.scale = random.pick({ScaleMode::kTensor, ScaleMode::kRow});
  }
  return spec;
}

void add_quantize_tensors(Random& random, const QuantizeSpec& spec, const Shape& shape,
                          TensorSet& set) {
  const std::int64_t rows = shape.rows();
  const std::int64_t bytes = formats::code_bytes(spec.format, shape.columns);
  // Codes need the rows of x, not its leading dimensions.
  set.add("codes", random_tensor(random, DType::kU8,
                                 random.one_in(3) ? std::vector<std::int64_t>{rows, bytes}
                                                  : shape.with_columns(bytes)));
  const auto add_array = [&](const char* name, DType dtype, std::int64_t count) {
    set.add(name, TestTensor(dtype, {count}, {},
                             random.aligned || random.one_in(2) ? 0 : random.in(1, 7)));
  };
  const auto add_scales = [&](const char* name, ScaleLayout layout) {
    add_array(
        name, DType::kU8,
        formats::scale_bytes(layout, rows, shape.columns / formats::block_elements(spec.format)));
  };
  if (formats::has_block_scales(spec.format)) add_scales("scales", spec.layout);
  if (spec.second_layout) add_scales("scales_second", *spec.second_layout);
  if (spec.scale == ScaleMode::kRow) add_array("row_scale", DType::kF32, rows);
  if (spec.scale == ScaleMode::kComputed) {
    add_array("out_global_scale", DType::kF32, 1);
    add_array("out_decode_scale", DType::kF32, 1);
  }
  if (spec.scale != ScaleMode::kTensor || spec.format == Format::kMxfp4) return;
  const bool encode = spec.format == Format::kNvfp4;
  if (encode && random.one_in(4)) return;  // absent: 1
  const std::string name = encode ? "global_scale" : "decode_scale";
  if (encode && random.one_in(3)) {
    set.add(name, TestTensor(DType::kF32, {rows}, {random.in(1, 3)}, random.in(0, 3)));
  } else {
    add_array(name.c_str(), DType::kF32, 1);
    if (random.one_in(3)) set.keep_on_host(name);
  }
  const base::TensorView view = set.view(name);
  for (std::int64_t row = 0; row < view.numel(); ++row) {
    testing::set(view, row * view.strides[0], random_scale(random));
  }
}

GivenScale given_scale(const TensorSet& set) {
  return {.global_scale = set.view("global_scale"), .decode_scale = set.view("decode_scale")};
}

QuantizeOutputs quantize_outputs(const TensorSet& set) {
  return {.codes = set.view("codes"),
          .scales = set.view("scales"),
          .scales_second = set.view("scales_second"),
          .row_scale = set.view("row_scale"),
          .global_scale = set.view("out_global_scale"),
          .decode_scale = set.view("out_decode_scale")};
}

std::string describe(const QuantizeSpec& spec) {
  return std::string(formats::format_name(spec.format)) + ", layout " +
         formats::layout_name(spec.layout) + ", second " +
         (spec.second_layout ? formats::layout_name(*spec.second_layout) : "none") + ", scale " +
         formats::scale_mode_name(spec.scale) + (spec.scale_rule == ScaleRule::kTe ? ", te" : "") +
         (spec.mx_rule == MxRule::kOcpFloor ? ", ocp_floor" : "");
}

}  // namespace halfbyte::ops::testing
