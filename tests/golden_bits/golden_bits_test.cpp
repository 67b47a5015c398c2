// The committed bits. Each call of a fixed list is made on inputs of a generator of its own, the
// bytes it writes are hashed (FNV-1a, 64 bits, NaNs as one), and the hashes stand in
// golden_bits.txt. A change of them is a change of the numerics contract: it raises
// kNumericsVersion, and HALFBYTE_WRITE_GOLDEN=1 writes the new file.
#include <gtest/gtest.h>

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "halfbyte/numerics/version.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"
#include "halfbyte/ops/rope/rope.h"
#include "tests/golden_bits/golden_calls.h"

namespace halfbyte::ops::golden {
namespace {

constexpr char kPath[] = HALFBYTE_SOURCE_DIR "/tests/golden_bits/golden_bits.txt";

class Hash {
 public:
  void byte(std::uint32_t b) { state_ = (state_ ^ (b & 0xFFu)) * 0x100000001B3u; }
  void element(DType dtype, std::uint32_t bits) {
    const bool half = dtype == DType::kF16 || dtype == DType::kBF16;
    const std::uint32_t infinity = dtype == DType::kF32   ? 0x7F800000u
                                   : dtype == DType::kF16 ? 0x7C00u
                                                          : 0x7F80u;
    const std::uint32_t magnitude = bits & (half ? 0x7FFFu : 0x7FFFFFFFu);
    if (dtype != DType::kU8 && magnitude > infinity) bits = infinity + 1;
    for (int i = 0; i < base::dtype_bytes(dtype); ++i) byte(bits >> (8 * i));
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xCBF29CE484222325u;
};

// Every tensor of the set, in the order of their names.
std::uint64_t hash_of(const TensorSet& set) {
  Hash hash;
  for (const auto& [name, tensor] : set.tensors()) {
    const TensorView view = tensor.view();
    for (const char c : name) hash.byte(static_cast<std::uint32_t>(c));
    for (std::int64_t i = 0; i < view.numel(); ++i) {
      hash.element(view.dtype, testing::get_bits(view, i));
    }
  }
  return hash.value();
}

void add_quantize_calls(std::vector<Call>& calls) {
  for (const auto& [name, spec] : specs()) {
    for (const DType dtype : kTypes) {
      Call call{name_of("quantize", name, dtype), {}, {}};
      Lcg lcg(calls.size() + 1);
      call.set.add("x", TestTensor(dtype, {kRows, kColumns}));
      // A NaN would make the whole tensor NaN where the scale is computed from it.
      fill(lcg, call.set.view("x"), spec.scale != ScaleMode::kComputed);
      add_outputs(call.set, spec, kRows, kColumns);
      call.operation = [spec = spec](const TensorSet& set, const Execution& execution) {
        return quantize({set.view("x"), given(set), spec, outputs(set)}, execution);
      };
      calls.push_back(std::move(call));
    }
  }
}

void add_dequantize_calls(std::vector<Call>& calls) {
  for (const Format format : {Format::kNvfp4, Format::kMxfp4, Format::kFp8}) {
    for (const DType dtype : kTypes) {
      Call call{name_of("dequantize", formats::format_name(format), dtype), {}, {}};
      Lcg lcg(calls.size() + 1);
      const bool blocks = formats::has_block_scales(format);
      const ScaleLayout layout = blocks ? ScaleLayout::k128x4 : ScaleLayout::kLinear;
      call.set.add("x", TestTensor(dtype, {kRows, kColumns}));
      call.set.add("codes", TestTensor(DType::kU8, {kRows, formats::code_bytes(format, kColumns)}));
      if (blocks) {
        const std::int64_t columns = kColumns / formats::block_elements(format);
        call.set.add("scales",
                     TestTensor(DType::kU8, {formats::scale_bytes(layout, kRows, columns)}));
      }
      for (const char* name : {"codes", "scales"}) {
        const TensorView view = call.set.view(name);
        for (std::int64_t i = 0; view && i < view.numel(); ++i) {
          testing::set_bits(view, i, lcg.next() >> 24);
        }
      }
      call.set.add("scale", TestTensor(DType::kF32, {kRows}));
      for (int row = 0; row < kRows; ++row) {
        testing::set(call.set.view("scale"), row, std::fabs(lcg.value(-3)) + 0.001f);
      }
      call.operation = [=](const TensorSet& set, const Execution& execution) {
        formats::PackedTensor packed{
            format, layout, kRows, kColumns, set.view("codes"), set.view("scales"), {}, {}};
        if (format != Format::kMxfp4) {
          packed.scale = set.view("scale");
          packed.scale_kind =
              format == Format::kNvfp4 ? formats::ScaleKind::kEncode : formats::ScaleKind::kDecode;
        }
        return dequantize({packed, set.view("x")}, execution);
      };
      calls.push_back(std::move(call));
    }
  }
}

struct NormOptions {
  const char* name;
  bool residual, fp32_weight, bias;
  Rounding rounding;
  float eps;
};
constexpr NormOptions kNormOptions[] = {
    {"plain", false, false, false, Rounding::kFloat32, 1e-6f},
    {"residual", true, true, false, Rounding::kFloat32, 1e-5f},
    {"gemma", false, true, true, Rounding::kFloat32, 1e-6f},
    {"huggingface", true, false, false, Rounding::kHuggingFace, 0.0f}};

// 1003 columns, a short last leaf, for rmsnorm alone.
void add_norm_tensors(TensorSet& set, const NormOptions& options, DType dtype, std::int64_t columns,
                      std::uint64_t seed) {
  Lcg lcg(seed);
  const auto add = [&](const char* name, DType type, std::vector<std::int64_t> shape) {
    set.add(name, TestTensor(type, std::move(shape)));
    fill(lcg, set.view(name), std::string(name) == "x");
  };
  add("x", dtype, {kRows, columns});
  add("weight", options.fp32_weight ? DType::kF32 : dtype, {columns});
  if (options.residual) add("residual", dtype, {kRows, columns});
  set.add("y", TestTensor(dtype, {kRows, columns}));
}

NormArgs norm_args(const TensorSet& set, const NormOptions& options) {
  return {set.view("x"), set.view("weight"), set.view("residual"),
          options.eps,   options.rounding,   options.bias};
}

void add_rmsnorm_calls(std::vector<Call>& calls) {
  for (const NormOptions& options : kNormOptions) {
    for (const DType dtype : kTypes) {
      Call call{name_of("rmsnorm", options.name, dtype), {}, {}};
      add_norm_tensors(call.set, options, dtype, 1003, calls.size() + 1);
      call.operation = [&options](const TensorSet& set, const Execution& execution) {
        return rmsnorm({norm_args(set, options), set.view("y")}, execution);
      };
      calls.push_back(std::move(call));
    }
  }
  for (const auto& [name, spec] : specs()) {
    if (spec.scale_rule == ScaleRule::kTe) continue;
    const NormOptions& options = kNormOptions[calls.size() % 4];
    const DType dtype = kTypes[calls.size() % 3];
    Call call{name_of("rmsnorm_quantize", name, dtype), {}, {}};
    add_norm_tensors(call.set, options, dtype, kColumns, calls.size() + 1);
    add_outputs(call.set, spec, kRows, kColumns);
    call.operation = [&options, spec = spec](const TensorSet& set, const Execution& execution) {
      return rmsnorm_quantize(
          {norm_args(set, options), set.view("y"), given(set), spec, outputs(set)}, execution);
    };
    calls.push_back(std::move(call));
  }
}

// Seeds of their own: these hashes do not depend on what stands before them.
void add_rope_calls(std::vector<Call>& calls) {
  std::uint64_t seed = 1000;
  for (const RopeStyle style : {RopeStyle::kNeox, RopeStyle::kGptj}) {
    for (const DType dtype : kTypes) {
      const bool inverse = dtype == DType::kF16;
      Call call{name_of("rope", style == RopeStyle::kNeox ? "neox" : "gptj", dtype), {}, {}};
      Lcg lcg(++seed);
      for (const char* name : {"x", "y"}) call.set.add(name, TestTensor(dtype, {kRows, 3, 104}));
      for (const char* name : {"cos", "sin"}) {
        call.set.add(name, TestTensor(DType::kF32, {11, 45}));
        fill(lcg, call.set.view(name), false);
      }
      fill(lcg, call.set.view("x"), true);
      call.set.add("positions", TestTensor(DType::kI32, {kRows}));
      for (int row = 0; row < kRows; ++row) {
        testing::set_bits(call.set.view("positions"), row, lcg.next() % 11);
      }
      call.operation = [=](const TensorSet& set, const Execution& execution) {
        return rope({set.view("x"), set.view("positions"), set.view("cos"), set.view("sin"),
                     set.view("y"), style, 90, 6, inverse},
                    execution);
      };
      calls.push_back(std::move(call));
    }
  }
}

std::vector<Call> all_calls() {
  std::vector<Call> calls;
  add_quantize_calls(calls);
  add_dequantize_calls(calls);
  add_rmsnorm_calls(calls);
  for (const DType dtype : kTypes) {
    Call call{name_of("amax", "per_row", dtype), {}, {}};
    Lcg lcg(calls.size() + 1);
    call.set.add("x", TestTensor(dtype, {kRows, kColumns}));
    fill(lcg, call.set.view("x"), true);
    call.set.add("amax", TestTensor(DType::kF32, {kRows}));
    call.operation = [](const TensorSet& set, const Execution& execution) {
      return amax({set.view("x"), set.view("amax"), true}, execution);
    };
    calls.push_back(std::move(call));
  }
  add_rope_calls(calls);
  add_silu_mul_calls(calls);
  add_gemm_calls(calls);
  add_gemm_silu_mul_calls(calls);
  return calls;
}

// The whole file, as a runner's bits make it.
std::string golden_text(const testing::Runner& runner) {
  std::ostringstream text;
  text << "numerics version " << numerics::kNumericsVersion << "\n";
  for (const Call& call : all_calls()) {
    TensorSet set = call.set.clone();
    const base::Status status = runner.run(set, call.operation);
    EXPECT_TRUE(status.ok()) << call.name << ": " << status.message();
    char hash[24];
    std::snprintf(hash, sizeof hash, "%016" PRIx64, hash_of(set));
    text << call.name << " " << hash << "\n";
  }
  return text.str();
}

void expect_golden(const testing::Runner& runner) {
  std::ifstream file(kPath);
  ASSERT_TRUE(file) << kPath << " is missing: HALFBYTE_WRITE_GOLDEN=1 writes it";
  std::istringstream actual(golden_text(runner));
  std::string expected_line, actual_line;
  while (std::getline(actual, actual_line)) {
    ASSERT_TRUE(std::getline(file, expected_line)) << "the file ends before " << actual_line;
    EXPECT_EQ(actual_line, expected_line) << runner.name;
  }
  EXPECT_FALSE(std::getline(file, expected_line)) << "the file goes on: " << expected_line;
}

TEST(GoldenBits, Reference) {
  if (const char* write = std::getenv("HALFBYTE_WRITE_GOLDEN"); write && *write == '1') {
    std::ofstream(kPath) << golden_text(testing::reference_runner());
  }
  expect_golden(testing::reference_runner());
}
TEST(GoldenBits, EveryCpuLevel) {
  for (const testing::Runner& runner : testing::cpu_runners()) expect_golden(runner);
}
TEST(GoldenBits, Cuda) {
  const std::vector<testing::Runner> runners = testing::cuda_runners();
  if (runners.empty()) GTEST_SKIP() << "no CUDA device";
  for (const testing::Runner& runner : runners) expect_golden(runner);
}

}  // namespace
}  // namespace halfbyte::ops::golden
