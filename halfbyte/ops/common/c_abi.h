// From the structs of halfbyte.h to the C++ arguments and back: what every *_c.cpp shares. A
// conversion checks what C cannot express (NULL, sizes, enum ranges); what an argument must be for
// an operator is checked by the operator.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/halfbyte.h"
#include "halfbyte/ops/common/activation.h"
#include "halfbyte/ops/common/quantize_spec.h"

namespace halfbyte::ops::c_abi {

// NULL is an absent tensor. Errors: a type, device or number of dimensions that halfbyte.h does not
// list, a NULL shape, a negative dimension, a tensor whose bytes do not fit 63 bits.
base::Status read_tensor(const char* argument, const halfbyte_tensor* from, TensorView& to);

base::Status read_dtype(const char* argument, halfbyte_dtype from, base::DType& to);

// `size` bytes of a struct that the caller built against another version of halfbyte.h: fields that
// it does not have become 0, fields that this library does not have must be 0.
base::Status check_struct(const char* argument, const void* from, std::size_t our_size,
                          std::size_t alignment);

template <class Struct>
base::Status read_struct(const char* argument, const Struct* from, Struct& to) {
  HALFBYTE_RETURN_IF_ERROR(check_struct(argument, from, sizeof(Struct), alignof(Struct)));
  std::uint32_t size = 0;
  // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): check_struct has refused NULL
  std::memcpy(&size, from, sizeof(size));
  std::array<std::byte, sizeof(Struct)> bytes{};
  std::memcpy(bytes.data(), from, std::min<std::size_t>(size, bytes.size()));
  to = std::bit_cast<Struct>(bytes);
  return {};
}

// Values 0 .. count - 1 are valid; `expected` names them for the message.
base::Status check_enum(const char* argument, std::int32_t value, std::int32_t count,
                        const char* expected);

template <class Enum>
base::Status read_enum(const char* argument, std::int32_t value, std::int32_t count,
                       const char* expected, Enum& to) {
  HALFBYTE_RETURN_IF_ERROR(check_enum(argument, value, count, expected));
  to = static_cast<Enum>(value);
  return {};
}

base::Status read_format(std::int32_t value, Format& to);
base::Status read_layout(const char* argument, std::int32_t value, ScaleLayout& to);

base::Status read_execution(const halfbyte_execution* from, base::Execution& to);

// The three parts of a quantization, as quantize_spec.h has them.
base::Status read_quantization(const halfbyte_quantize_spec* spec,
                               const halfbyte_quantize_outputs* out,
                               const halfbyte_tensor* global_scale,
                               const halfbyte_tensor* decode_scale, QuantizeSpec& to_spec,
                               GivenScale& to_given, QuantizeOutputs& to_out);

base::Status read_activation(const halfbyte_activation* from, Activation& to);

// NULL: no groups.
base::Status read_row_groups(const halfbyte_row_groups* from, RowGroups& to);

// What halfbyte_error_message() gives on this thread from now on; the second describes the
// exception that is being handled.
void set_error_message(const std::string& message) noexcept;
void set_exception_message(const char* name) noexcept;

// The body of every C function of an operator: convert, run, report. Nothing is thrown.
template <class CArgs, class Args>
halfbyte_status call(const char* name, const CArgs* args, const halfbyte_execution* execution,
                     base::Status (*convert)(const CArgs&, Args&),
                     base::Status (*run)(const Args&, const base::Execution&)) noexcept {
  try {
    Args converted;
    base::Execution how;
    base::Status status = base::in_operator(name, [&]() -> base::Status {
      CArgs copy{};
      HALFBYTE_RETURN_IF_ERROR(read_struct("args", args, copy));
      HALFBYTE_RETURN_IF_ERROR(convert(copy, converted));
      return read_execution(execution, how);
    }());
    if (status.ok()) status = run(converted, how);
    if (!status.ok()) set_error_message(status.message());
    return static_cast<halfbyte_status>(status.code());
  } catch (...) {
    set_exception_message(name);
    return HALFBYTE_INTERNAL_ERROR;
  }
}

}  // namespace halfbyte::ops::c_abi
