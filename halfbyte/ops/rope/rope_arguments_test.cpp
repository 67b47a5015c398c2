// Every argument that rope refuses: the message names it, and nothing is written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "halfbyte/ops/rope/rope_testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using base::Execution;
using base::StatusCode;
using testing::TensorSet;
using testing::TestTensor;

constexpr std::int64_t kTokens = 4, kHeads = 3, kDim = 64, kPositions = 9;

struct Call {
  TensorSet set;
  RopeArgs args;
  Execution execution;

  Call() {
    args.x = add("x", DType::kBF16, {kTokens, kHeads, kDim});
    args.y = add("y", DType::kBF16, {kTokens, kHeads, kDim});
    args.positions = add("positions", DType::kI64, {kTokens});
    args.cos = add("cos", DType::kF32, {kPositions, kDim / 2});
    args.sin = add("sin", DType::kF32, {kPositions, kDim / 2});
    testing::fill(args.x, {1, 2, 3, -4});
    testing::fill(args.cos, {0.5f});
    testing::fill(args.sin, {0.25f, -2});
    testing::fill_positions(args.positions, {8, 0, 3});
  }
  TensorView add(const std::string& name, DType dtype, std::vector<std::int64_t> shape,
                 std::vector<std::int64_t> strides = {}) {
    set.add(name, TestTensor(dtype, std::move(shape), std::move(strides)));
    return set.view(name);
  }
};

using Change = std::function<void(Call&)>;

// The message.
std::string refused(const char* argument, const Change& change) {
  Call call;
  change(call);
  const TensorSet before = call.set.clone();
  const base::Status status = rope(call.args, call.execution);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << argument << ": " << status.message();
  EXPECT_EQ(status.message().rfind("rope: " + std::string(argument) + ": expected ", 0), 0u)
      << "no \"" << argument << "\" in: " << status.message();
  EXPECT_EQ(testing::first_difference(before, call.set), "") << status.message();
  return status.message();
}
void accepted(const Change& change) {
  Call call;
  change(call);
  const base::Status status = rope(call.args, call.execution);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(RopeArguments, TheseAreValid) {
  accepted([](Call&) {});
  accepted([](Call& c) { c.args.y = c.args.x; });
  accepted([](Call& c) { c.args.rope_dim = kDim; });
  accepted([](Call& c) {  // the strides of a dimension of one say nothing
    c.args.x.shape[0] = c.args.positions.shape[0] = 1;
    c.args.y = c.args.x;
    c.args.y.strides[0] = 5;
  });
  accepted([](Call& c) {
    c.args.rope_dim = 2;
    c.args.rope_offset = kDim - 2;
    c.args.cos = c.add("cos", DType::kF32, {kPositions, 1});
    c.args.sin = c.add("sin", DType::kF32, {kPositions, 1}, {7, 1});
    testing::fill(c.args.cos, {1});
    testing::fill(c.args.sin, {1});
  });
  accepted([](Call& c) {  // no tokens: nothing is looked at
    for (TensorView* view : {&c.args.x, &c.args.y, &c.args.positions}) {
      view->shape[0] = 0;
      view->data = nullptr;
    }
  });
}

TEST(RopeArguments, X) {
  refused("x", [](Call& c) { c.args.x = {}; });
  refused("x", [](Call& c) { c.args.x.dtype = DType::kI32; });
  refused("x", [](Call& c) { c.args.x.data = nullptr; });
  refused("x", [](Call& c) { c.args.x.data = c.args.x.as<std::byte>() + 1; });
  refused("x", [](Call& c) { c.args.x.strides[2] = 2; });
  refused("x", [](Call& c) { c.args.x.shape[2] = 0; });
  refused("x", [](Call& c) { c.args.x = c.add("x", DType::kBF16, {kTokens, kHeads * kDim}); });
  refused("x", [](Call& c) { c.args.x = c.add("x", DType::kBF16, {2, 2, kHeads, kDim}); });
}

TEST(RopeArguments, Y) {
  refused("y", [](Call& c) { c.args.y = {}; });
  refused("y", [](Call& c) { c.args.y.dtype = DType::kF16; });
  refused("y", [](Call& c) { c.args.y.shape[1] = kHeads - 1; });
  refused("y", [](Call& c) { c.args.y.data = nullptr; });
  refused("y", [](Call& c) { c.args.y.data = c.args.y.as<std::byte>() + 1; });
  refused("y", [](Call& c) { c.args.y.strides[2] = 2; });
  refused("y", [](Call& c) { c.args.y.strides[1] = 0; });
  refused("y", [](Call& c) { c.args.y.strides[1] = kDim - 1; });
  refused("y", [](Call& c) { c.args.y.device.type = base::DeviceType::kCuda; });
}

// In place is the very same view; anything else that meets x is refused.
TEST(RopeArguments, Overlap) {
  refused("y", [](Call& c) {
    c.args.y = c.args.x;
    c.args.y.data = c.args.x.as<std::byte>() + 2;
  });
  refused("y", [](Call& c) {  // the same memory, tokens and heads exchanged
    c.args.x.shape[0] = c.args.positions.shape[0] = kHeads;
    c.args.y = c.args.x;
    std::swap(c.args.y.strides[0], c.args.y.strides[1]);
  });
  refused("y", [](Call& c) {  // the same rows, from the last to the first
    c.args.y = c.args.x;
    c.args.y.data = c.args.x.as<std::byte>() + 2 * (kTokens - 1) * kHeads * kDim;
    c.args.y.strides[0] = -kHeads * kDim;
  });
  refused("y", [](Call& c) {  // an expanded x cannot be updated in place
    c.args.x.strides[1] = 0;
    c.args.y = c.args.x;
  });
  refused("y", [](Call& c) { c.args.cos.data = c.args.y.data; });
  refused("y", [](Call& c) { c.args.sin.data = c.args.y.data; });
  refused("y", [](Call& c) { c.args.positions.data = c.args.y.data; });
  refused("y", [](Call& c) {
    c.args.y = c.args.x;
    c.args.cos.data = c.args.x.data;
  });
}

TEST(RopeArguments, Tables) {
  for (const char* name : {"cos", "sin"}) {
    const auto table_refused = [&](const std::function<void(Call&, TensorView&)>& change) {
      refused(name, [&](Call& c) { change(c, name[0] == 'c' ? c.args.cos : c.args.sin); });
    };
    table_refused([](Call&, TensorView& t) { t = {}; });
    table_refused([](Call&, TensorView& t) { t.dtype = DType::kBF16; });
    table_refused([](Call&, TensorView& t) { t.shape[1] -= 1; });
    table_refused([](Call&, TensorView& t) { t.ndim = 1; });
    table_refused([](Call&, TensorView& t) { t.strides[1] = 2; });
    table_refused([](Call&, TensorView& t) { t.data = nullptr; });
    table_refused([](Call&, TensorView& t) { t.data = t.as<std::byte>() + 2; });
    table_refused([](Call&, TensorView& t) { t.device.type = base::DeviceType::kCuda; });
  }
  refused("sin", [](Call& c) { c.args.sin.shape[0] = kPositions - 1; });
  refused("cos", [](Call& c) { c.args.rope_dim = kDim - 2; });  // the tables are of another
}

TEST(RopeArguments, Positions) {
  refused("positions", [](Call& c) { c.args.positions = {}; });
  refused("positions", [](Call& c) { c.args.positions.dtype = DType::kF32; });
  refused("positions", [](Call& c) { c.args.positions.dtype = DType::kU8; });
  refused("positions", [](Call& c) { c.args.positions.shape[0] = kTokens - 1; });
  refused("positions", [](Call& c) { c.args.positions.strides[0] = 2; });
  refused("positions", [](Call& c) { c.args.positions.data = nullptr; });
  refused("positions",
          [](Call& c) { c.args.positions.data = c.args.positions.as<std::byte>() + 4; });
  refused("positions", [](Call& c) {
    c.args.positions = c.add("positions", DType::kI64, {kTokens, 1});
  });
  refused("positions", [](Call& c) { c.args.positions.device.type = base::DeviceType::kCuda; });
}

// Every token is looked at before the first is written.
TEST(RopeArguments, PositionsOutOfRange) {
  for (const bool in_place : {false, true}) {
    for (const DType dtype : {DType::kI32, DType::kI64}) {
      for (const std::int64_t bad :
           {std::int64_t{-1}, kPositions, std::int64_t{std::numeric_limits<std::int32_t>::max()},
            std::int64_t{std::numeric_limits<std::int32_t>::min()}, std::int64_t{1} << 32}) {
        if (dtype == DType::kI32 && bad == std::int64_t{1} << 32) continue;
        for (const auto backend : {base::Backend::kReference, base::Backend::kCpu}) {
          const std::string message = refused("positions", [&](Call& c) {
            c.args.positions = c.add("positions", dtype, {kTokens});
            testing::fill_positions(c.args.positions, {8, 0, 3, bad});
            if (in_place) c.args.y = c.args.x;
            if (base::default_cpu_level() != base::CpuLevel::kReference) {
              c.execution.backend = backend;
            }
          });
          EXPECT_EQ(message,
                    "rope: positions: expected values from 0 to 8 (the tables have 9 rows), got " +
                        std::to_string(bad) + " at index 3");
        }
      }
    }
  }
  refused("positions", [](Call& c) {  // tables of no rows
    c.args.cos = c.add("cos", DType::kF32, {0, kDim / 2});
    c.args.sin = c.add("sin", DType::kF32, {0, kDim / 2});
  });
}

TEST(RopeArguments, Options) {
  for (const std::int64_t bad : {std::int64_t{-2}, std::int64_t{1}, std::int64_t{63}, kDim + 2,
                                 std::numeric_limits<std::int64_t>::max()}) {
    refused("rope_dim", [=](Call& c) { c.args.rope_dim = bad; });
  }
  refused("rope_dim", [](Call& c) {  // an odd D is no default
    c.args.x.shape[2] = c.args.y.shape[2] = kDim - 1;
  });
  refused("rope_dim", [](Call& c) { c.args.x.shape[2] = c.args.y.shape[2] = 1; });
  for (const std::int64_t bad :
       {std::int64_t{-1}, std::int64_t{1}, std::numeric_limits<std::int64_t>::max(),
        std::numeric_limits<std::int64_t>::min()}) {
    refused("rope_offset", [=](Call& c) { c.args.rope_offset = bad; });
  }
  refused("rope_offset", [](Call& c) {
    c.args.rope_dim = 32;
    c.args.rope_offset = 33;
  });
  refused("style", [](Call& c) { c.args.style = static_cast<RopeStyle>(2); });
  refused("style", [](Call& c) { c.args.style = static_cast<RopeStyle>(-1); });
  refused("num_threads", [](Call& c) { c.execution.num_threads = -3; });
  refused("cpu_level", [](Call& c) { c.execution.cpu_level = static_cast<base::CpuLevel>(17); });
  refused("backend", [](Call& c) { c.execution.backend = base::Backend::kCuda; });
}

}  // namespace
}  // namespace halfbyte::ops
