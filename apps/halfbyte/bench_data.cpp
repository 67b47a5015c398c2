#include "apps/halfbyte/bench_data.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>

#include "halfbyte/numerics/half_types.h"

namespace halfbyte::app {
namespace {

using base::DType;

void put_float(std::byte* target, DType dtype, float value) {
  if (dtype == DType::kBF16) {
    const auto bits = numerics::bf16_from_float(value).bits;
    std::memcpy(target, &bits, sizeof(bits));
  } else if (dtype == DType::kF16) {
    const auto bits = numerics::fp16_from_float(value).bits;
    std::memcpy(target, &bits, sizeof(bits));
  } else {
    std::memcpy(target, &value, sizeof(value));
  }
}

void fill_floats(std::vector<std::byte>& block, DType dtype, float mean, float deviation,
                 std::mt19937& generator) {
  std::normal_distribution<float> normal(mean, deviation);
  const auto bytes = static_cast<std::size_t>(base::dtype_bytes(dtype));
  for (std::size_t i = 0; i < block.size(); i += bytes) {
    put_float(block.data() + i, dtype, normal(generator));
  }
}

// Bytes first, first + 1, .. first + count - 1.
void fill_bytes(std::vector<std::byte>& block, unsigned first, unsigned count,
                std::mt19937& generator) {
  for (std::byte& byte : block) byte = static_cast<std::byte>(first + generator() % count);
}

void fill_indices(std::vector<std::byte>& block) {
  for (std::size_t i = 0; i < block.size() / sizeof(std::int32_t); ++i) {
    const auto index = static_cast<std::int32_t>(i);
    std::memcpy(block.data() + i * sizeof(index), &index, sizeof(index));
  }
}

// fp32, of angles that any two tensors agree on.
void fill_angles(std::vector<std::byte>& block, bool sines) {
  for (std::size_t i = 0; i < block.size() / sizeof(float); ++i) {
    const double angle =
        static_cast<double>(i) * 2.399963;  // the golden angle: all over the circle
    const auto value = static_cast<float>(sines ? std::sin(angle) : std::cos(angle));
    std::memcpy(block.data() + i * sizeof(value), &value, sizeof(value));
  }
}

void fill_block(std::vector<std::byte>& block, Fill fill, DType dtype, std::mt19937& generator) {
  switch (fill) {
    case Fill::kNone:
      return;
    case Fill::kNormal:
      fill_floats(block, dtype, 0.0f, 1.0f, generator);
      return;
    case Fill::kWeight:
      fill_floats(block, dtype, 1.0f, 0.1f, generator);
      return;
    case Fill::kCodes:
      fill_bytes(block, 0, 256, generator);
      for (std::byte& byte : block) {  // as FP8 codes: no NaN
        if ((byte & std::byte{0x7F}) == std::byte{0x7F}) byte ^= std::byte{1};
      }
      return;
    case Fill::kE4m3Scales:  // 0.5 .. 1.875
      fill_bytes(block, 0x30, 16, generator);
      return;
    case Fill::kE8m0Scales:  // 1/8 .. 4
      fill_bytes(block, 124, 6, generator);
      return;
    case Fill::kIndex:
      fill_indices(block);
      return;
    case Fill::kCos:
    case Fill::kSin:
      fill_angles(block, fill == Fill::kSin);
      return;
  }
}

}  // namespace

std::span<const std::byte> BenchData::block(Fill fill, DType dtype, std::int64_t elements,
                                            unsigned seed) {
  std::vector<std::byte>& block = blocks_[{fill, dtype, seed}];
  const std::int64_t wanted =
      std::clamp<std::int64_t>(elements, 1, kBlockElements) * base::dtype_bytes(dtype);
  if (block.size() < static_cast<std::size_t>(wanted)) {
    block.resize(static_cast<std::size_t>(wanted));
    std::mt19937 generator(seed + 1);
    fill_block(block, fill, dtype, generator);
  }
  return {block.data(), static_cast<std::size_t>(wanted)};
}

}  // namespace halfbyte::app
