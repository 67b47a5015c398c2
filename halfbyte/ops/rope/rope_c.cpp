// The C functions of this room: halfbyte_rope, halfbyte_rope_table.
#include "halfbyte/ops/common/c_abi.h"
#include "halfbyte/ops/rope/rope.h"
#include "halfbyte/ops/rope/rope_table.h"

namespace halfbyte::ops {
namespace {

using base::Status;
using c_abi::read_tensor;

static_assert(static_cast<int>(RopeStyle::kNeox) == HALFBYTE_ROPE_NEOX &&
              static_cast<int>(RopeStyle::kGptj) == HALFBYTE_ROPE_GPTJ);
static_assert(static_cast<int>(RopeScaling::kNone) == HALFBYTE_ROPE_SCALING_NONE &&
              static_cast<int>(RopeScaling::kLinear) == HALFBYTE_ROPE_SCALING_LINEAR &&
              static_cast<int>(RopeScaling::kLlama3) == HALFBYTE_ROPE_SCALING_LLAMA3 &&
              static_cast<int>(RopeScaling::kYarn) == HALFBYTE_ROPE_SCALING_YARN);

Status convert_rope(const halfbyte_rope_args& from, RopeArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(
      c_abi::read_enum("style", from.style, 2, "0 (neox) or 1 (gptj)", to.style));
  HALFBYTE_RETURN_IF_ERROR(
      c_abi::read_enum("inverse", from.inverse, 2, "0 (forward) or 1 (inverse)", to.inverse));
  HALFBYTE_RETURN_IF_ERROR(c_abi::check_enum("reserved", from.reserved, 1, "0"));
  to.rope_dim = from.rope_dim;
  to.rope_offset = from.rope_offset;
  HALFBYTE_RETURN_IF_ERROR(read_tensor("x", from.x, to.x));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("positions", from.positions, to.positions));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("cos", from.cos, to.cos));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("sin", from.sin, to.sin));
  return read_tensor("y", from.y, to.y);
}

Status convert_rope_table(const halfbyte_rope_table_args& from, RopeTableArgs& to) {
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_enum(
      "scaling", from.scaling, 4, "0 (none), 1 (linear), 2 (llama3) or 3 (yarn)", to.scaling));
  bool no_truncate = false;
  HALFBYTE_RETURN_IF_ERROR(c_abi::read_enum("no_truncate", from.no_truncate, 2,
                                            "0 (truncate) or 1 (do not)", no_truncate));
  HALFBYTE_RETURN_IF_ERROR(c_abi::check_enum("reserved", from.reserved, 1, "0"));
  to.truncate = !no_truncate;
  to.theta = from.theta;
  to.factor = from.factor;
  to.low_freq_factor = from.low_freq_factor;
  to.high_freq_factor = from.high_freq_factor;
  to.original_max_position = from.original_max_position;
  to.beta_fast = from.beta_fast;
  to.beta_slow = from.beta_slow;
  to.attention_factor = from.attention_factor;
  to.mscale = from.mscale;
  to.mscale_all_dim = from.mscale_all_dim;
  HALFBYTE_RETURN_IF_ERROR(read_tensor("cos", from.cos, to.cos));
  return read_tensor("sin", from.sin, to.sin);
}

Status run_rope_table(const RopeTableArgs& args, const base::Execution& /*execution*/) {
  return rope_table(args);
}

}  // namespace
}  // namespace halfbyte::ops

using namespace halfbyte::ops;  // NOLINT(google-build-using-namespace)

extern "C" halfbyte_status halfbyte_rope(const halfbyte_rope_args* args,
                                         const halfbyte_execution* execution) {
  return c_abi::call("rope", args, execution, convert_rope, rope);
}

extern "C" halfbyte_status halfbyte_rope_table(const halfbyte_rope_table_args* args) {
  return c_abi::call("rope_table", args, nullptr, convert_rope_table, run_rope_table);
}
