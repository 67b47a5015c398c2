// The GPU's fast sequences against the definitions, over whole domains: 2^32 inputs where there is
// one, random and special ones where there are two.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "halfbyte/simt/fast_codecs.cuh"
#include "halfbyte/simt/packed.cuh"

namespace halfbyte::simt {
namespace {

using numerics::Bf16;
using numerics::bits_float;
using numerics::float_bits;
using numerics::Fp16;

struct Findings {
  unsigned long long wrong;
  std::uint32_t input[2], expected, actual;  // of one of them
};

__device__ void expect(Findings* findings, std::uint32_t expected, std::uint32_t actual,
                       std::uint32_t input, std::uint32_t second = 0) {
  if (expected == actual) return;
  if (atomicAdd(&findings->wrong, 1ull) == 0) {
    findings->input[0] = input;
    findings->input[1] = second;
    findings->expected = expected;
    findings->actual = actual;
  }
}

// NaNs are one.
__device__ std::uint32_t any_nan(float x) {
  return numerics::is_nan(x) ? 0x7FC00000u : float_bits(x);
}

// Check(findings, bits) for every 32-bit pattern.
template <class Check>
__global__ void for_all_bits(Findings* findings, Check check) {
  const std::uint64_t step = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i >> 32 == 0;
       i += step) {
    check(findings, static_cast<std::uint32_t>(i));
  }
}

template <class Check>
void expect_all(const Check& check) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    GTEST_SKIP() << "no CUDA device";
  }
  Findings* findings = nullptr;
  ASSERT_EQ(cudaMalloc(&findings, sizeof(Findings)), cudaSuccess);
  ASSERT_EQ(cudaMemset(findings, 0, sizeof(Findings)), cudaSuccess);
  for_all_bits<<<132 * 16, 256>>>(findings, check);
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  Findings result;
  ASSERT_EQ(cudaMemcpy(&result, findings, sizeof result, cudaMemcpyDefault), cudaSuccess);
  (void)cudaFree(findings);
  EXPECT_EQ(result.wrong, 0u) << std::hex << "input " << result.input[0] << " " << result.input[1]
                              << " expected " << result.expected << " got " << result.actual;
}

// A second operand for each first: ordinary, or any bits, by a hash.
__device__ float partner(std::uint32_t bits) {
  std::uint32_t h = bits * 2654435761u;
  h ^= h >> 15;
  h *= 0x85EBCA6Bu;
  h ^= h >> 13;
  return bits_float(h % 4 == 0 ? h : (h & 0x807FFFFFu) | ((97u + h % 61u) << 23));
}

struct CheckDivision {
  __device__ void operator()(Findings* findings, std::uint32_t bits) const {
    const float x = bits_float(bits), y = partner(bits);
    expect(findings, any_nan(__fdiv_rn(x, y)), any_nan(numerics::div_rn(x, y)), bits,
           float_bits(y));
    expect(findings, any_nan(__fdiv_rn(y, x)), any_nan(numerics::div_rn(y, x)), float_bits(y),
           bits);
    expect(findings, any_nan(__fdiv_rn(1.0f, x)), any_nan(numerics::div_rn(1.0f, x)), bits);
  }
};
struct CheckRoot {
  __device__ void operator()(Findings* findings, std::uint32_t bits) const {
    const float x = bits_float(bits);
    expect(findings, any_nan(__fsqrt_rn(x)), any_nan(numerics::sqrt_rn(x)), bits);
  }
};
struct CheckReciprocal {
  __device__ void operator()(Findings* findings, std::uint32_t bits) const {
    const std::uint32_t exponent = (bits >> 23) & 255u;
    if (exponent < 2 || exponent > 252) return;
    const float x = bits_float(bits);
    expect(findings, float_bits(__frcp_rn(x)), float_bits(numerics::device::reciprocal(x)), bits);
  }
};
struct CheckE4m3 {
  __device__ void operator()(Findings* findings, std::uint32_t bits) const {
    const std::uint32_t code = formats::e4m3_from_float(bits_float(bits));
    const std::uint32_t pair = e4m3_pair(bits_float(bits), bits_float(~bits));
    expect(findings, code | formats::e4m3_from_float(bits_float(~bits)) << 8, pair, bits);
    if (bits < 256) {
      expect(findings, any_nan(formats::e4m3_to_float(static_cast<std::uint8_t>(bits))),
             any_nan(e4m3_value(bits)), bits);
    }
  }
};
template <class T>
struct CheckPack {
  __device__ void operator()(Findings* findings, std::uint32_t bits) const {
    const float low = bits_float(bits), high = bits_float(~bits);
    const std::uint32_t pair = round_pair(T(), low, high);
    expect(findings, any_nan(numerics::to_float(numerics::round_to<T>(low))),
           any_nan(numerics::to_float(T{static_cast<std::uint16_t>(pair)})), bits);
    expect(findings, any_nan(numerics::to_float(numerics::round_to<T>(high))),
           any_nan(numerics::to_float(T{static_cast<std::uint16_t>(pair >> 16)})), bits);
    if (bits < 65536) {
      Packed<T> leaf = zero_leaf<T>();
      leaf.words[0] = bits | (bits ^ 0x5555u) << 16;
      float values[kLeaf];
      unpack(leaf, values);
      expect(findings, any_nan(numerics::to_float(T{static_cast<std::uint16_t>(bits)})),
             any_nan(values[0]), bits);
      expect(findings, any_nan(numerics::to_float(T{static_cast<std::uint16_t>(bits ^ 0x5555u)})),
             any_nan(values[1]), bits);
    }
  }
};

// Eight values about y = bits, signs alternating, by factors of every kind.
struct CheckE2m1 {
  float reciprocal;
  __device__ void operator()(Findings* findings, std::uint32_t bits) const {
    if (bits >> 31 != 0 || bits > numerics::kInfBits) return;  // magnitudes, eight a thread
    if (bits % 8 != 0) return;
    if (bits == numerics::kInfBits && numerics::is_zero(reciprocal)) return;  // NaN
    Packed<float> leaf = zero_leaf<float>();
    float y[8];
    std::uint32_t expected = 0;
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      const std::uint32_t value = min(bits + i, numerics::kInfBits) | (i % 2 << 31);
      y[i] = bits_float(value);
      leaf.words[i] = value;
      expected |=
          static_cast<std::uint32_t>(formats::e2m1_from_float(numerics::mul_rn(y[i], reciprocal)))
          << (4 * i);
    }
    expect(findings, expected, e2m1_codes(y, sign_nibbles(leaf, 0), E2m1Factor::of(reciprocal)),
           bits);
  }
};

template <class T>
struct CheckLeaf {
  // Random words: amax, and the paired order there and back.
  __device__ void operator()(Findings* findings, std::uint32_t bits) const {
    if (bits % 64 != 0) return;
    Packed<T> leaf;
    std::uint32_t most = 0, word = bits * 2654435761u;
#pragma unroll
    for (int i = 0; i < Packed<T>::kWords; ++i) {
      word = word * 1664525u + 1013904223u;
      leaf.words[i] = (bits & 64) != 0 ? word : word & 0xBFFFBFFFu;  // without NaN: half of them
    }
    float values[kLeaf];
    unpack(leaf, values);
#pragma unroll
    for (int i = 0; i < kLeaf; ++i) most = max(most, numerics::abs_bits(values[i]));
    expect(findings, any_nan(bits_float(most)), any_nan(leaf_amax(leaf)), bits);
    PairedLeaf<T> paired;
    pack(values, paired);
    float again[kLeaf];
    unpack(paired, again);
    Packed<T> ordered = in_order(paired), plain;
    pack(values, plain);
#pragma unroll
    for (int i = 0; i < kLeaf; ++i)
      expect(findings, any_nan(values[i]), any_nan(again[i]), bits, i);
#pragma unroll
    for (int i = 0; i < Packed<T>::kWords; ++i)
      expect(findings, plain.words[i], ordered.words[i], bits, i);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t signs = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) signs |= (float_bits(again[8 * half + i]) >> 31) << (4 * i + 3);
      expect(findings, signs, sign_nibbles(paired, half), bits, half);
      expect(findings, signs, sign_nibbles(plain, half), bits, half);
    }
  }
};

TEST(FastCodecsCuda, DivisionIsRn) { expect_all(CheckDivision()); }
TEST(FastCodecsCuda, SquareRootIsRn) { expect_all(CheckRoot()); }
TEST(FastCodecsCuda, ReciprocalIsRn) { expect_all(CheckReciprocal()); }
TEST(FastCodecsCuda, E4m3) { expect_all(CheckE4m3()); }
TEST(FastCodecsCuda, Bf16Pairs) { expect_all(CheckPack<Bf16>()); }
TEST(FastCodecsCuda, Fp16Pairs) { expect_all(CheckPack<Fp16>()); }
TEST(FastCodecsCuda, E2m1) {
  // Powers of two; inverses of block scales; significands at their ends and drawn at random; the
  // ends of the range that NVFP4 and MXFP4 use.
  for (const float r :
       {1.0f, 0.0f, 0.8f, 0x1.fffffep0f, 0x1.000002p0f, 0x1.555556p-2f, 0x1.99999ap-4f,
        0x1.745d18p-3f, 0x1.3b13b2p-3f, 0x1.e1e1e2p-5f, 0x1.2492p-3f, 0x1.8p-120f, 0x1.234568p-101f,
        0x1.fedcbap109f, 0x1p127f, 0x1p-127f, 0x1p-126f}) {
    expect_all(CheckE2m1{r});
  }
}
TEST(FastCodecsCuda, LeavesOfBf16) { expect_all(CheckLeaf<Bf16>()); }
TEST(FastCodecsCuda, LeavesOfFp16) { expect_all(CheckLeaf<Fp16>()); }
TEST(FastCodecsCuda, LeavesOfFp32) { expect_all(CheckLeaf<float>()); }

}  // namespace
}  // namespace halfbyte::simt
