// Tensors of more than 2^31 elements on a GPU: rows that repeat give results that repeat, to the
// last of them, and are those of a small call.
#ifdef HALFBYTE_WITH_CUDA

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "halfbyte/ops/common/testing_device.h"
#include "halfbyte/ops/common/testing_random.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"
#include "halfbyte/ops/rope/rope.h"
#include "halfbyte/ops/silu_mul/silu_mul.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Status;
using base::TensorView;
using testing::OnDevice;
using Bytes = std::vector<std::uint8_t>;

constexpr base::Device kCuda{base::DeviceType::kCuda, 0};
constexpr std::int64_t kElements = (std::int64_t{1} << 31) + (std::int64_t{1} << 22);
constexpr std::int64_t kPattern = 64;  // rows, repeated

Bytes random_bf16(std::int64_t count) {
  testing::Random random(1);
  Bytes bytes;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint16_t bits = numerics::bf16_from_float(random.normal()).bits;
    bytes.push_back(static_cast<std::uint8_t>(bits));
    bytes.push_back(static_cast<std::uint8_t>(bits >> 8));
  }
  return bytes;
}

// Of a device there is, with memory for the largest case.
bool has_room() {
  std::size_t free_bytes = 0, total_bytes = 0;
  return cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess && free_bytes >= std::uint64_t{11}
                                                                                       << 30;
}

using Pointers = std::vector<void*>;
using Launch = std::function<Status(std::int64_t rows, void* in, const Pointers& out)>;

// Bytes are of a row.
void expect_repeats(std::int64_t rows, const Bytes& pattern,
                    const std::vector<std::int64_t>& out_bytes, const Launch& launch) {
  const auto in_bytes = static_cast<std::int64_t>(pattern.size()) / kPattern;
  const OnDevice one(pattern), all(static_cast<std::size_t>(rows * in_bytes));
  for (std::int64_t row = 0; row < rows; row += kPattern) {
    const auto bytes = static_cast<std::size_t>(std::min(kPattern, rows - row) * in_bytes);
    ASSERT_EQ(cudaMemcpyAsync(static_cast<char*>(all.data()) + row * in_bytes, one.data(), bytes,
                              cudaMemcpyDeviceToDevice),
              cudaSuccess);
  }
  std::vector<std::unique_ptr<OnDevice>> memory;
  const auto outputs = [&](std::int64_t of_rows) {
    Pointers result;
    for (const std::int64_t bytes : out_bytes) {
      const auto size = static_cast<std::size_t>(of_rows * bytes);
      memory.push_back(std::make_unique<OnDevice>(size));
      result.push_back(memory.back()->data());
      EXPECT_EQ(cudaMemset(result.back(), 0xAB, size), cudaSuccess);
    }
    return result;
  };
  const Pointers small = outputs(kPattern), large = outputs(rows);
  ASSERT_TRUE(launch(kPattern, one.data(), small).ok());
  ASSERT_TRUE(launch(rows, all.data(), large).ok());
  for (std::size_t i = 0; i < out_bytes.size(); ++i) {
    const auto part = [&](void* of, std::int64_t first, std::int64_t count) {
      Bytes bytes(static_cast<std::size_t>(count * out_bytes[i]));
      EXPECT_EQ(cudaMemcpy(bytes.data(), static_cast<char*>(of) + first * out_bytes[i],
                           bytes.size(), cudaMemcpyDeviceToHost),
                cudaSuccess);
      return bytes;
    };
    for (const std::int64_t from : {std::int64_t{0}, rows / 2, rows - 1}) {
      const std::int64_t first = from / kPattern * kPattern;
      const std::int64_t count = std::min(kPattern, rows - first);
      EXPECT_TRUE(part(small[i], 0, count) == part(large[i], first, count))
          << "output " << i << ", rows from " << first << " of " << rows;
    }
  }
}

TensorView rows_view(void* data, DType dtype, std::int64_t rows, std::int64_t columns) {
  return TensorView(data, dtype, {rows, columns}, kCuda);
}
QuantizeOutputs quantized(const Pointers& out, std::int64_t rows, std::int64_t columns) {
  QuantizeOutputs result;
  result.codes = rows_view(out[0], DType::kU8, rows, columns / 2);
  result.scales = rows_view(out[1], DType::kU8, rows, columns / 16);
  return result;
}

TEST(LargeCuda, RmsnormQuantize) {
  if (!has_room()) GTEST_SKIP() << "no CUDA device with 11 GiB of free memory";
  for (const std::int64_t columns : {4096, 65536}) {
    const OnDevice weight(random_bf16(columns));
    const Launch launch = [&](std::int64_t rows, void* in, const Pointers& out) {
      RmsNormQuantizeArgs args;
      args.norm.x = rows_view(in, DType::kBF16, rows, columns);
      args.norm.weight = TensorView(weight.data(), DType::kBF16, {columns}, kCuda);
      args.out = quantized(out, rows, columns);
      return rmsnorm_quantize(args);
    };
    expect_repeats(kElements / columns, random_bf16(kPattern * columns),
                   {columns / 2, columns / 16}, launch);
  }
}

TEST(LargeCuda, QuantizeAndBack) {
  if (!has_room()) GTEST_SKIP() << "no CUDA device with 11 GiB of free memory";
  constexpr std::int64_t kColumns = 4096;
  const Launch launch = [&](std::int64_t rows, void* in, const Pointers& out) -> Status {
    QuantizeArgs args;
    args.x = rows_view(in, DType::kBF16, rows, kColumns);
    args.out = quantized(out, rows, kColumns);
    const Status status = quantize(args);
    if (!status.ok()) return status;
    DequantizeArgs back;
    back.packed.rows = rows;
    back.packed.columns = kColumns;
    back.packed.codes = args.out.codes;
    back.packed.scales = args.out.scales;
    back.x = rows_view(out[2], DType::kBF16, rows, kColumns);
    return dequantize(back);
  };
  expect_repeats(kElements / kColumns, random_bf16(kPattern * kColumns),
                 {kColumns / 2, kColumns / 16, 2 * kColumns}, launch);
}

TEST(LargeCuda, SiluMulQuantize) {
  if (!has_room()) GTEST_SKIP() << "no CUDA device with 11 GiB of free memory";
  constexpr std::int64_t kColumns = 4096;
  const Launch launch = [&](std::int64_t rows, void* in, const Pointers& out) {
    SiluMulQuantizeArgs args;
    args.gate_up = rows_view(in, DType::kBF16, rows, 2 * kColumns);
    args.out = quantized(out, rows, kColumns);
    return silu_mul_quantize(args);
  };
  expect_repeats(kElements / (2 * kColumns), random_bf16(kPattern * 2 * kColumns),
                 {kColumns / 2, kColumns / 16}, launch);
}

TEST(LargeCuda, Rope) {
  if (!has_room()) GTEST_SKIP() << "no CUDA device with 11 GiB of free memory";
  constexpr std::int64_t kHeads = 32, kHeadDim = 128, kColumns = kHeads * kHeadDim;
  std::vector<float> cos, sin;
  for (std::int64_t i = 0; i < kPattern * kHeadDim / 2; ++i) {
    cos.push_back(0.25f + static_cast<float>(i % 7));
    sin.push_back(static_cast<float>(i % 5) - 2.5f);
  }
  std::vector<std::int32_t> positions;
  for (std::int64_t row = 0; row < kElements / kColumns; ++row) {
    positions.push_back(static_cast<std::int32_t>(row % kPattern));
  }
  const OnDevice cos_table(cos), sin_table(sin), of_rows(positions);
  const Launch launch = [&](std::int64_t rows, void* in, const Pointers& out) {
    RopeArgs args;
    args.x = TensorView(in, DType::kBF16, {rows, kHeads, kHeadDim}, kCuda);
    args.y = TensorView(out[0], DType::kBF16, {rows, kHeads, kHeadDim}, kCuda);
    args.positions = TensorView(of_rows.data(), DType::kI32, {rows}, kCuda);
    args.cos = TensorView(cos_table.data(), DType::kF32, {kPattern, kHeadDim / 2}, kCuda);
    args.sin = TensorView(sin_table.data(), DType::kF32, {kPattern, kHeadDim / 2}, kCuda);
    return rope(args);
  };
  expect_repeats(kElements / kColumns, random_bf16(kPattern * kColumns), {2 * kColumns}, launch);
}

}  // namespace
}  // namespace halfbyte::ops

#endif  // HALFBYTE_WITH_CUDA
