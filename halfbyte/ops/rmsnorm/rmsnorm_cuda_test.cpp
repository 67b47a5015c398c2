// rmsnorm_quantize on a GPU, with as many rows as it takes to meet every plan: a row's bits do not
// depend on the others, nor on what runs beside it.
#ifdef HALFBYTE_WITH_CUDA

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "halfbyte/ops/common/testing_device.h"
#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Status;
using testing::OnDevice;
using testing::Random;
using Bytes = std::vector<std::uint8_t>;

constexpr base::Device kCuda{base::DeviceType::kCuda, 0};

bool has_cuda() { return !testing::cuda_runners().empty(); }

// Values repeat after a prime number of them: rows differ.
std::vector<std::uint16_t> random_bf16(std::int64_t count, std::uint64_t seed, float mean) {
  constexpr std::size_t kPeriod = 262'139;
  Random random(seed);
  std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] =
        i >= kPeriod ? values[i - kPeriod] : numerics::bf16_from_float(mean + random.normal()).bits;
  }
  return values;
}

struct Sizes {
  std::int64_t rows, columns;
  bool residual, row_scale;
};

// The tensors of a call, those that are read given at its making; linear scales, whose rows can be
// compared one by one.
class Call {
 public:
  Call(Sizes sizes, const std::uint16_t* x, const std::uint16_t* residual, const OnDevice& weight)
      : sizes_(sizes),
        x_(row_bytes() * sizes.rows, x),
        residual_(sizes.residual ? row_bytes() * sizes.rows : 0, residual),
        weight_(weight.data()),
        codes_(sizes.rows * sizes.columns / 2),
        scales_(sizes.rows * sizes.columns / 16),
        row_scale_(sizes.rows * 4) {}

  Status run(void* stream = nullptr) const {
    const auto view = [&](const OnDevice& data, DType dtype, std::int64_t columns) {
      return base::TensorView(data.data(), dtype, {sizes_.rows, columns}, kCuda);
    };
    RmsNormQuantizeArgs args;
    args.norm.x = view(x_, DType::kBF16, sizes_.columns);
    args.norm.weight = base::TensorView(weight_, DType::kBF16, {sizes_.columns}, kCuda);
    if (sizes_.residual) args.norm.residual = view(residual_, DType::kBF16, sizes_.columns);
    if (sizes_.row_scale) args.spec.scale = ScaleMode::kRow;
    args.out.codes = view(codes_, DType::kU8, sizes_.columns / 2);
    args.out.scales = view(scales_, DType::kU8, sizes_.columns / 16);
    if (sizes_.row_scale) {
      args.out.row_scale = base::TensorView(row_scale_.data(), DType::kF32, {sizes_.rows}, kCuda);
    }
    base::Execution execution;
    execution.stream = stream;
    return rmsnorm_quantize(args, execution);
  }

  // What `count` rows from `first` on have become: codes, scales, residual, row scales.
  std::array<Bytes, 4> results(std::int64_t first, std::int64_t count) const {
    const auto part = [&](const OnDevice& data, std::int64_t bytes) {
      Bytes result(static_cast<std::size_t>(count * bytes));
      EXPECT_EQ(cudaMemcpy(result.data(), static_cast<std::uint8_t*>(data.data()) + first * bytes,
                           result.size(), cudaMemcpyDeviceToHost),
                cudaSuccess);
      return result;
    };
    return {part(codes_, sizes_.columns / 2), part(scales_, sizes_.columns / 16),
            sizes_.residual ? part(residual_, row_bytes()) : Bytes(),
            sizes_.row_scale ? part(row_scale_, 4) : Bytes()};
  }
  std::array<Bytes, 4> results() const { return results(0, sizes_.rows); }

 private:
  std::int64_t row_bytes() const { return sizes_.columns * 2; }

  Sizes sizes_;
  OnDevice x_, residual_;
  void* weight_;
  OnDevice codes_, scales_, row_scale_;
};

TEST(RmsnormQuantizeCuda, RowsDoNotDependOnTheBatch) {
  if (!has_cuda()) GTEST_SKIP() << "no CUDA device";
  constexpr std::int64_t kRows = 1100;
  for (const std::int64_t columns : {512, 1536, 4096, 8192, 12800, 18432, 28672, 53248}) {
    const auto x = random_bf16(kRows * columns, 1, 0),
               residual = random_bf16(kRows * columns, 2, 0);
    const OnDevice weight(random_bf16(columns, 3, 1));
    for (const bool with_residual : {false, true}) {
      for (const bool row_scale : {false, true}) {
        const auto call_of = [&](std::int64_t first, std::int64_t rows) {
          return std::make_unique<Call>(Sizes{rows, columns, with_residual, row_scale},
                                        x.data() + first * columns,
                                        residual.data() + first * columns, weight);
        };
        const auto all = call_of(0, kRows);
        ASSERT_TRUE(all->run().ok());
        const std::pair<std::int64_t, std::int64_t> parts[] = {{0, 1},    {1099, 1},  {517, 1},
                                                               {100, 20}, {300, 150}, {400, 300}};
        for (const auto& [first, rows] : parts) {
          const auto some = call_of(first, rows);
          ASSERT_TRUE(some->run().ok());
          ASSERT_EQ(some->results(), all->results(first, rows))
              << columns << " columns, rows " << first << " +" << rows << " of " << kRows
              << (with_residual ? ", residual" : "") << (row_scale ? ", scale a row" : "");
        }
      }
    }
  }
}

TEST(RmsnormQuantizeCuda, TwoStreamsAtOnce) {
  if (!has_cuda()) GTEST_SKIP() << "no CUDA device";
  constexpr std::int64_t kRows = 200;
  for (const std::int64_t columns : {4096, 8192, 20480}) {
    const OnDevice weight(random_bf16(columns, 3, 1));
    const auto x = random_bf16(2 * kRows * columns, 4, 0);
    constexpr int kCalls = 16;
    std::vector<std::unique_ptr<Call>> calls, expected;
    for (int i = 0; i < kCalls; ++i) {
      const std::uint16_t* of_call = x.data() + i % 2 * kRows * columns;
      for (auto* into : {&calls, &expected}) {
        into->push_back(std::make_unique<Call>(Sizes{kRows - i, columns, true, i % 4 == 3}, of_call,
                                               of_call + columns, weight));
      }
      ASSERT_TRUE(expected.back()->run().ok());
    }
    cudaStream_t streams[2];
    for (cudaStream_t& stream : streams) {
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    }
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (int i = 0; i < kCalls; ++i) {
      ASSERT_TRUE(calls[static_cast<std::size_t>(i)]->run(streams[i % 2]).ok());
    }
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (std::size_t i = 0; i < calls.size(); ++i) {
      EXPECT_EQ(calls[i]->results(), expected[i]->results()) << columns << " columns, call " << i;
    }
    for (cudaStream_t stream : streams) EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  }
}

}  // namespace
}  // namespace halfbyte::ops

#endif  // HALFBYTE_WITH_CUDA
