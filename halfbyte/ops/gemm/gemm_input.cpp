#include "halfbyte/ops/gemm/gemm_input.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops {
namespace {

// Of a byte of codes: its even column's 2 * e2m1 in byte 0, its odd one's in byte 4; their sum.
struct Unpacked {
  std::uint64_t bytes;
  std::int64_t sum;
};
constexpr auto kUnpacked = [] {
  std::array<Unpacked, 256> table{};
  for (std::size_t byte = 0; byte < table.size(); ++byte) {
    const int even = e2m1_doubled(static_cast<std::uint8_t>(byte & 15));
    const int odd = e2m1_doubled(static_cast<std::uint8_t>(byte >> 4));
    table[byte] = {static_cast<std::uint64_t>(even & 0xFF) | static_cast<std::uint64_t>(odd & 0xFF)
                                                                 << 32,
                   even + odd};
  }
  return table;
}();

struct Target {
  const GemmProblem& problem;
  std::int64_t first_row, together;
  std::int8_t* codes;
  std::int32_t* corrections;
  float* floats;
};

// A row's place among those that alternate.
struct Place {
  std::int64_t group, within, together;
};

void unpack_row(const Target& target, std::int64_t row, Place place) {
  const GemmProblem& problem = target.problem;
  const std::int64_t blocks = problem.blocks();
  const int block_bytes = problem.block() / 2;
  const std::uint8_t* from = problem.a_codes + problem.a_rows.offset(row);
  std::int8_t* to = target.codes + place.group * place.together * problem.k + 4 * place.within;
  std::int32_t* corrections =
      target.corrections + place.group * place.together * blocks + place.within;
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::int64_t sum = 0;
    for (int i = 0; i < block_bytes; i += 4, from += 4) {
      std::uint64_t eight = 0;
      for (int j = 0; j < 4; ++j) {
        const Unpacked& two = kUnpacked[from[j]];
        eight |= two.bytes << (8 * j);
        sum += two.sum;
      }
      for (int half = 0; half < 2; ++half, to += 4 * place.together, eight >>= 32) {
        const auto four = static_cast<std::uint32_t>(eight);
        std::memcpy(to, &four, sizeof(four));
      }
    }
    corrections[b * place.together] = static_cast<std::int32_t>(-kWeightOffset * sum);
  }
}

void unpack_scales(const Target& target, std::int64_t row, Place place) {
  const GemmProblem& problem = target.problem;
  const std::int64_t group = problem.group_of_row(row), blocks = problem.blocks();
  const std::int64_t scale_row = group < 0 ? -1 : problem.a_scale_row(row, group);
  if (scale_row < 0) return;  // nobody reads them
  const bool nvfp4 = problem.format == Format::kNvfp4;
  const std::int64_t arrays = nvfp4 ? 1 : 2, step = place.together;
  float* to = target.floats + place.group * step * arrays * blocks + place.within;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::uint8_t scale =
        problem.a_scales[formats::scale_offset(problem.a_layout, scale_row, b, blocks)];
    if (nvfp4) {
      to[b * step] = 0x1p118f * formats::e4m3_to_float(scale);
      continue;
    }
    const int e = scale - 127, half = e >> 1;
    const float nan = formats::e8m0_to_float(formats::kE8m0Nan);
    to[b * step] = scale == formats::kE8m0Nan ? nan : 0.25f * numerics::power_of_two(half);
    to[(blocks + b) * step] = numerics::power_of_two(e - half);
  }
}

void unpack_rows(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch) {
  const Target& target = *static_cast<const Target*>(context);
  const GemmProblem& problem = target.problem;
  for (std::int64_t at = begin; at < end; ++at) {
    const std::int64_t row = target.first_row + at;
    const Place place = {at / target.together, at % target.together, target.together};
    if (problem.quantized) {
      unpack_row(target, row, place);
      unpack_scales(target, row, place);
      continue;
    }
    numerics::visit_float(problem.x_dtype, [&]<class T>(T) {
      const T* from = static_cast<const T*>(problem.x) + problem.x_rows.offset(row);
      float* to = target.floats + place.group * place.together * problem.k + place.within;
      for (std::int64_t k = 0; k < problem.k; ++k) {
        to[k * place.together] = numerics::to_float(from[k]);
      }
    });
  }
}

bool has_vnni() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vnni") != 0;
#else
  return false;
#endif
}

}  // namespace

GemmInputBuffer::GemmInputBuffer(const GemmProblem& problem, int together, std::int64_t most_rows)
    : problem_(problem) {
  input_.together = problem.m < together ? 1 : together;
  constexpr std::int64_t kBytes = 8 << 20, kLeastRows = 64;
  const std::int64_t row_bytes = problem.quantized ? 2 * problem.k : 4 * problem.k;
  rows_at_once_ = std::min({problem.m, most_rows, std::max(kLeastRows, kBytes / row_bytes)});
  // Whole groups of rows that alternate.
  const std::int64_t padded = formats::round_up_to(rows_at_once_, input_.together);
  const auto elements = static_cast<std::size_t>(padded * problem.k);
  const auto blocks = static_cast<std::size_t>(padded * problem.blocks());
  if (problem.quantized) {
    codes_.resize(elements);
    corrections_.resize(blocks);
    floats_.resize(problem.format == Format::kNvfp4 ? blocks : 2 * blocks);
    input_.codes = codes_.data();
    input_.corrections = corrections_.data();
    input_.scales = floats_.data();
  } else {
    floats_.resize(elements);
    input_.values = floats_.data();
  }
  input_.vnni = has_vnni();
}

const GemmInput& GemmInputBuffer::unpack(std::int64_t first_row, int num_threads) {
  input_.first_row = first_row;
  input_.rows = std::min(rows_at_once_, problem_.m - first_row);
  const Target target{problem_,      first_row,           input_.together,
                      codes_.data(), corrections_.data(), floats_.data()};
  simd::parallel_rows(input_.rows, problem_.k, num_threads, 0, unpack_rows, &target);
  return input_;
}

}  // namespace halfbyte::ops
