// Runs one operator on named tensors: allocates its outputs, fills the argument structs, calls the
// library. The functions are those of op_table.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "apps/halfbyte/op_settings.h"
#include "apps/halfbyte/op_tensors.h"
#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

class OpCall {
 public:
  OpCall(Settings settings, base::Execution execution, base::Device device)
      : settings_(std::move(settings)), execution_(execution), device_(device) {}

  void add_input(std::string name, OwnedTensor tensor) {
    inputs_.emplace(std::move(name), std::move(tensor));
  }
  // An input, or "not given".
  base::TensorView input(std::string_view name) const;
  // A new output. `target` is where the argument struct wants it.
  base::Status add_output(std::string name, base::DType dtype,
                          const std::vector<std::int64_t>& shape, base::TensorView& target);
  // An input that the operator updates in place, as an output of the same name.
  void input_is_output(std::string_view name);

  const Settings& settings() const { return settings_; }
  base::Execution& execution() { return execution_; }
  base::Device device() const { return device_; }
  std::map<std::string, OwnedTensor>& outputs() { return outputs_; }
  const std::vector<std::string>& output_order() const { return output_order_; }

 private:
  Settings settings_;
  base::Execution execution_;
  base::Device device_;
  std::map<std::string, OwnedTensor, std::less<>> inputs_;
  std::map<std::string, OwnedTensor> outputs_;
  std::vector<std::string> output_order_;
};

base::Status run_quantize(OpCall& call);
base::Status run_dequantize(OpCall& call);
base::Status run_amax(OpCall& call);
base::Status run_gemm(OpCall& call);
base::Status run_gemm_silu_mul_quantize(OpCall& call);
base::Status run_rmsnorm(OpCall& call);
base::Status run_rmsnorm_quantize(OpCall& call);
base::Status run_rope(OpCall& call);
base::Status run_silu_mul(OpCall& call);
base::Status run_silu_mul_quantize(OpCall& call);

}  // namespace halfbyte::app
