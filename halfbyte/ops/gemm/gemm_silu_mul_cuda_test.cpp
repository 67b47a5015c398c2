// CUDA at the sizes of decoding, where one kernel may do all of gemm_silu_mul_quantize, and past
// them; and what it says of a workspace.
#include <gtest/gtest.h>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/ops/gemm/gemm_silu_mul_testing.h"

namespace halfbyte::ops {
namespace {

using testing::GemmChoices;

void expect_equal(const testing::GemmShape& shape, std::int64_t columns, int seeds = 6,
                  GemmChoices choices = {}) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  choices.plain_weights = choices.any_layout = false;
  choices.method = GemmMethod::kExact;
  choices.grouped = shape.groups > 0;
  const auto make = [&](testing::Random& random) {
    return testing::gate_up_case(random_gate_up(random, choices, shape, columns));
  };
  testing::expect_equals_reference(make, 60'000'000, seeds, runners);
}

TEST(GemmSiluMulCuda, OneRow) {
  expect_equal({.m = 1, .k = 1024}, 2144);
  expect_equal({.m = 1, .k = 272}, 6496, 4);
  expect_equal({.m = 1, .k = 8192}, 528);
  expect_equal({.m = 1, .k = 28672}, 96, 3);
}
TEST(GemmSiluMulCuda, FewRows) {
  expect_equal({.m = 2, .k = 384}, 1504);
  expect_equal({.m = 3, .k = 2064}, 272);
  expect_equal({.m = 4, .k = 4096}, 96);
  expect_equal({.m = 8, .k = 1040}, 528);
  expect_equal({.m = 16, .k = 640}, 528);
  expect_equal({.m = 25, .k = 4112}, 48);
  expect_equal({.m = 71, .k = 2064}, 96, 3);
}
TEST(GemmSiluMulCuda, Mxfp4AndSixteenBits) {
  expect_equal({.format = Format::kMxfp4, .m = 1, .k = 1056}, 528);
  expect_equal({.m = 1, .k = 1040}, 528, 4, {.quantized = false});
  expect_equal({.m = 5, .k = 528}, 96, 4, {.quantized = false});
}
TEST(GemmSiluMulCuda, Experts) {
  expect_equal({.m = 8, .k = 512, .groups = 128}, 96, 3);
  expect_equal({.m = 40, .k = 272, .groups = 5}, 48);
  expect_equal({.m = 8, .k = 512, .groups = 16}, 96, 3, {.quantized = false});
}

TEST(GemmSiluMulCuda, Workspace) {
  if (testing::cuda_runners().empty()) GTEST_SKIP() << "no CUDA device";
  testing::Random random(3);
  testing::GateUpCase test =
      random_gate_up(random, {.plain_weights = false, .any_layout = false}, {.m = 4, .k = 256}, 64);
  testing::Case call = gate_up_case(test);
  call.operation = [test](const testing::TensorSet& set, const base::Execution& execution) {
    const GemmSiluMulQuantizeArgs args = gate_up_args(test, set);
    const base::Result<std::size_t> bytes = gemm_silu_mul_workspace_bytes(args, execution);
    if (!bytes.ok() || bytes.value() == 0) return bytes.status();
    base::Execution given = execution;
    const auto expect_refused = [&](std::byte* workspace, std::size_t size) {
      given.workspace = workspace;
      given.workspace_bytes = size;
      const base::Status status = gemm_silu_mul_quantize(args, given);
      EXPECT_EQ(status.code(), base::StatusCode::kInvalidArgument);
      EXPECT_EQ(status.message().find("gemm_silu_mul_quantize: workspace: expected "), 0u)
          << status.message();
    };
    std::byte* memory = testing::cuda_workspace(bytes.value() + 256);
    expect_refused(nullptr, bytes.value());
    expect_refused(memory, bytes.value() - 1);
    expect_refused(memory + 16, bytes.value());
    return base::Status{};
  };
  // Nothing is written.
  testing::TensorSet set = call.tensors.clone();
  const base::Status status = testing::cuda_runners().front().run(set, call.operation);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(testing::first_difference(call.tensors, set), "");
}

}  // namespace
}  // namespace halfbyte::ops
