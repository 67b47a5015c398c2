// halfbyte op rope: in place, x is input and output.
#include "apps/halfbyte/op_run.h"
#include "halfbyte/ops/rope/rope.h"

namespace halfbyte::app {
namespace {

constexpr std::pair<std::string_view, ops::RopeStyle> kStyles[] = {{"neox", ops::RopeStyle::kNeox},
                                                                   {"gptj", ops::RopeStyle::kGptj}};

}  // namespace

base::Status run_rope(OpCall& call) {
  ops::RopeArgs args;
  args.x = args.y = call.input("x");
  args.positions = call.input("positions");
  args.cos = call.input("cos");
  args.sin = call.input("sin");
  args.style = call.settings().choice("style", kStyles);
  args.rope_dim = call.settings().integer("rope_dim").value_or(0);
  args.rope_offset = call.settings().integer("rope_offset").value_or(0);
  args.inverse = call.settings().flag("inverse");
  if (args.rope_dim == 0 && !call.settings().text("rope_dim").empty()) {
    return base::invalid_argument("--set rope_dim", "an even number from 2 on", "0");
  }
  call.input_is_output("x");
  return ops::rope(args, call.execution());
}

}  // namespace halfbyte::app
