// Every input there is: all bf16 and fp16 values through quantize in each format, and all 2^32
// floats through the E2M1 and E4M3 encoders of each CPU level.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/ops/common/testing.h"
#include "halfbyte/ops/quantize/quantize.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using testing::TensorSet;
using testing::TestTensor;

// Rows of neighbouring bit patterns share their exponents, so their block scales are ordinary; the
// strided order puts far ones in a block.
TEST(EveryHalf, QuantizeInEveryFormat) {
  std::vector<testing::Runner> runners = testing::cpu_runners();
  for (testing::Runner& runner : testing::cuda_runners()) runners.push_back(std::move(runner));
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const std::uint32_t step : {1u, 4097u}) {
      for (const Format format : {Format::kNvfp4, Format::kMxfp4, Format::kFp8}) {
        for (const ScaleMode mode : {ScaleMode::kTensor, ScaleMode::kRow}) {
          if (format == Format::kMxfp4 && mode == ScaleMode::kRow) continue;
          const std::int64_t block =
              formats::has_block_scales(format) ? formats::block_elements(format) : 16;
          TensorSet set;
          set.add("x", TestTensor(dtype, {65536 / block, block}));
          for (std::uint32_t i = 0; i < 65536; ++i) {
            testing::set_bits(set.view("x"), i, i * step & 0xFFFFu);
          }
          set.add("codes",
                  TestTensor(DType::kU8, {65536 / block, formats::code_bytes(format, block)}));
          if (block == formats::block_elements(format)) {
            set.add("scales", TestTensor(DType::kU8, {65536 / block}));
          }
          if (mode == ScaleMode::kRow) set.add("row", TestTensor(DType::kF32, {65536 / block}));
          set.add("given", TestTensor(DType::kF32, {1}));
          testing::fill(set.view("given"), {1.0f});
          const testing::Operation operation = [&](const TensorSet& tensors,
                                                   const Execution& execution) {
            QuantizeArgs args;
            args.x = tensors.view("x");
            args.spec.format = format;
            args.spec.scale = mode;
            if (format == Format::kFp8 && mode == ScaleMode::kTensor) {
              args.given.decode_scale = tensors.view("given");
            }
            args.out.codes = tensors.view("codes");
            args.out.scales = tensors.view("scales");
            args.out.row_scale = tensors.view("row");
            return quantize(args, execution);
          };
          TensorSet expected = set.clone();
          ASSERT_TRUE(testing::reference_runner().run(expected, operation).ok());
          for (const testing::Runner& runner : runners) {
            TensorSet actual = set.clone();
            const base::Status status = runner.run(actual, operation);
            ASSERT_TRUE(status.ok()) << status.message();
            EXPECT_EQ(testing::first_difference(expected, actual), "")
                << runner.name << ", " << formats::format_name(format);
          }
        }
      }
    }
  }
}

// A sweep cuts the floats 0 .. 2^32 - 1 into chunks. Each is laid out in x as the format needs and
// quantized by the reference and by every CPU level; codes and scales are compared.
struct Sweep {
  QuantizeSpec spec;
  float given = 1.0f;
  std::uint32_t used = 0;  // floats of the sweep in each 16 elements of x, the others are 6
};

constexpr std::int64_t kColumns = 4096;  // of x
constexpr std::uint32_t kChunk = 1u << 20;

class SweepBuffers {
 public:
  explicit SweepBuffers(const Sweep& sweep)
      : sweep_(sweep),
        rows_((kChunk + sweep.used * 256 - 1) / (sweep.used * 256)),
        x_(static_cast<std::size_t>(rows_ * kColumns), 6.0f) {}

  // The floats from `first` on; the last row may run past the chunk.
  void fill(std::uint64_t first) {
    auto bits = static_cast<std::uint32_t>(first);
    for (std::size_t group = 0; group < x_.size(); group += 16) {
      for (std::uint32_t i = 0; i < sweep_.used; ++i) x_[group + i] = numerics::bits_float(bits++);
    }
  }

  std::vector<std::uint8_t> quantized(const Execution& execution) {
    const Format format = sweep_.spec.format;
    const std::int64_t bytes = formats::code_bytes(format, kColumns);
    const std::int64_t scales =
        formats::has_block_scales(format) ? kColumns / formats::block_elements(format) : 0;
    std::vector<std::uint8_t> out(static_cast<std::size_t>(rows_ * (bytes + scales)), 0xAB);
    QuantizeArgs args;
    args.x = TensorView(x_.data(), DType::kF32, {rows_, kColumns});
    args.spec = sweep_.spec;
    (format == Format::kFp8 ? args.given.decode_scale : args.given.global_scale) =
        TensorView(&sweep_.given, DType::kF32, {1});
    args.out.codes = TensorView(out.data(), DType::kU8, {rows_, bytes});
    if (scales != 0) {
      args.out.scales = TensorView(out.data() + rows_ * bytes, DType::kU8, {rows_ * scales});
    }
    const base::Status status = quantize(args, execution);
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }

 private:
  Sweep sweep_;
  std::int64_t rows_;
  std::vector<float> x_;
};

void expect_equal_on_every_float(const Sweep& sweep) {
  std::vector<base::CpuLevel> levels = base::available_cpu_levels();
  std::erase(levels, base::CpuLevel::kReference);
  if (levels.empty()) GTEST_SKIP() << "no CPU level but the reference";
  std::atomic<std::uint64_t> next{0}, differing_chunks{0}, example{0};
  const auto work = [&] {
    SweepBuffers buffers(sweep);
    Execution execution;
    for (std::uint64_t first; (first = next.fetch_add(kChunk)) < (std::uint64_t{1} << 32);) {
      buffers.fill(first);
      execution.backend = base::Backend::kReference;
      const std::vector<std::uint8_t> expected = buffers.quantized(execution);
      execution.backend = base::Backend::kCpu;
      execution.num_threads = 1;
      for (const base::CpuLevel level : levels) {
        execution.cpu_level = level;
        if (buffers.quantized(execution) == expected) continue;
        ++differing_chunks;
        example = first;
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back(work);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(differing_chunks, 0u) << "one starts at float bits 0x" << std::hex << example;
}

// d = 1: the encoder sees x itself.
TEST(EveryFloat, E4m3Encoder) {
  Sweep sweep;
  sweep.spec.format = Format::kFp8;
  sweep.used = 16;
  expect_equal_on_every_float(sweep);
}

// The last element of each block is 6 and g = 448: S saturates at 448 whatever the others are, and
// r = 1 / (448 * fl(1/448)) = 1, so the encoder sees x itself. NaN blocks are all 7.
TEST(EveryFloat, E2m1Encoder) {
  float d = 1.0f / 448.0f;
  ASSERT_EQ(1.0f / (448.0f * d), 1.0f);
  Sweep sweep;
  sweep.spec.format = Format::kNvfp4;
  sweep.given = 448.0f;
  sweep.used = 15;
  expect_equal_on_every_float(sweep);
}

}  // namespace
}  // namespace halfbyte::ops
