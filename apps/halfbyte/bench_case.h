// What `halfbyte bench` knows of an operator: its tensors and how it is called. A family has one
// bench_<family>.cpp that makes these cases; bench_table.cpp lists them; what checks and times
// them (bench_check.cpp, bench_run.cpp) knows no operator.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/halfbyte/bench_model.h"
#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/ops/common/quantize_spec.h"
#include "halfbyte/ops/gemm/gemm.h"

namespace halfbyte::app {

// M x H, or M x N x K of a product.
struct BenchShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;  // H, or N
  std::int64_t inner = 0;    // K; 0: the operator has none

  std::string name() const;
};

// What the command line asks for; an operator reads what concerns it.
struct BenchOptions {
  ops::QuantizeSpec spec;
  base::DType dtype = base::DType::kBF16;
  bool residual = false;
  bool normed = false;
  bool per_row = false;         // amax
  std::int64_t head_dim = 0;    // rope; 0: 128 or 64, what divides H, else H
  bool gptj = false;            // rope
  std::int32_t interleave = 0;  // silu_mul
  float eps = 1e-6f;
  bool activations16 = false;              // gemm: W4A16
  std::optional<ops::WeightForm> weights;  // gemm; not given: what the device is fastest with
  ops::GemmMethod plan = ops::GemmMethod::kAuto;  // gemm
  const ModelNorm* norm = nullptr;  // its tensors in place of random ones; the shape is theirs

  base::Backend backend = base::Backend::kAuto;
  int num_threads = 0;
  std::optional<base::CpuLevel> cpu_level;
  bool quick = false;  // CUDA: fewer and shorter replays
};

// kUpdate is read and written in place. kScratch is written by the unfused path alone: it costs
// the fused operator nothing.
enum class Role { kRead, kWrite, kUpdate, kScratch };

// Random contents, never zeros: bench_data.cpp. kIndex is 0, 1, 2 ..; kCos and kSin are of the same
// angles.
enum class Fill { kNone, kNormal, kWeight, kCodes, kE4m3Scales, kE8m0Scales, kIndex, kCos, kSin };

struct BenchTensor {
  Role role = Role::kRead;
  base::TensorView model;  // type and shape; its data, if any, are the contents
  Fill fill = Fill::kNone;
  std::int64_t must_touch_bytes = 0;  // what the floor moves: all, except padding not to be read
};

inline constexpr int kAbsent = -1;

class Buffers;

// The tensors of a case, once: views by the number that `add` gave; kAbsent is "not given".
class TensorSet {
 public:
  TensorSet(const Buffers& buffers, std::int64_t set) : buffers_(buffers), set_(set) {}
  base::TensorView operator[](int tensor) const;

 private:
  const Buffers& buffers_;
  std::int64_t set_;
};

using BenchCall = std::function<base::Status(const TensorSet&, const base::Execution&)>;

struct BenchCase {
  std::vector<BenchTensor> tensors;
  BenchCall fused;
  BenchCall unfused;  // the same answer by the operators it is made of; empty: there is none

  // The given fp32 scale is fitted to the data: `to_quantize` is the tensor that is quantized,
  // after `make_quantized` (if any). kAbsent: the operator takes no such scale.
  int to_quantize = kAbsent;
  BenchCall make_quantized;
  formats::Format format = formats::Format::kNvfp4;
  std::shared_ptr<float> scale = std::make_shared<float>(1.0f);

  int add(Role role, base::DType dtype, std::vector<std::int64_t> shape, Fill fill = Fill::kNone);
  int add_given(Role role, const base::TensorView& contents);
  std::int64_t bytes_read() const;     // that the fused operator must read
  std::int64_t bytes_written() const;  // that it must write
  std::int64_t footprint() const;      // memory that these are: updated tensors count once
};

}  // namespace halfbyte::app
