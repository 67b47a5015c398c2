// The oracle of formats_test.cpp: docs/numerics.md written a second time, in double, from its text.
//
// Nothing here is shared with the codecs: a format is a table of its values, a rounding is a search
// among their midpoints, and fl() is a conversion from double to float. That conversion is the only
// rounding of a product of two floats (exact in double). A quotient of two floats is rounded twice,
// which is harmless: it is a ratio of 24-bit integers, so it is a midpoint of floats (subnormal
// ones too) or at least 2^-48 of itself away from each, and double rounds within 2^-53.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace halfbyte::formats::oracle {

inline float fl(double x) { return static_cast<float>(x); }

// A sign-magnitude format: value[i] is the magnitude of code i, ascending.
struct Table {
  std::vector<double> value;
  std::vector<double> midpoint;  // between value[i] and value[i + 1]
  std::uint32_t sign_bit;
  std::uint32_t nan;
  std::uint32_t inf;  // the code of Inf, if there is one

  Table(std::vector<double> values, std::uint32_t sign, std::uint32_t nan_code,
        std::uint32_t inf_code = ~0u)
      : value(std::move(values)), sign_bit(sign), nan(nan_code), inf(inf_code) {
    for (std::size_t i = 0; i + 1 < value.size(); ++i) {
      midpoint.push_back((value[i] + value[i + 1]) /
                         2);  // exact: neighbours share an exponent range
    }
  }

  // Nearest, ties to the even code; above the last midpoint the last code (saturation, or the code
  // of Inf where that is the last one).
  std::uint32_t encode(double x) const {
    if (std::isnan(x)) return nan;
    const double a = std::fabs(x);
    const auto at = std::lower_bound(midpoint.begin(), midpoint.end(), a);  // first midpoint >= a
    auto code = static_cast<std::uint32_t>(at - midpoint.begin());
    if (at != midpoint.end() && *at == a && code % 2 == 1) ++code;
    return code | (std::signbit(x) ? sign_bit : 0u);
  }

  double decode(std::uint32_t code) const {
    const std::uint32_t magnitude = code & (sign_bit - 1);
    if (magnitude >= value.size()) return std::numeric_limits<double>::quiet_NaN();
    const double a = magnitude == inf ? std::numeric_limits<double>::infinity() : value[magnitude];
    return (code & sign_bit) != 0 ? -a : a;
  }
};

// Magnitudes of a binary format by the IEEE rules: `mantissa` bits, exponents from subnormal on,
// `count` codes.
inline std::vector<double> binary_values(int mantissa, int bias, int count) {
  std::vector<double> values;
  for (int code = 0; code < count; ++code) {
    const int exponent = code >> mantissa;
    const double fraction = std::ldexp(code - (exponent << mantissa), -mantissa);
    values.push_back(exponent == 0 ? std::ldexp(fraction, 1 - bias)
                                   : std::ldexp(1 + fraction, exponent - bias));
  }
  return values;
}

inline const Table& e2m1() {
  static const Table table({0, 0.5, 1, 1.5, 2, 3, 4, 6}, 8, 7);
  return table;
}
inline const Table& e4m3() {
  static const Table table(binary_values(3, 7, 127), 0x80, 0x7F);
  return table;
}
// The last code, Inf, takes the place of the next power of two: what rounds there overflows.
inline const Table& fp16() {
  static const Table table(binary_values(10, 15, 0x7C01), 0x8000, 0x7E00, 0x7C00);
  return table;
}
inline const Table& bf16() {
  static const Table table(binary_values(7, 127, 0x7F81), 0x8000, 0x7FC0, 0x7F80);
  return table;
}

inline std::uint32_t e8m0_byte(int exponent) {
  return static_cast<std::uint32_t>(std::clamp(exponent, -127, 127) + 127);
}
inline int floor_log2(double x) {  // of x > 0, finite
  int exponent = 0;
  std::frexp(x, &exponent);  // x = f * 2^exponent, f in [0.5, 1)
  return exponent - 1;
}
inline std::uint32_t e8m0_round_down(double x) {
  const double a = std::fabs(x);
  if (std::isnan(a)) return 0xFF;
  if (a == 0) return 0;
  return std::isinf(a) ? 254 : e8m0_byte(floor_log2(a));
}
inline std::uint32_t e8m0_round_up(double x) {
  const double a = std::fabs(x);
  if (std::isnan(a)) return 0xFF;
  if (a == 0) return 0;
  if (std::isinf(a)) return 254;
  const int floor = floor_log2(a);
  return e8m0_byte(std::ldexp(1.0, floor) == a ? floor : floor + 1);
}
inline std::uint32_t e8m0_ocp_floor(double x) {
  const double a = std::fabs(x);
  if (std::isnan(a)) return 0xFF;
  if (a == 0) return 0;
  return std::isinf(a) ? 254 : e8m0_byte(floor_log2(a) - 2);
}
inline double e8m0_value(std::uint32_t byte) {
  return byte == 0xFF ? std::numeric_limits<double>::quiet_NaN()
                      : std::ldexp(1.0, static_cast<int>(byte) - 127);
}

// Where the codes of the floats without a sign change: run i covers the bit patterns
// first[i] .. first[i + 1] - 1. Found by bisection, as every codec is monotone. The last run is
// that of the NaNs.
struct Runs {
  static constexpr std::uint32_t kInf = 0x7F800000u;
  static constexpr std::uint32_t kNanCode = ~0u;
  std::vector<std::uint32_t> first;
  std::vector<std::uint32_t> code;

  template <class Encode>
  explicit Runs(Encode encode) {
    std::uint32_t bits = 0;
    while (true) {
      const std::uint32_t current = encode(double{std::bit_cast<float>(bits)});
      first.push_back(bits);
      code.push_back(current);
      std::uint32_t low = bits, high = kInf + 1;  // the next run starts in (low, high]
      while (high - low > 1) {
        const std::uint32_t middle = low + (high - low) / 2;
        (encode(double{std::bit_cast<float>(middle)}) == current ? low : high) = middle;
      }
      if (high > kInf) break;
      bits = high;
    }
    first.insert(first.end(), {kInf + 1, 0x80000000u});
    code.push_back(kNanCode);
  }
};

// Calls body(chunk) for every chunk of 0..chunks-1, on all hardware threads.
template <class Body>
void in_parallel(std::uint32_t chunks, Body body) {
  std::atomic<std::uint32_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (std::uint32_t chunk; (chunk = next++) < chunks;) body(chunk);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

struct Comparison {
  std::uint64_t compared = 0;
  std::uint64_t mismatches = 0;
  std::uint32_t example = 0;  // float bits of one mismatch
};

// Compares codec(float) with encode(double) on all 2^32 floats. `sign_bit`: what a negative input
// adds to the code (0: the sign is ignored). `is_nan_code`: whether a NaN may give a code.
template <class Encode, class Codec, class IsNanCode>
Comparison compare_everywhere(Encode encode, std::uint32_t sign_bit, Codec codec,
                              IsNanCode is_nan_code) {
  const Runs runs(encode);
  std::mutex mutex;
  Comparison result;
  // Magnitudes first .. last - 1 with one sign, for which is_right must hold.
  const auto check = [&](std::uint32_t sign, std::uint32_t first, std::uint32_t last,
                         auto is_right) {
    const auto right = [&](std::uint32_t a) {
      return is_right(std::uint32_t{codec(std::bit_cast<float>(sign | a))});
    };
    std::uint64_t wrong = 0;
    for (std::uint32_t a = first; a < last; ++a) wrong += right(a) ? 0 : 1;
    std::uint32_t a = first;
    while (wrong != 0 && right(a)) ++a;
    const std::scoped_lock lock(mutex);
    if (result.mismatches == 0 && wrong != 0) result.example = sign | a;
    result.compared += last - first;
    result.mismatches += wrong;
  };
  in_parallel(512, [&](std::uint32_t chunk) {
    const std::uint32_t sign = chunk % 2 << 31, begin = chunk / 2 << 23, end = begin + (1u << 23);
    const auto at = std::upper_bound(runs.first.begin(), runs.first.end(), begin);
    for (auto run = static_cast<std::size_t>(at - runs.first.begin() - 1);
         run < runs.code.size() && runs.first[run] < end; ++run) {
      const std::uint32_t first = std::max(begin, runs.first[run]);
      const std::uint32_t last = std::min(end, runs.first[run + 1]);
      if (runs.code[run] == Runs::kNanCode) {
        check(sign, first, last, is_nan_code);
      } else {
        const std::uint32_t expected = runs.code[run] | (sign != 0 ? sign_bit : 0u);
        check(sign, first, last, [=](std::uint32_t code) { return code == expected; });
      }
    }
  });
  return result;
}

#if defined(__x86_64__)
// Counts the floats of one chunk of 2^24 that F16C converts in another way; any NaN equals any NaN.
template <class Convert>
__attribute__((target("avx2,f16c"))) std::uint64_t count_unlike_f16c(std::uint32_t chunk,
                                                                     Convert convert) {
  std::uint64_t unlike = 0;
  for (std::uint32_t i = 0; i < 1u << 24; i += 8) {
    alignas(32) std::uint32_t bits[8];
    alignas(16) std::uint16_t half[8];
    for (std::uint32_t j = 0; j < 8; ++j) bits[j] = (chunk << 24) + i + j;
    const __m256 x = _mm256_castsi256_ps(_mm256_load_si256(reinterpret_cast<__m256i*>(bits)));
    _mm_store_si128(reinterpret_cast<__m128i*>(half),
                    _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    for (std::uint32_t j = 0; j < 8; ++j) {
      const std::uint16_t ours = convert(std::bit_cast<float>(bits[j]));
      const bool both_nan = (ours & 0x7FFF) > 0x7C00 && (half[j] & 0x7FFF) > 0x7C00;
      unlike += ours == half[j] || both_nan ? 0 : 1;
    }
  }
  return unlike;
}
#endif

// min( x, FLT_MAX ), NaN propagates. Not inlined: from `448 / a > FLT_MAX` GCC 13 concludes a == 0
// (it takes the quotient for infinite, not rounded to infinity) and then folds uses of a.
[[gnu::noinline]] inline float clamp(float x) { return std::isnan(x) ? x : std::min(x, FLT_MAX); }

inline float amax_of(const float* x, int count) {
  float most = 0;
  for (int i = 0; i < count; ++i) {
    if (std::isnan(x[i])) return x[i];
    most = std::max(most, std::fabs(x[i]));
  }
  return most;
}

struct Scale {
  float g, d;
  bool amax_is_nan;
};

inline Scale nvfp4_given(float g) { return {g, fl(1.0 / g), false}; }

inline Scale nvfp4_from_amax(float amax, bool te) {
  const float a = clamp(amax);
  if (std::isnan(a)) return {a, a, true};
  if (a == 0) return {1, te ? 0.0f : 1.0f, false};
  const float g = clamp(fl(2688.0 / a));
  return {g, te ? fl(1.0 / g) : fl(a / 2688.0), false};
}

template <int kSize>
struct Block {
  std::uint32_t scale = 0;
  float reciprocal = 0;  // what x is multiplied by
  std::array<std::uint32_t, kSize> code{};
};

inline std::uint32_t nvfp4_block_scale(float amax, Scale scale, bool te) {
  const double a = amax, g = scale.g;
  const float sixth = fl(1.0 / 6.0);
  if (scale.amax_is_nan) return 0x7F;
  if (a == 0) return 0;
  return e4m3().encode(te ? fl(a * fl(g * sixth)) : fl(g * fl(a * sixth)));
}

inline Block<16> nvfp4_block(const float* x, Scale scale, bool te) {
  Block<16> block;
  block.scale = nvfp4_block_scale(amax_of(x, 16), scale, te);
  const double s = e4m3().decode(block.scale);
  if (s != 0) block.reciprocal = clamp(fl(1.0 / fl(s * scale.d)));
  for (int i = 0; i < 16; ++i) {
    block.code[i] = e2m1().encode(fl(double{x[i]} * block.reciprocal));
  }
  return block;
}

// (e2m1 * f32(S)) * d has at most 6 + 24 bits: exact in double, so one rounding.
inline float nvfp4_decode(std::uint32_t code, std::uint32_t block_scale, float d) {
  return fl(e2m1().decode(code) * e4m3().decode(block_scale) * d);
}

inline Block<32> mxfp4_block(const float* x, bool ocp_floor) {
  const float amax = amax_of(x, 32);
  Block<32> block;
  block.scale = ocp_floor ? e8m0_ocp_floor(amax) : e8m0_round_up(fl(double{amax} * fl(1.0 / 6.0)));
  const double inverse = 1.0 / e8m0_value(block.scale);
  block.reciprocal = fl(inverse);
  for (int i = 0; i < 32; ++i) block.code[i] = e2m1().encode(x[i] * inverse);  // exact, no fl()
  return block;
}

inline Scale fp8_given(float d) { return {clamp(fl(1.0 / d)), d, false}; }
inline Scale fp8_from_amax(float amax) {
  const float a = clamp(amax);
  if (a == 0) return {1, 1, false};
  return {clamp(fl(448.0 / a)), fl(a / 448.0), std::isnan(a)};
}

// Blocks of floats for property tests: a block's magnitudes lie within 2^4 of one random power of
// two, with special values between; every eighth block is of random bit patterns.
class RandomBlocks {
 public:
  float any() { return std::bit_cast<float>(static_cast<std::uint32_t>(engine_())); }
  float near(int centre, int spread) {
    const int exponent = centre + static_cast<int>(engine_() % (2 * spread + 1)) - spread;
    const float value = std::ldexp(1.0f + static_cast<float>(engine_() >> 41) * 0x1p-23f, exponent);
    return engine_() % 2 != 0 ? -value : value;
  }
  template <int kSize>
  void fill(float (&x)[kSize], bool finite) {
    static constexpr float kSpecial[] = {0.0f,    -0.0f,   HUGE_VALF, -HUGE_VALF,
                                         FLT_MAX, FLT_MIN, 0x1p-149f, __builtin_nanf("")};
    const int centre = static_cast<int>(engine_() % 276) - 148;
    const bool wild = engine_() % 8 == 0;
    for (float& value : x) {
      value = wild ? any() : near(centre, 4);
      if (engine_() % (finite ? 64 : 16) == 0) value = kSpecial[engine_() % 8];
      if (finite && !std::isfinite(value)) value = 1.0f;
    }
  }

 private:
  std::mt19937_64 engine_{20240607};
};

}  // namespace halfbyte::formats::oracle
