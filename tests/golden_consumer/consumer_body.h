// What a program outside the tree does with the public headers: encode, decode and sum
// deterministic data. Every case gives one 64-bit FNV-1a hash, on host and device alike, whatever
// the compiler and its flags; golden.txt holds them. Any difference is a change of bits
// (kNumericsVersion).
#pragma once

#include <cstdint>

#include "halfbyte/formats/fp8.h"
#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/half_types.h"
#include "halfbyte/numerics/row_sum.h"
#include "halfbyte/numerics/version.h"
#include "halfbyte/ops/gemm/gemm_math.h"
#include "halfbyte/ops/gemm/gemm_weights_math.h"
#include "halfbyte/ops/rope/rope_math.h"
#include "halfbyte/ops/silu_mul/silu_mul_math.h"

namespace golden {

namespace formats = halfbyte::formats;
namespace numerics = halfbyte::numerics;

constexpr std::uint32_t kBlocks = 65536;  // of each case
constexpr int kCases = 9;
constexpr const char* kNames[kCases] = {"nvfp4",  "mxfp4", "fp8",      "half", "rmsnorm",
                                        "layout", "rope",  "silu_mul", "gemm"};

struct Fnv1a {
  std::uint64_t hash = 0xCBF29CE484222325u;

  HALFBYTE_HD void byte(std::uint32_t value) { hash = (hash ^ (value & 0xFFu)) * 0x100000001B3u; }
  HALFBYTE_HD void word(std::uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) byte(value >> shift);
  }
  HALFBYTE_HD void number(float x) {  // payload and sign of a NaN are unspecified
    word(numerics::is_nan(x) ? 0x7FC00000u : numerics::float_bits(x));
  }
};

// Floats made of integers only, so that the data cannot depend on a rounding.
struct Random {
  std::uint64_t state;

  HALFBYTE_HD std::uint32_t next() {  // splitmix64
    std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 16);
  }
  // Any sign and significand, exponents within `spread` of `exponent` (biased).
  HALFBYTE_HD float near(std::uint32_t exponent, std::uint32_t spread) {
    const std::uint32_t biased = exponent - spread + next() % (2 * spread + 1);
    return numerics::bits_float((next() & 0x807FFFFFu) | (biased << 23));
  }
  HALFBYTE_HD float any() { return numerics::bits_float(next()); }
};

// One in four blocks is of random bits, the others of magnitudes near each other, some of them
// around subnormals, some with special values.
HALFBYTE_HD void fill(Random& random, float* x, int count) {
  const std::uint32_t kind = random.next() % 8, centre = 8 + random.next() % 240;
  for (int i = 0; i < count; ++i) {
    x[i] = kind < 2 ? random.any() : random.near(kind == 2 ? 4 : centre, 4);
    if (kind < 4 || random.next() % 8 != 0) continue;
    const std::uint32_t special = random.next() % (kind == 4 ? 8 : 4);
    x[i] = numerics::bits_float(special == 0   ? 0x00000000u
                                : special == 1 ? 0x80000000u
                                : special == 2 ? 0x00000001u
                                : special == 3 ? 0x7F7FFFFFu
                                : special == 4 ? 0x7F800000u
                                : special == 5 ? 0xFF800000u
                                : special == 6 ? 0x7FC00001u
                                               : 0x3E800000u);
  }
}

HALFBYTE_HD float amax(const float* x, int count) {
  std::uint32_t most = 0;
  for (int i = 0; i < count; ++i) {
    const std::uint32_t bits = numerics::abs_bits(x[i]);
    most = bits > most ? bits : most;
  }
  return numerics::bits_float(most);
}

HALFBYTE_HD void nvfp4(Random& random, Fnv1a& hash) {
  float x[16];
  fill(random, x, 16);
  const float a = amax(x, 16);
  for (int way = 0; way < 4; ++way) {
    const auto rule = way % 2 == 0 ? formats::ScaleRule::kKernel : formats::ScaleRule::kTe;
    const formats::Nvfp4Scale scale =
        way < 2 ? formats::nvfp4_scale_from_amax(a, rule)
                : formats::nvfp4_scale_given(way == 2 ? random.near(120, 40) : random.any());
    const std::uint8_t s = formats::nvfp4_block_scale(a, scale, rule);
    const float r = formats::nvfp4_reciprocal(s, scale);
    hash.number(scale.decode);
    hash.byte(s);
    for (int i = 0; i < 16; ++i) {
      const std::uint8_t code = formats::nvfp4_encode(x[i], r);
      hash.byte(code);
      hash.number(formats::nvfp4_decode(code, s, scale.decode));
    }
  }
}

HALFBYTE_HD void mxfp4(Random& random, Fnv1a& hash) {
  float x[32];
  fill(random, x, 32);
  for (int way = 0; way < 2; ++way) {
    const auto rule = way == 0 ? formats::MxRule::kRoundUp : formats::MxRule::kOcpFloor;
    const std::uint8_t s = formats::mxfp4_block_scale(amax(x, 32), rule);
    hash.byte(s);
    hash.byte(formats::e8m0_round_down(x[0]));
    for (int i = 0; i < 32; i += 2) {
      const std::uint8_t pair =
          formats::e2m1_pack(formats::mxfp4_encode(x[i], formats::mxfp4_reciprocal(s)),
                             formats::mxfp4_encode(x[i + 1], formats::mxfp4_reciprocal(s)));
      hash.byte(pair);
      hash.number(formats::mxfp4_decode(formats::e2m1_unpack(pair, 0), s));
      hash.number(formats::mxfp4_decode(formats::e2m1_unpack(pair, 1), s));
    }
  }
}

HALFBYTE_HD void fp8(Random& random, Fnv1a& hash) {
  float x[16];
  fill(random, x, 16);
  for (int way = 0; way < 3; ++way) {
    const formats::Fp8Scale scale =
        way == 0 ? formats::fp8_scale_from_amax(amax(x, 16))
                 : formats::fp8_scale_given(way == 1 ? random.near(120, 40) : random.any());
    hash.number(scale.encode);
    for (int i = 0; i < 16; ++i) {
      const std::uint8_t code = formats::fp8_encode(x[i], scale);
      hash.byte(code);
      hash.number(formats::fp8_decode(code, scale.decode));
    }
  }
}

HALFBYTE_HD void half(Random& random, Fnv1a& hash) {
  float x[16];
  fill(random, x, 16);
  for (int i = 0; i < 16; ++i) {
    hash.number(numerics::to_float(numerics::fp16_from_float(x[i])));
    hash.number(numerics::to_float(numerics::bf16_from_float(x[i])));
    hash.number(numerics::to_float(numerics::Fp16{static_cast<std::uint16_t>(random.next())}));
  }
}

// RMSNorm of a row of bf16 or fp16 with a residual, as a kernel would write it with these headers.
template <class T>
HALFBYTE_HD void rmsnorm(Random& random, Fnv1a& hash) {
  constexpr int kLongest = 272;
  const int count = 1 + static_cast<int>(random.next() % kLongest);
  const std::uint32_t exponent = 100 + random.next() % 36;  // keeps the squares finite
  float h[kLongest] = {};
  for (int i = 0; i < count; ++i) {
    const float x = numerics::to_float(numerics::round_to<T>(random.near(exponent, 3)));
    const float residual = numerics::to_float(numerics::round_to<T>(random.near(exponent, 3)));
    h[i] = numerics::to_float(numerics::round_to<T>(numerics::add_rn(x, residual)));
  }
  numerics::TreeSum sum;
  for (int leaf = 0; leaf < count; leaf += numerics::kLeafElements) {
    sum.add(numerics::leaf_sum_of_squares(h + leaf));
  }
  const float mean = numerics::div_rn(sum.total(), static_cast<float>(count));
  const float rstd = numerics::div_rn(1.0f, numerics::sqrt_rn(numerics::add_rn(mean, 1e-6f)));
  hash.number(sum.total());
  hash.number(rstd);
  for (int i = 0; i < count; ++i) {
    const float w = random.near(127, 1);
    const float y = numerics::mul_rn(numerics::mul_rn(h[i], rstd), w);
    hash.number(numerics::to_float(numerics::round_to<T>(y)));
    hash.number(numerics::mul_rn(numerics::mul_rn(h[i], rstd), numerics::add_rn(w, 1.0f)));
  }
}

HALFBYTE_HD void layout(Random& random, Fnv1a& hash) {
  const std::int64_t row = random.next() % 100000, columns = 1 + random.next() % 1000;
  const std::int64_t column = random.next() % columns;
  for (int i = 0; i < 3; ++i) {
    const auto which = static_cast<formats::ScaleLayout>(i);
    const std::int64_t offset = formats::scale_offset(which, row, column, columns);
    const formats::ScalePosition back = formats::scale_position(which, offset, columns);
    hash.word(static_cast<std::uint32_t>(offset));
    hash.byte(back.row == row && back.column == column ? 1 : 0);
  }
}

// Pairs whose products are of one size: where they cancel, a fused multiply-add would show.
template <class T>
HALFBYTE_HD void rope(Random& random, Fnv1a& hash) {
  float x[16];
  fill(random, x, 16);
  for (int i = 0; i < 16; i += 2) {
    const float b = i % 4 == 0 ? x[i + 1] : x[i];
    const float c = random.near(126, 1), s = i % 8 == 0 ? c : random.near(126, 1);
    for (int inverse = 0; inverse < 2; ++inverse) {
      const auto rotated = halfbyte::ops::rope_rotate<T>(x[i], b, c, s, inverse != 0);
      hash.number(numerics::to_float(rotated.a));
      hash.number(numerics::to_float(rotated.b));
    }
  }
}

HALFBYTE_HD void silu_mul(Random& random, Fnv1a& hash) {
  float x[32];
  fill(random, x, 32);
  halfbyte::ops::SiluMulRule rule;
  rule.alpha = random.next() % 2 == 0 ? 1.0f : 1.702f;
  rule.up_bias = random.next() % 2 == 0 ? 0.0f : 1.0f;
  if (random.next() % 2 == 0) rule.clamp = 7.0f;
  if (random.next() % 2 == 0) rule.rounding = halfbyte::ops::Rounding::kHuggingFace;
  for (int i = 0; i < 16; ++i) {
    const float near = random.near(127, 6);  // exp neither 0 nor Inf
    hash.number(numerics::exp(x[i]));
    hash.number(numerics::exp(near));
    hash.number(halfbyte::ops::silu_mul_apply<float>(near, x[i], rule));
    hash.number(
        numerics::to_float(halfbyte::ops::silu_mul_apply<numerics::Bf16>(x[i], x[16 + i], rule)));
    hash.number(
        numerics::to_float(halfbyte::ops::silu_mul_apply<numerics::Fp16>(near, x[16 + i], rule)));
  }
}

// Blocks of two operands in a slice, and the words of prepared weights.
HALFBYTE_HD void gemm(Random& random, Fnv1a& hash) {
  namespace ops = halfbyte::ops;
  for (int way = 0; way < 2; ++way) {
    const auto format = way == 0 ? formats::Format::kNvfp4 : formats::Format::kMxfp4;
    const int columns = formats::block_elements(format);
    numerics::TreeSum exact, mixed;
    for (int slice = 0; slice < 3; ++slice) {
      float acc = 0.0f, acc16 = 0.0f;
      for (int block = 0; block < ops::slice_blocks(format); ++block) {
        std::uint8_t a[16], b[16];
        float x[32];
        fill(random, x, 32);
        for (int i = 0; i < 16; ++i) {
          a[i] = static_cast<std::uint8_t>(random.next());
          b[i] = static_cast<std::uint8_t>(random.next());
        }
        const auto scale_a = static_cast<std::uint8_t>(random.next() % 0xFE);
        const auto scale_b = static_cast<std::uint8_t>(random.next() % 0xFE);
        acc = ops::add_block(format, acc, ops::block_dot(a, b, columns / 2), scale_a, scale_b);
        const float dot = ops::block_dot_16bit(x, b, columns);
        acc16 = ops::add_block_16bit(format, acc16, dot, scale_b);
        hash.number(dot);
        hash.number(acc);
      }
      exact.add(acc);
      mixed.add(acc16);
    }
    const float decode_a = random.near(127, 40), decode_b = random.near(127, 40);
    hash.number(ops::scale_sum(exact.total(), decode_a, decode_b));
    hash.number(mixed.total());
  }
  const ops::SpreadCodes codes = {random.next() << 16 & ops::kSpreadMask,
                                  random.next() & ops::kSpreadMask};
  const std::uint32_t word = ops::word_of_spread(codes);
  hash.word(word);
  hash.byte(ops::spread_of_word(word).high == codes.high ? 1 : 0);
  const auto scale = static_cast<std::uint8_t>(random.next());
  hash.byte(ops::prepared_scale(scale));
  hash.byte(ops::e4m3_of_prepared_scale(ops::prepared_scale(scale)));
}

// The hash of one block of one case.
HALFBYTE_HD std::uint64_t block_hash(int which, std::uint32_t block) {
  Random random{(static_cast<std::uint64_t>(which) << 32) | block};
  Fnv1a hash;
  switch (which) {
    case 0:
      nvfp4(random, hash);
      break;
    case 1:
      mxfp4(random, hash);
      break;
    case 2:
      fp8(random, hash);
      break;
    case 3:
      half(random, hash);
      break;
    case 4:
      if (block % 2 == 0) {
        rmsnorm<numerics::Bf16>(random, hash);
      } else {
        rmsnorm<numerics::Fp16>(random, hash);
      }
      break;
    case 5:
      layout(random, hash);
      break;
    case 6:
      if (block % 4 == 0) {
        rope<numerics::Bf16>(random, hash);
      } else if (block % 4 == 1) {
        rope<numerics::Fp16>(random, hash);
      } else {
        rope<float>(random, hash);
      }
      break;
    case 7:
      silu_mul(random, hash);
      break;
    default:
      gemm(random, hash);
      break;
  }
  return hash.hash;
}

// The hash of a case: that of its blocks' hashes in order.
inline std::uint64_t fold(const std::uint64_t* block_hashes) {
  Fnv1a hash;
  for (std::uint32_t block = 0; block < kBlocks; ++block) {
    hash.word(static_cast<std::uint32_t>(block_hashes[block]));
    hash.word(static_cast<std::uint32_t>(block_hashes[block] >> 32));
  }
  return hash.hash;
}

}  // namespace golden
