// Status and Result, TensorView and its row map, CPU levels, the floating-point environment.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "halfbyte/base/cpu_level.h"
#include "halfbyte/base/cuda_device.h"
#include "halfbyte/base/dtype.h"
#include "halfbyte/base/execution.h"
#include "halfbyte/base/float_environment.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace halfbyte::base {
namespace {

using Dims = std::vector<std::int64_t>;

// The values that the C ABI promises.
static_assert(static_cast<int>(StatusCode::kOk) == 0);
static_assert(static_cast<int>(StatusCode::kInvalidArgument) == 1);
static_assert(static_cast<int>(StatusCode::kUnsupported) == 2);
static_assert(static_cast<int>(StatusCode::kData) == 3);
static_assert(static_cast<int>(StatusCode::kIo) == 4);
static_assert(static_cast<int>(StatusCode::kCuda) == 5);
static_assert(static_cast<int>(StatusCode::kInternal) == 6);
static_assert(static_cast<int>(Backend::kAuto) == 0 && static_cast<int>(Backend::kReference) == 1);
static_assert(static_cast<int>(Backend::kCpu) == 2 && static_cast<int>(Backend::kCuda) == 3);
static_assert(static_cast<int>(DeviceType::kCpu) == 1 && static_cast<int>(DeviceType::kCuda) == 2);

TEST(Status, OkAndErrors) {
  EXPECT_TRUE(Status().ok());
  EXPECT_EQ(Status().message(), "");
  const Status error = invalid_argument("x", "fp32", "u8");
  EXPECT_FALSE(error.ok());
  EXPECT_EQ(error.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(error.message(), "x: expected fp32, got u8");
  EXPECT_EQ(in_operator("rmsnorm", error).message(), "rmsnorm: x: expected fp32, got u8");
  EXPECT_EQ(in_operator("rmsnorm", error).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(in_operator("rmsnorm", Status()).ok());
  EXPECT_EQ(in_operator("rmsnorm", Status()).message(), "");
  EXPECT_EQ(unsupported("no GPU").code(), StatusCode::kUnsupported);
}

TEST(Status, ReturnIfErrorPassesTheFirstErrorOn) {
  int steps = 0;
  const auto run = [&steps](const Status& first) -> Status {
    HALFBYTE_RETURN_IF_ERROR(first);
    ++steps;
    return unsupported("second");
  };
  EXPECT_EQ(run(unsupported("first")).message(), "first");
  EXPECT_EQ(steps, 0);
  EXPECT_EQ(run(Status()).message(), "second");
  EXPECT_EQ(steps, 1);
}

TEST(Result, ValueOrStatus) {
  Result<std::string> value(std::string("seven"));
  ASSERT_TRUE(value.ok());
  EXPECT_TRUE(value.status().ok());
  value.value() += "teen";
  EXPECT_EQ(value.value(), "seventeen");
  const Result<std::string> error(unsupported("none"));
  EXPECT_FALSE(error.ok());
  EXPECT_EQ(error.status().message(), "none");
  Result<std::unique_ptr<int>> owner(std::make_unique<int>(7));  // move-only values come out
  const std::unique_ptr<int> taken = std::move(owner).value();
  EXPECT_EQ(*taken, 7);
}

TEST(DType, SizesAndNames) {
  const struct {
    DType dtype;
    std::int64_t bytes;
    std::string_view name;
    bool is_float;
  } expected[] = {{DType::kF32, 4, "fp32", true},  {DType::kF16, 2, "fp16", true},
                  {DType::kBF16, 2, "bf16", true}, {DType::kU8, 1, "u8", false},
                  {DType::kI32, 4, "i32", false},  {DType::kI64, 8, "i64", false}};
  for (const auto& e : expected) {
    EXPECT_EQ(dtype_bytes(e.dtype), e.bytes);
    EXPECT_EQ(dtype_name(e.dtype), e.name);
    EXPECT_EQ(is_float(e.dtype), e.is_float);
  }
}

TensorView strided(const Dims& shape, const Dims& strides) {
  return TensorView(nullptr, DType::kF32, std::span(shape), std::span(strides));
}

TEST(TensorView, ContiguousStrides) {
  float data[24];
  const TensorView view(data, DType::kF32, {2, 3, 4});
  EXPECT_TRUE(view);
  EXPECT_EQ(view.ndim, 3);
  EXPECT_EQ(Dims(view.strides.begin(), view.strides.begin() + 3), (Dims{12, 4, 1}));
  EXPECT_EQ(view.numel(), 24);
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_EQ(view.as<float>(), data);
  EXPECT_EQ(shape_string(view), "[2, 3, 4]");
  EXPECT_EQ(to_string(view.device), "cpu");
  EXPECT_EQ(to_string(Device{DeviceType::kCuda, 3}), "cuda:3");
}

TEST(TensorView, GivenIsNotThePointer) {
  EXPECT_FALSE(TensorView());
  const TensorView empty(nullptr, DType::kF32, {0, 16});
  EXPECT_TRUE(empty) << "a zero-size tensor may have no data and is still given";
  EXPECT_EQ(empty.numel(), 0);
  EXPECT_TRUE(empty.is_contiguous());
  EXPECT_EQ(shape_string(empty), "[0, 16]");
}

TEST(TensorView, IsContiguous) {
  EXPECT_TRUE(strided({2, 3}, {3, 1}).is_contiguous());
  EXPECT_FALSE(strided({2, 3}, {4, 1}).is_contiguous());
  EXPECT_FALSE(strided({2, 3}, {1, 2}).is_contiguous());
  EXPECT_TRUE(strided({1, 3, 1}, {77, 1, -5}).is_contiguous()) << "a stride over one is never used";
  EXPECT_TRUE(strided({0, 3}, {99, 5}).is_contiguous()) << "nothing to step over";
  EXPECT_TRUE(strided({}, {}).is_contiguous());
}

// Where each row of `view` starts, by counting through the leading dimensions, the last fastest.
Dims row_offsets(const TensorView& view) {
  Dims offsets = {0};
  for (int dim = 0; dim + 1 < view.ndim; ++dim) {
    Dims next;
    for (const std::int64_t base : offsets) {
      for (std::int64_t i = 0; i < view.shape[dim]; ++i)
        next.push_back(base + i * view.strides[dim]);
    }
    offsets = next;
  }
  return offsets;
}

TEST(RowMap, EveryRowIsWhereTheStridesSay) {
  const struct {
    const char* what;
    Dims shape, strides;
  } views[] = {
      {"2-D", {5, 16}, {16, 1}},
      {"2-D strided", {5, 16}, {40, 1}},
      {"2-D backwards", {5, 16}, {-16, 1}},
      {"2-D broadcast", {5, 16}, {0, 1}},
      {"3-D", {3, 4, 16}, {64, 16, 1}},
      {"3-D strided inside", {3, 4, 16}, {400, 32, 1}},
      {"3-D strided outside", {3, 4, 16}, {100, 16, 1}},
      {"3-D transposed", {3, 4, 16}, {16, 48, 1}},
      {"3-D, one group", {1, 4, 16}, {-999, 20, 1}},
      {"3-D, one row a group", {4, 1, 16}, {20, -999, 1}},
      {"3-D broadcast inside", {3, 4, 16}, {16, 0, 1}},
      {"3-D broadcast", {3, 4, 16}, {0, 0, 1}},
      {"1-D", {16}, {1}},
      {"one element", {1}, {-7}},
      {"last dimension of size 1", {3, 4, 1}, {8, 2, 12345}},
      {"size-1 dimensions with any stride", {1, 3, 1, 4, 16}, {-1, 100, 17, 20, 1}},
      {"one row", {1, 1, 16}, {3, 5, 1}},
      {"4-D, the inner two fold", {2, 3, 4, 16}, {1000, 64, 16, 1}},
      {"4-D, the outer two fold", {2, 3, 4, 16}, {600, 200, 16, 1}},
      {"4-D, all fold", {2, 3, 4, 16}, {192, 64, 16, 1}},
      {"5-D, two and two fold", {2, 3, 4, 5, 16}, {3000, 1000, 100, 20, 1}},
  };
  for (const auto& v : views) {
    const TensorView view = strided(v.shape, v.strides);
    const Result<RowMap> map = row_map("x", view);
    ASSERT_TRUE(map.ok()) << v.what << ": " << map.status().message();
    const Dims expected = row_offsets(view);
    ASSERT_EQ(map.value().rows, static_cast<std::int64_t>(expected.size())) << v.what;
    for (std::size_t row = 0; row < expected.size(); ++row) {
      ASSERT_EQ(map.value().offset(static_cast<std::int64_t>(row)), expected[row])
          << v.what << ", row " << row;
    }
  }
}

TEST(RowMap, ZeroRows) {
  for (const Dims& shape : {Dims{0, 16}, Dims{3, 0, 16}, Dims{0, 3, 5, 7, 16}}) {
    const Result<RowMap> map = row_map("x", strided(shape, Dims(shape.size(), 1)));
    ASSERT_TRUE(map.ok());
    EXPECT_EQ(map.value().rows, 0);
  }
  const Result<RowMap> no_columns = row_map("x", strided({3, 0}, {0, 1}));
  ASSERT_TRUE(no_columns.ok());
  EXPECT_EQ(no_columns.value().rows, 3);
}

TEST(RowMap, ErrorsSayWhatWasGiven) {
  const auto message = [](const TensorView& view) {
    const Result<RowMap> map = row_map("residual", view);
    EXPECT_FALSE(map.ok());
    EXPECT_EQ(map.status().code(), StatusCode::kInvalidArgument);
    return map.status().message();
  };
  EXPECT_EQ(message(strided({}, {})), "residual: expected at least one dimension, got a scalar");
  EXPECT_EQ(message(strided({4, 16}, {32, 2})),
            "residual: expected a dense last dimension (stride 1), got stride 2");
  EXPECT_EQ(message(strided({2, 3, 4, 16}, {1000, 100, 20, 1})),
            "residual: expected leading dimensions that fold into at most two strides, got shape "
            "[2, 3, 4, 16] with strides [1000, 100, 20, 1]");
}

TEST(CpuLevel, NamesRoundTrip) {
  for (const CpuLevel level :
       {CpuLevel::kReference, CpuLevel::kV3, CpuLevel::kV4, CpuLevel::kNeon}) {
    EXPECT_EQ(cpu_level_from_name(cpu_level_name(level)), level);
  }
  EXPECT_EQ(cpu_level_name(CpuLevel::kV3), "v3");
  EXPECT_EQ(cpu_level_from_name("avx2"), std::nullopt);
  EXPECT_EQ(cpu_level_from_name(""), std::nullopt);
}

TEST(CpuLevel, AvailableOnesStartAtTheReferenceAndAscend) {
  const std::vector<CpuLevel> levels = available_cpu_levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.front(), CpuLevel::kReference);
  EXPECT_TRUE(std::is_sorted(levels.begin(), levels.end()));
  EXPECT_EQ(std::adjacent_find(levels.begin(), levels.end()), levels.end());
  EXPECT_NE(std::find(levels.begin(), levels.end(), default_cpu_level()), levels.end());
}

// The variable is read once a process, so each value gets a process of its own.
TEST(CpuLevelDeathTest, EnvironmentLowersTheDefault) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto exit_with_default = [](const char* name) {
    setenv("HALFBYTE_CPU_LEVEL", name, 1);
    std::_Exit(static_cast<int>(default_cpu_level()));
  };
  const int reference = static_cast<int>(CpuLevel::kReference);
  const int highest = static_cast<int>(available_cpu_levels().back());
  EXPECT_EXIT(exit_with_default("reference"), ::testing::ExitedWithCode(reference), "");
  EXPECT_EXIT(exit_with_default("v99"), ::testing::ExitedWithCode(highest), "");
  EXPECT_EXIT(exit_with_default(""), ::testing::ExitedWithCode(highest), "");
}

TEST(CudaDevice, AnswersInEveryBuild) {
  const Result<std::vector<CudaDevice>> devices = cuda_devices();
  if (built_with_cuda()) {
    EXPECT_NE(compiled_cuda_architectures(), "");
  } else {
    EXPECT_EQ(compiled_cuda_architectures(), "");
    EXPECT_EQ(devices.status().code(), StatusCode::kUnsupported);
  }
  if (!devices.ok()) {
    EXPECT_NE(devices.status().message(), "") << "the answer says why";
  }
}

#if defined(__x86_64__)
std::uint64_t get_float_control() { return _mm_getcsr(); }
void set_float_control(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
constexpr std::uint64_t kHostile = 0x1F80 | 0x8000 | 0x0040 | 0x4000;  // FTZ, DAZ, round up
#elif defined(__aarch64__)
std::uint64_t get_float_control() {
  std::uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
void set_float_control(std::uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
constexpr std::uint64_t kHostile = (1u << 24) | (1u << 22);  // FZ, round up
#endif

// What three operations give now. The values pass through volatile and the function is not
// inlined, so that nothing is computed at compile time or moved past a change of the settings.
struct Observed {
  float tie, subnormal_result, subnormal_operand;
  bool operator==(const Observed&) const = default;
};
__attribute__((noinline)) Observed observe() {
  volatile float one = 1.0f, tiny = 0x1p-24f, smallest_normal = 0x1p-126f, half = 0.5f;
  volatile float subnormal = 0x1p-140f, big = 0x1p100f;
  return {one + tiny, smallest_normal * half, subnormal * big};
}

TEST(IeeeFloatScope, SetsAndRestores) {
  const Observed ieee = {1.0f, 0x1p-127f, 0x1p-40f};
  const std::uint64_t before = get_float_control();
  EXPECT_EQ(observe(), ieee);
  set_float_control(kHostile);
  const Observed outside = observe();
  Observed inside{}, nested{};
  {
    const IeeeFloatScope scope;
    inside = observe();
    {
      const IeeeFloatScope again;
      nested = observe();
    }
    nested = nested == observe() ? nested : Observed{};
  }
  const std::uint64_t restored = get_float_control();
  const Observed after = observe();
  set_float_control(before);  // before any EXPECT: they should not run with hostile settings
  EXPECT_EQ(outside, (Observed{0x1.000002p0f, 0.0f, 0.0f})) << "the hostile settings take effect";
  EXPECT_EQ(inside, ieee);
  EXPECT_EQ(nested, ieee);
  // The low six bits of MXCSR only record which exceptions happened.
  EXPECT_EQ(restored & ~std::uint64_t{0x3F}, kHostile & ~std::uint64_t{0x3F});
  EXPECT_EQ(after, outside);
}

}  // namespace
}  // namespace halfbyte::base
