// rope_table: values known in closed form, the scalings against their definitions, every refusal.
// bindings/python/tests/test_rope.py compares with transformers.
#include "halfbyte/ops/rope/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "halfbyte/numerics/float_bits.h"
#include "halfbyte/ops/common/testing.h"

namespace halfbyte::ops {
namespace {

using base::DType;
using testing::TensorSet;
using testing::TestTensor;

struct Call {
  TensorSet set;
  RopeTableArgs args;

  explicit Call(std::int64_t positions = 5, std::int64_t half = 4) {
    for (const char* name : {"cos", "sin"}) {
      set.add(name, TestTensor(DType::kF32, {positions, half}, {half + 3, 1}));
    }
    args.cos = set.view("cos");
    args.sin = set.view("sin");
  }
  float cos(std::int64_t position, std::int64_t pair) const {
    return testing::get(args.cos, position * args.cos.strides[0] + pair);
  }
  float sin(std::int64_t position, std::int64_t pair) const {
    return testing::get(args.sin, position * args.sin.strides[0] + pair);
  }
  // The table must be that of these frequencies, times `scale`. `frequency` is written down here by
  // other operations than the library's, so it may differ in the last bits of fp64: far less than
  // half an fp32 ulp of cos or sin at these positions, so the rounded values differ where they are
  // within 2^-40 of a tie, by one ulp.
  void expect_frequencies(const std::function<double(double)>& frequency, double scale = 1.0) {
    const base::Status status = rope_table(args);
    ASSERT_TRUE(status.ok()) << status.message();
    for (std::int64_t position = 0; position < args.cos.shape[0]; ++position) {
      for (std::int64_t pair = 0; pair < args.cos.shape[1]; ++pair) {
        const double angle = static_cast<double>(position) * frequency(static_cast<double>(pair));
        const double c = std::cos(angle) * scale, s = std::sin(angle) * scale;
        EXPECT_NEAR(cos(position, pair), c, std::fabs(c) * 0x1.00001p-24 + 1e-12) << position;
        EXPECT_NEAR(sin(position, pair), s, std::fabs(s) * 0x1.00001p-24 + 1e-12) << position;
      }
    }
  }
};

TEST(RopeTable, FirstRowsAndFirstPair) {
  Call call(7, 3);
  ASSERT_TRUE(rope_table(call.args).ok());
  for (int pair = 0; pair < 3; ++pair) {  // position 0
    EXPECT_EQ(call.cos(0, pair), 1.0f);
    EXPECT_EQ(numerics::float_bits(call.sin(0, pair)), 0u);
  }
  // cos 1, sin 1, cos 6, sin 6, rounded from more digits than fp64 has.
  EXPECT_EQ(call.cos(1, 0), 0.540302305868139717f);
  EXPECT_EQ(call.sin(1, 0), 0.841470984807896507f);
  EXPECT_EQ(call.cos(6, 0), 0.960170286650366021f);
  EXPECT_EQ(call.sin(6, 0), -0.279415498198925873f);
}

// Nothing beside the tables is written: their rows have gaps, and guards around them.
TEST(RopeTable, StridedTables) {
  Call call(6, 5);
  TensorSet expected = call.set.clone();
  ASSERT_TRUE(rope_table(call.args).ok());
  for (const char* name : {"cos", "sin"}) {
    const TensorView from = call.set.view(name), to = expected.view(name);
    for (const std::int64_t row : testing::row_offsets(from)) {
      for (int k = 0; k < 5; ++k) testing::set(to, row + k, testing::get(from, row + k));
    }
  }
  EXPECT_EQ(testing::first_difference(expected, call.set), "");
}

TEST(RopeTable, Default) {
  Call call(200, 32);
  call.args.theta = 500000.0;
  call.expect_frequencies([](double pair) { return std::exp2(-pair / 32 * std::log2(500000.0)); });
}

TEST(RopeTable, Linear) {
  Call call(200, 16);
  call.args.scaling = RopeScaling::kLinear;
  call.args.factor = 4.0;
  call.expect_frequencies([](double pair) { return std::pow(10000.0, -pair / 16) / 4; });
}

// Llama 3.1's parameters: wavelengths up to 2048 are kept, those above 8192 are 8 times longer.
TEST(RopeTable, Llama3) {
  Call call(300, 64);
  call.args.theta = 500000.0;
  call.args.scaling = RopeScaling::kLlama3;
  call.args.factor = 8.0;
  call.args.low_freq_factor = 1.0;
  call.args.high_freq_factor = 4.0;
  call.args.original_max_position = 8192.0;
  call.expect_frequencies([](double pair) {
    const double frequency = std::pow(500000.0, -pair / 64);
    const double turns = 8192.0 * frequency / (2 * std::numbers::pi);  // of the old context
    const double kept = std::fmin(std::fmax((turns - 1) / (4 - 1), 0.0), 1.0);
    return frequency * (kept + (1 - kept) / 8);
  });
}

Call yarn_call() {
  Call call(300, 64);
  call.args.scaling = RopeScaling::kYarn;
  call.args.factor = 40.0;
  call.args.original_max_position = 4096.0;
  return call;
}
// The pair that turns `rotations` times over 4096 positions, for theta = 10000 and 64 pairs.
double yarn_pair(double rotations) {
  return 64 * std::log2(4096 / (2 * std::numbers::pi * rotations)) / std::log2(10000.0);
}
std::function<double(double)> yarn_frequency(double low, double high, double factor) {
  return [=](double pair) {
    const double divided = std::fmin(std::fmax((pair - low) / (high - low), 0.0), 1.0);
    return std::pow(10000.0, -pair / 64) * (1 - divided + divided / factor);
  };
}

TEST(RopeTable, Yarn) {
  const double low = std::floor(yarn_pair(32)), high = std::ceil(yarn_pair(1));
  ASSERT_TRUE(low == 20 && high == 46) << low << " " << high;
  const double mscale = 1 + 0.1 * std::log(40.0);
  yarn_call().expect_frequencies(yarn_frequency(20, 46, 40), mscale);

  Call call = yarn_call();
  call.args.attention_factor = 0.75;
  call.args.mscale = call.args.mscale_all_dim = 3.0;  // not asked for then
  call.args.beta_fast = 32;
  call.args.beta_slow = 1;
  call.expect_frequencies(yarn_frequency(20, 46, 40), 0.75);

  call = yarn_call();
  call.args.truncate = false;
  call.args.beta_fast = 20;
  call.args.beta_slow = 2;
  call.expect_frequencies(yarn_frequency(yarn_pair(20), yarn_pair(2), 40), mscale);

  call = yarn_call();  // DeepSeek's
  call.args.mscale = 0.707;
  call.args.mscale_all_dim = 1.5;
  call.expect_frequencies(yarn_frequency(20, 46, 40),
                          (1 + 0.1 * 0.707 * std::log(40.0)) / (1 + 0.1 * 1.5 * std::log(40.0)));
  call.args.mscale_all_dim = 0;  // one alone does not count
  call.expect_frequencies(yarn_frequency(20, 46, 40), mscale);
}

// A ramp that would start before the first pair, one whose ends are one pair, and no scaling at
// all.
TEST(RopeTable, YarnEdges) {
  Call call = yarn_call();
  call.args.original_max_position = 100.0;
  const double end = std::ceil(64 * std::log2(100 / (2 * std::numbers::pi)) / std::log2(10000.0));
  call.expect_frequencies(yarn_frequency(0, end, 40), 1 + 0.1 * std::log(40.0));
  call = yarn_call();
  call.args.truncate = false;
  call.args.beta_fast = call.args.beta_slow = 4;
  call.expect_frequencies(yarn_frequency(yarn_pair(4), yarn_pair(4) + 0.001, 40),
                          1 + 0.1 * std::log(40.0));
  call = yarn_call();
  call.args.factor = 1.0;
  call.expect_frequencies([](double pair) { return std::pow(10000.0, -pair / 64); });
}

TEST(RopeTable, NothingToDo) {
  Call call(0, 8);
  EXPECT_TRUE(rope_table(call.args).ok());
}

void refused(const char* argument, const std::function<void(RopeTableArgs&)>& change) {
  Call call;
  change(call.args);
  const TensorSet before = call.set.clone();
  const base::Status status = rope_table(call.args);
  EXPECT_EQ(status.code(), base::StatusCode::kInvalidArgument) << argument;
  EXPECT_EQ(status.message().rfind("rope_table: " + std::string(argument) + ": expected ", 0), 0u)
      << "no \"" << argument << "\" in: " << status.message();
  EXPECT_EQ(testing::first_difference(before, call.set), "") << status.message();
}

TEST(RopeTableArguments, Tables) {
  refused("cos", [](RopeTableArgs& a) { a.cos = {}; });
  refused("sin", [](RopeTableArgs& a) { a.sin = {}; });
  refused("cos", [](RopeTableArgs& a) { a.cos.dtype = DType::kBF16; });
  refused("sin", [](RopeTableArgs& a) { a.sin.dtype = DType::kI32; });
  refused("sin", [](RopeTableArgs& a) { a.sin.shape[0] = 4; });
  refused("sin", [](RopeTableArgs& a) { a.sin.shape[1] = 3; });
  refused("cos", [](RopeTableArgs& a) { a.cos.shape[1] = 0; });
  refused("cos", [](RopeTableArgs& a) { a.cos.strides[1] = 2; });
  refused("cos", [](RopeTableArgs& a) { a.cos.strides[0] = 1; });
  refused("cos", [](RopeTableArgs& a) { a.cos.ndim = 1; });
  refused("cos", [](RopeTableArgs& a) { a.cos.data = nullptr; });
  refused("cos", [](RopeTableArgs& a) { a.cos.device.type = base::DeviceType::kCuda; });
  refused("cos", [](RopeTableArgs& a) { a.sin = a.cos; });
}

TEST(RopeTableArguments, Parameters) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const double bad : {1.0, 0.0, -10000.0, kInf, std::nan("")}) {
    refused("theta", [=](RopeTableArgs& a) { a.theta = bad; });
  }
  refused("scaling", [](RopeTableArgs& a) { a.scaling = static_cast<RopeScaling>(4); });
  refused("scaling", [](RopeTableArgs& a) { a.scaling = static_cast<RopeScaling>(-1); });

  // What a scaling needs, one by one; and every other parameter is superfluous.
  struct Field {
    const char* name;
    double RopeTableArgs::*member;
    double value;
    bool of[4];  // none, linear, llama3, yarn
    bool optional;
  };
  const Field fields[] = {
      {"factor", &RopeTableArgs::factor, 8, {false, true, true, true}, false},
      {"low_freq_factor", &RopeTableArgs::low_freq_factor, 1, {false, false, true, false}, false},
      {"high_freq_factor", &RopeTableArgs::high_freq_factor, 4, {false, false, true, false}, false},
      {"original_max_position",
       &RopeTableArgs::original_max_position,
       8192,
       {false, false, true, true},
       false},
      {"beta_fast", &RopeTableArgs::beta_fast, 32, {false, false, false, true}, true},
      {"beta_slow", &RopeTableArgs::beta_slow, 1, {false, false, false, true}, true},
      {"attention_factor", &RopeTableArgs::attention_factor, 1, {false, false, false, true}, true},
      {"mscale", &RopeTableArgs::mscale, 1, {false, false, false, true}, true},
      {"mscale_all_dim", &RopeTableArgs::mscale_all_dim, 1, {false, false, false, true}, true}};
  for (int scaling = 0; scaling < 4; ++scaling) {
    const auto base_args = [&](RopeTableArgs& a) {
      a.scaling = static_cast<RopeScaling>(scaling);
      for (const Field& field : fields) a.*field.member = field.of[scaling] ? field.value : 0.0;
    };
    Call call;
    base_args(call.args);
    EXPECT_TRUE(rope_table(call.args).ok()) << scaling;
    for (const Field& field : fields) {
      for (const double bad : {field.of[scaling] ? 0.0 : field.value, -1.0, kInf, std::nan("")}) {
        if (bad == 0.0 && field.optional) continue;
        refused(field.name, [&](RopeTableArgs& a) {
          base_args(a);
          a.*field.member = bad;
        });
      }
    }
    if (scaling != 3) {
      refused("truncate", [&](RopeTableArgs& a) {
        base_args(a);
        a.truncate = false;
      });
    }
    if (scaling == 2) {
      refused("high_freq_factor", [&](RopeTableArgs& a) {
        base_args(a);
        a.high_freq_factor = a.low_freq_factor;
      });
    }
  }
}

}  // namespace
}  // namespace halfbyte::ops
