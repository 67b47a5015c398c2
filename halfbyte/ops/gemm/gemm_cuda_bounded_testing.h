// Test support: products by a bounded method on CUDA, compared with the exact ones of the CPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "halfbyte/base/execution.h"
#include "halfbyte/ops/gemm/gemm.h"
#include "halfbyte/ops/gemm/gemm_kernels.h"
#include "halfbyte/ops/gemm/gemm_tensor_core_plan.h"

namespace halfbyte::ops::testing {

struct BoundedCase {
  std::int64_t m = 0, n = 0, k = 0;
  Format format = Format::kNvfp4;
  base::DType a = base::DType::kU8;  // kU8: quantized
  base::DType c = base::DType::kF32;
  bool per_row = false, bias = false;
  std::int64_t more_a = 0, more_c = 0;  // elements from a row to the next, beyond its own
  ScaleLayout layout = ScaleLayout::kLinear;
  GemmMethod method = GemmMethod::kTensorCore;
  // Of tensor_core, where tokens != 0: a plan that gemm need not choose.
  int tokens = 0, warps = kTensorCoreMaxWarps, split = 1;
  bool shares = false;
  // Rows in groups: where each one begins, and where the last one ends. Scales of B are one a
  // group; encode_per_group: those of A too, else they are decode scales.
  std::vector<std::int32_t> offsets{};
  bool encode_per_group = false;

  bool quantized() const { return a == base::DType::kU8; }
  std::int64_t block() const { return formats::block_elements(format); }
  std::int64_t groups() const {
    return offsets.empty() ? 0 : static_cast<std::int64_t>(offsets.size()) - 1;
  }
  std::int64_t matrices() const { return groups() == 0 ? 1 : groups(); }
  // Each group's scales begin where the layout's rows do.
  std::vector<std::int32_t> scale_offsets() const;
  std::string text() const;
};

// Random ones.
struct BoundedOperands {
  std::vector<std::uint8_t> a, a_scales, b, b_scales, prepared;
  std::vector<std::uint16_t> x;
  std::vector<float> a_scale, b_scale, bias;
  std::vector<std::int32_t> offsets, scale_offsets;

  explicit BoundedOperands(const BoundedCase& of);
  // Magnitudes alone.
  void drop_signs(const BoundedCase& of);

 private:
  void prepare(const BoundedCase& of);
};

// fp32, m x n.
std::vector<float> product_on_cpu(const BoundedCase& of, const BoundedOperands& operands);

// The operands in device memory, C between rows of other bytes.
class BoundedProduct {
 public:
  BoundedProduct(const BoundedCase& of, const BoundedOperands& operands);
  ~BoundedProduct();
  BoundedProduct(const BoundedProduct&) = delete;
  BoundedProduct& operator=(const BoundedProduct&) = delete;

  // False: no workspace could be asked for, which has failed the test.
  bool ok() const { return workspace_ != nullptr; }
  // C and the workspace become 0xFF.
  void poison();
  // Groups that begin elsewhere; as many.
  void set_offsets(const std::vector<std::int32_t>& offsets,
                   const std::vector<std::int32_t>& scale_offsets);
  base::Status launch(void* stream = nullptr);
  // The bytes of C, of m rows with more_c elements behind each.
  std::vector<std::uint8_t> result();

 private:
  void* upload(std::size_t bytes, const void* from);

  BoundedCase of_;
  std::vector<void*> memory_;
  GemmArgs args_;
  GemmProblem problem_;
  TensorCorePlan plan_;  // tokens == 0: gemm's own
  void *c_ = nullptr, *workspace_ = nullptr, *offsets_ = nullptr, *scale_offsets_ = nullptr;
  std::size_t c_bytes_ = 0, workspace_bytes_ = 0;
};

// `got` is within the method's bound of the exact product of the operands, rows of no group are +0,
// and what lies between the rows is as poison() made it. Drops the operands' signs.
void expect_within_bound(const BoundedCase& of, BoundedOperands& operands,
                         const std::vector<std::uint8_t>& got);
// Of random operands, twice: with the same bits.
void expect_within_bound(const BoundedCase& of);

// Device 0 is of compute capability 9.
bool has_sm_90();

}  // namespace halfbyte::ops::testing
