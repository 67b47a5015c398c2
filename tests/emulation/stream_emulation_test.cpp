// The CUDA stream kernel (halfbyte/ops/gemm/gemm_cuda_stream*.cuh) on the CPU: the bits of the
// reference where it is exact, close to them where it is bounded (the bound itself is tested on a
// GPU), for devices with few multiprocessors and little shared memory, so that its loops turn.
#define HALFBYTE_EMULATED_ARCH 800

#include "cuda_emulator.h"
//
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "halfbyte/ops/common/arguments.h"
#include "halfbyte/ops/common/testing.h"
#include "halfbyte/ops/gemm/gemm_arguments.h"
#include "halfbyte/ops/gemm/gemm_cuda_stream.cuh"
#include "halfbyte/ops/gemm/gemm_cuda_stream_gate_up.cuh"
#include "halfbyte/ops/gemm/gemm_silu_mul_testing.h"
#include "halfbyte/ops/gemm/gemm_testing.h"

namespace halfbyte::ops {
namespace {

using cuda::StreamArgs;
using cuda::StreamKind;
using testing::Random;

const GemmDevice kDevices[] = {{80, 3, 163 * 1024, ""},
                               {80, 2, 227 * 1024, ""},
                               {80, 5, 99 * 1024, ""},
                               {80, 40, 75 * 1024, ""}};
const GemmDevice kLarge{80, 25, 227 * 1024, ""};

StreamArgs stream_args(Random& random, const GemmProblem& problem, const StreamPlan& plan) {
  StreamArgs args = cuda::stream_args(problem, plan);
  args.wait = random.one_in(2);
  args.constant_weights = random.one_in(2);
  return args;
}

void launch(const GemmProblem& problem, const StreamPlan& plan,
            const std::function<void()>& kernel) {
  emulation::set_shared_bytes(static_cast<std::uint32_t>(plan.shared_bytes));
  const std::int64_t bytes = prepared_weight_bytes(problem.format, problem.n, problem.k) *
                             std::max<std::int64_t>(1, problem.groups);
  std::vector<emulation::Readable> readable = {
      {problem.b_prepared, static_cast<std::size_t>(bytes)}};
  if (problem.quantized && problem.m > 0) {
    readable.push_back(
        {problem.a_codes,
         static_cast<std::size_t>(problem.a_rows.offset(problem.m - 1) + problem.k / 2)});
    readable.push_back(
        {problem.a_scales, static_cast<std::size_t>(problem.a_scale_rows * problem.blocks())});
  }
  if (!problem.quantized && problem.m > 0) {
    readable.push_back({problem.x, static_cast<std::size_t>(
                                       2 * (problem.x_rows.offset(problem.m - 1) + problem.k))});
  }
  emulation::set_readable(std::move(readable));
  emulation::launch(plan.blocks, kStreamThreads, kernel);
}

template <StreamKind kKind>
void run_kind(const StreamArgs& args) {
  cuda::stream_instance<kKind>(args.plan)(args);
}
void run(const StreamArgs& args) {
  const GemmProblem& problem = args.problem;
  if (problem.format == Format::kNvfp4) {
    problem.quantized ? run_kind<StreamKind::kNvfp4W4A4>(args)
                      : run_kind<StreamKind::kNvfp4W4A16>(args);
  } else {
    problem.quantized ? run_kind<StreamKind::kMxfp4W4A4>(args)
                      : run_kind<StreamKind::kMxfp4W4A16>(args);
  }
}

GemmProblem resolved(const testing::GemmCase& test, const testing::TensorSet& set) {
  OverlapCheck overlap;
  const auto problem = resolve_gemm(gemm_args(test, set), GemmCheck::kCall, overlap);
  EXPECT_TRUE(problem.ok()) << problem.status().message();
  return problem.ok() ? problem.value() : GemmProblem{};
}
void run_reference(const testing::GemmCase& test, const testing::TensorSet& set) {
  base::Execution execution;
  execution.backend = base::Backend::kReference;
  const base::Status status = gemm(gemm_args(test, set), execution);
  EXPECT_TRUE(status.ok()) << status.message();
}

// Rows of ordinary values alone: an outlier takes the others' last bits, as the bound says.
void expect_close(const GemmProblem& got, const GemmProblem& want) {
  const auto value = [](const void* data, base::DType dtype, std::int64_t at) {
    return std::fabs(static_cast<double>(cuda::value_at(data, dtype, at)));
  };
  for (std::int64_t m = 0; m < got.m; ++m) {
    double most_x = 0.0, most = 0.0;
    for (std::int64_t k = 0; k < got.k; ++k) {
      most_x = std::fmax(most_x, value(got.x, got.x_dtype, got.x_rows.offset(m) + k));
    }
    for (std::int64_t n = 0; n < got.n; ++n) {
      most = std::fmax(most, value(want.c, want.c_dtype, want.c_rows.offset(m) + n));
    }
    if (!(most_x < 1e5) || !(most < 1e30)) continue;
    for (std::int64_t n = 0; n < got.n; ++n) {
      const double a =
          static_cast<double>(cuda::value_at(got.c, got.c_dtype, got.c_rows.offset(m) + n));
      const double b =
          static_cast<double>(cuda::value_at(want.c, want.c_dtype, want.c_rows.offset(m) + n));
      if (std::isfinite(b)) ASSERT_LE(std::fabs(a - b), 1e-2 * most) << "row " << m << " of " << n;
    }
  }
}

struct Counts {
  int simple = 0, general = 0, rounds = 0, copies = 0, groups = 0, tokens = 0;
};
void expect_equal(Random& random, const testing::GemmChoices& choices,
                  const testing::GemmShape& shape, Counts& counts, bool large = false) {
  const testing::GemmCase test = random_gemm(random, choices, shape);
  SCOPED_TRACE(test.text);
  const testing::TensorSet want = test.set.clone(), got = test.set.clone();
  run_reference(test, want);
  const GemmProblem problem = resolved(test, got);
  const GemmDevice& device = large ? kLarge : kDevices[random.in(0, 3)];
  const StreamPlan plan = cuda::stream_plan_of(problem, plan_stream(problem, device), device);
  if (plan.stages == 0) return;
  counts.groups += plan.simple && plan.chunks == 0 && plan.chunk_blocks == 0 ? 1 : 0;
  counts.tokens += plan.chunk_blocks != 0 ? 1 : 0;
  (plan.simple ? counts.simple : counts.general)++;
  counts.rounds += plan.rounds > 1 ? 1 : 0;
  const StreamArgs args = stream_args(random, problem, plan);
  counts.copies += args.copies ? 1 : 0;
  launch(problem, plan, [&] { run(args); });
  if (problem.quantized) {
    EXPECT_EQ(testing::first_difference(want, got), "");
  } else {
    expect_close(problem, resolved(test, want));
  }
}

TEST(StreamEmulation, EqualsReference) {
  Counts counts;
  for (std::uint64_t seed = 0; seed < 45; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(70'000'000 + seed);
    testing::GemmShape shape;
    shape.format = random.pick({Format::kNvfp4, Format::kMxfp4});
    const std::int64_t block = formats::block_elements(shape.format);
    shape.m = random.pick<std::int64_t>({1, 1, 2, 3, 5, 8, 9, 16, 17, 35});
    shape.n = random.in(1, 90);
    shape.k = block * random.in(1, random.one_in(4) ? 150 : 20);
    const bool grouped = random.one_in(4);
    if (grouped) shape.groups = random.in(1, 40);
    expect_equal(random,
                 {.quantized = !random.one_in(3),
                  .grouped = grouped,
                  .plain_weights = false,
                  .method = GemmMethod::kAuto,
                  .any_layout = random.one_in(2)},
                 shape, counts);
    if (HasFailure()) return;
  }
  EXPECT_GT(counts.simple, 3);
  EXPECT_GT(counts.general, 10);
  EXPECT_GT(counts.rounds, 0);
}

// Few rows in groups: the short kernel for them; more groups than a warp counts at once, more
// chunks than CTAs and fewer.
TEST(StreamEmulation, Groups) {
  Counts counts;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(73'000'000 + seed);
    testing::GemmShape shape;
    shape.format = random.one_in(4) ? Format::kMxfp4 : Format::kNvfp4;
    const std::int64_t block = formats::block_elements(shape.format);
    shape.groups = random.pick<std::int64_t>({1, 3, 8, 31, 128, 129, 300});
    shape.m = random.in(1, std::min<std::int64_t>(2 * shape.groups, random.pick({9, 40})));
    shape.n = random.in(1, shape.groups > 100 ? 40 : 200);
    shape.k = block * random.in(1, shape.groups > 100 ? 16 : 80);
    expect_equal(random,
                 {.quantized = !random.one_in(3),
                  .grouped = true,
                  .plain_weights = false,
                  .method = GemmMethod::kAuto,
                  .any_layout = random.one_in(2)},
                 shape, counts);
    if (HasFailure()) return;
  }
  EXPECT_GE(counts.groups, 20);
}

// One or two tokens: few rows, many CTAs for each.
TEST(StreamEmulation, Tokens) {
  Counts counts;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(74'000'000 + seed);
    testing::GemmShape shape;
    shape.groups = random.pick<std::int64_t>({1, 2, 8, 33, 127, 128});
    shape.m = random.in(1, 9);
    if (shape.groups > 2) shape.m = std::min<std::int64_t>(shape.m, 3);
    shape.n = random.in(1, shape.groups > 100 ? 40 : 200);
    shape.k = 128 * random.in(1, shape.groups > 100 ? 2 : 6);
    expect_equal(random,
                 {.quantized = !random.one_in(4),
                  .grouped = true,
                  .plain_weights = false,
                  .method = GemmMethod::kAuto,
                  .any_layout = random.one_in(2)},
                 shape, counts, true);
    if (HasFailure()) return;
  }
  EXPECT_GE(counts.tokens, 8);
}

// More of A than threads hold, in rows that are copied first.
TEST(StreamEmulation, CopiesRows) {
  Counts counts;
  for (std::uint64_t seed = 0; seed < 40 && counts.copies < 3; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(72'000'000 + seed);
    testing::GemmShape shape;
    shape.format = random.pick({Format::kNvfp4, Format::kMxfp4});
    shape.m = random.in(7, 8);
    shape.k = 512 * random.pick<std::int64_t>({10, 11, 12});
    shape.n = random.in(1, 40);
    expect_equal(random,
                 {.quantized = true,
                  .grouped = false,
                  .plain_weights = false,
                  .method = GemmMethod::kAuto,
                  .any_layout = false},
                 shape, counts);
    if (HasFailure()) return;
  }
  EXPECT_GE(counts.copies, 3);
}

// gate_up by the reference, then the definitions of silu_mul and quantize a block at a time.
template <class T>
void gate_up_expected(const GemmProblem& product, const SiluMulRule& rule,
                      const formats::RowTarget& target) {
  const formats::Nvfp4Scale scale = formats::nvfp4_scale_given(target.given_value);
  for (std::int64_t m = 0; m < product.m; ++m) {
    for (std::int64_t k = 0; k < target.columns / 16; ++k) {
      float y[16];
      std::uint32_t most = 0;
      for (std::int64_t i = 0; i < 16; ++i) {
        const std::int64_t at = product.c_rows.offset(m) + k * 16 + i;
        y[i] = numerics::to_float(silu_mul_apply<T>(
            cuda::value_at(product.c, product.c_dtype, at),
            cuda::value_at(product.c, product.c_dtype, at + target.columns), rule));
        most = std::max(most, numerics::abs_bits(y[i]));
      }
      const std::uint8_t code =
          formats::nvfp4_block_scale(numerics::bits_float(most), scale, target.scale_rule);
      const float reciprocal = formats::nvfp4_reciprocal(code, scale);
      target.put_scale(m, k, code);
      for (int i = 0; i < 16; i += 2) {
        target.codes[target.code_rows.offset(m) + k * 8 + i / 2] =
            static_cast<std::uint8_t>(formats::nvfp4_encode(y[i], reciprocal) |
                                      formats::nvfp4_encode(y[i + 1], reciprocal) << 4);
      }
    }
  }
  for (std::int64_t row = 0; row < target.padded_rows(); ++row) target.pad_row(row);
}

TEST(StreamEmulation, GateUpEqualsItsParts) {
  int fused = 0;
  for (std::uint64_t seed = 0; fused < 25 && seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(71'000'000 + seed);
    testing::GemmShape shape;
    shape.format = random.pick({Format::kNvfp4, Format::kMxfp4});
    const std::int64_t columns = 16 * random.in(1, 8);
    shape.m = random.pick<std::int64_t>({1, 1, 2, 5, 8});
    shape.n = 2 * columns;
    shape.k = formats::block_elements(shape.format) * random.in(1, 30);
    const testing::GemmCase test =
        random_gemm(random, {.plain_weights = false, .any_layout = false}, shape);
    const GemmProblem problem = resolved(test, test.set);
    const StreamPlan plan = plan_gate_up_stream(problem, kDevices[random.in(0, 3)]);
    if (plan.stages == 0 || !cuda::is_regular_stream(problem)) continue;
    ++fused;
    cuda::GateUpStreamArgs args{stream_args(random, problem, plan), {}, {}};
    args.rule.rounding = random.pick({Rounding::kFloat32, Rounding::kHuggingFace});
    if (random.one_in(2)) args.rule.clamp = 1.5f, args.rule.alpha = 1.702f, args.rule.up_bias = 1;
    const ScaleLayout layout =
        random.pick({ScaleLayout::kLinear, ScaleLayout::k128x4, ScaleLayout::k8x4});
    std::vector<std::uint8_t> codes[2], scales[2];
    formats::RowTarget& target = args.target;
    target.rows = target.scale_rows = problem.m;
    target.columns = columns;
    target.code_rows = {problem.m, problem.m, columns / 2, 0};
    target.scale_rule = random.pick({ScaleRule::kKernel, ScaleRule::kTe});
    target.given_value = 3.7f;
    for (int expected = 0; expected < 2; ++expected) {
      codes[expected].assign(static_cast<std::size_t>(problem.m * columns / 2), 0xEE);
      scales[expected].assign(
          static_cast<std::size_t>(formats::scale_bytes(layout, problem.m, columns / 16)), 0xEE);
      target.codes = codes[expected].data();
      target.scales[0] = {scales[expected].data(), layout};
      if (expected == 0) {
        launch(problem, plan, [&] {
          problem.format == Format::kNvfp4
              ? cuda::gate_up_instance<StreamKind::kNvfp4W4A4>(args.stream.plan)(args)
              : cuda::gate_up_instance<StreamKind::kMxfp4W4A4>(args.stream.plan)(args);
        });
      } else {
        run_reference(test, test.set);
        const auto make = problem.c_dtype == base::DType::kBF16  ? gate_up_expected<numerics::Bf16>
                          : problem.c_dtype == base::DType::kF16 ? gate_up_expected<numerics::Fp16>
                                                                 : gate_up_expected<float>;
        make(problem, args.rule, target);
      }
    }
    ASSERT_EQ(codes[0], codes[1]) << test.text;
    ASSERT_EQ(scales[0], scales[1]) << test.text;
  }
  EXPECT_EQ(fused, 25);
}

}  // namespace
}  // namespace halfbyte::ops
