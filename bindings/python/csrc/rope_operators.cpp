// rope, rope_.
#include <cstdint>

#include "arguments.h"
#include "operators.h"

namespace halfbyte::bindings {
namespace {

enum class Where { kNew, kInPlace, kOut };

template <Where kWhere>
void rope(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "rope";
  Arguments arguments(stack);
  Tensor x = arguments.tensor();
  Tensor positions = arguments.tensor();
  Tensor cos = arguments.tensor();
  Tensor sin = arguments.tensor();
  const Text style = arguments.text();
  const std::optional<std::int64_t> rope_dim = arguments.optional_integer();
  HALFBYTE_INIT(halfbyte_rope_args, args);
  args.rope_offset = arguments.integer();
  args.inverse = arguments.flag() ? 1 : 0;
  Tensor y;
  if (kWhere == Where::kOut) y = arguments.tensor();

  args.style = enum_value(kName, "style", style, {"neox", "gptj"});
  if (rope_dim == 0) refuse(kName, "rope_dim", "an even number from 2 on", "0");  // C: not given
  args.rope_dim = rope_dim.value_or(0);
  args.x = x.read(kName, "x");
  args.positions = positions.read(kName, "positions");
  args.cos = cos.read(kName, "cos");
  args.sin = sin.read(kName, "sin");
  if (kWhere == Where::kNew) y = make_like(*args.x);
  args.y = kWhere == Where::kInPlace ? x.view() : y.read(kName, "y");
  const Execution execution(*args.x, HALFBYTE_SCALE_TENSOR);
  check(halfbyte_rope(&args, execution.get()));
  if (kWhere == Where::kNew) give(stack, 0, y);
}

// On the host: the tensors' devices are the library's to check.
void rope_table(Value* stack, std::uint64_t /*inputs*/, std::uint64_t /*outputs*/) {
  constexpr const char* kName = "rope_table";
  Arguments arguments(stack);
  Tensor cos = arguments.tensor();
  Tensor sin = arguments.tensor();
  HALFBYTE_INIT(halfbyte_rope_table_args, args);
  args.theta = arguments.real();
  const Text scaling = arguments.text();
  args.no_truncate = arguments.flag() ? 0 : 1;
  for (double* parameter : {&args.factor, &args.low_freq_factor, &args.high_freq_factor,
                            &args.original_max_position, &args.beta_fast, &args.beta_slow,
                            &args.attention_factor, &args.mscale, &args.mscale_all_dim}) {
    *parameter = arguments.real();
  }

  args.scaling = enum_value(kName, "scaling", scaling, {"none", "linear", "llama3", "yarn"});
  args.cos = cos.read(kName, "cos");
  args.sin = sin.read(kName, "sin");
  check(halfbyte_rope_table(&args));
}

}  // namespace

std::span<const Operator> rope_operators() {
  static constexpr Operator kOperators[] = {
      {"rope", rope<Where::kNew>},
      {"rope_", rope<Where::kInPlace>},
      {"rope.out", rope<Where::kOut>},
      {"rope_table.out", rope_table},
  };
  return kOperators;
}

}  // namespace halfbyte::bindings
