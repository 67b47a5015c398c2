#include "halfbyte/ops/gemm/gemm_silu_mul_testing.h"

#include <algorithm>

#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/common/testing_activation.h"
#include "halfbyte/ops/common/testing_groups.h"

namespace halfbyte::ops::testing {

GateUpCase random_gate_up(Random& random, const GemmChoices& choices) {
  GemmShape shape;
  shape.format = random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4});
  shape.m = random.one_in(3) ? 1 : random.in(1, 20);
  if (random.one_in(10)) shape.m = random.in(21, 140);
  const std::int64_t columns = random.in(1, random.one_in(4) ? 200 : 70);
  std::int64_t blocks = random.one_in(3) ? random.in(1, 9) : random.in(1, 40);
  if (random.one_in(20)) blocks = random.in(40, 300);
  const std::int64_t most = 40'000;  // blocks of the product
  blocks = std::clamp<std::int64_t>(most / (shape.m * 2 * columns), 1, blocks);
  if (random.one_in(60)) shape.m = 0;
  shape.k = blocks * formats::block_elements(shape.format);
  if (choices.grouped) shape.groups = random.in(1, 7);
  return random_gate_up(random, choices, shape, columns);
}

GateUpCase random_gate_up(Random& random, const GemmChoices& choices, GemmShape shape,
                          std::int64_t columns) {
  GateUpCase test;
  const Format format = random.pick({Format::kNvfp4, Format::kNvfp4, Format::kMxfp4, Format::kFp8});
  test.spec = random_spec(random, format, false);
  test.activation = random_activation(random);
  const int block = formats::block_elements(format);
  columns =
      formats::round_up_to(columns, test.activation.interleave == 8 ? std::max(block, 8) : block);
  shape.n = 2 * columns;
  test.product = random_gemm(random, choices, shape);
  TensorSet& set = test.product.set;
  const Shape y{{shape.m}, columns};
  add_quantize_tensors(random, test.spec, y, set);
  const bool by_group = shape.groups > 0 && formats::has_block_scales(format) &&
                        test.spec.scale != ScaleMode::kComputed && !random.one_in(4);
  if (by_group) add_scale_row_offsets(random, test.spec, y, "out_scale_row_offsets", set);
  test.text = test.product.text + "; " + std::string(base::dtype_name(test.dtype())) + "; " +
              describe(test.activation) + "; " + describe(test.spec);
  return test;
}

GemmSiluMulQuantizeArgs gate_up_args(const GateUpCase& test, const TensorSet& set) {
  GemmSiluMulQuantizeArgs args;
  args.product = gemm_args(test.product, set);
  args.product.c = {};
  args.dtype = test.dtype();
  args.activation = test.activation;
  args.given = given_scale(set);
  args.spec = test.spec;
  args.out = quantize_outputs(set);
  args.out_scale_row_offsets = set.view("out_scale_row_offsets");
  return args;
}

base::Status run_gate_up(const GateUpCase& test, const TensorSet& set,
                         const base::Execution& execution) {
  const GemmSiluMulQuantizeArgs args = gate_up_args(test, set);
  base::Execution with_workspace = execution;
  const base::Result<std::size_t> bytes = gemm_silu_mul_workspace_bytes(args, execution);
  if (!bytes.ok()) return bytes.status();
  if (bytes.value() > 0) {
    with_workspace.workspace = cuda_workspace(bytes.value());
    with_workspace.workspace_bytes = bytes.value();
  }
  return gemm_silu_mul_quantize(args, with_workspace);
}

Case gate_up_case(GateUpCase test) {
  Case made;
  made.tensors = test.set();
  made.tensors.tensors().erase("c");
  made.text = test.text;
  made.operation = [test](const TensorSet& set, const base::Execution& execution) {
    return run_gate_up(test, set, execution);
  };
  return made;
}

}  // namespace halfbyte::ops::testing
