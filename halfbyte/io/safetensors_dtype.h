// The element types of the safetensors format (the list of safetensors 0.8), their names in the
// header and their widths. Elements narrower than a byte are packed; a tensor fills whole bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "halfbyte/base/dtype.h"
#include "halfbyte/base/status.h"

namespace halfbyte::io {

enum class SafetensorsDType : std::uint8_t {
  kBool,
  kF4,  // e2m1, two a byte
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

struct SafetensorsDTypeInfo {
  std::string_view name;
  int bits;  // of one element
};

// Indexed by SafetensorsDType.
inline constexpr std::array<SafetensorsDTypeInfo, 22> kSafetensorsDTypes = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

constexpr std::string_view dtype_name(SafetensorsDType dtype) {
  return kSafetensorsDTypes[static_cast<std::size_t>(dtype)].name;
}

constexpr int dtype_bits(SafetensorsDType dtype) {
  return kSafetensorsDTypes[static_cast<std::size_t>(dtype)].bits;
}

// The type a header names; none when the format has no such type. Names are case sensitive.
constexpr std::optional<SafetensorsDType> parse_dtype(std::string_view name) {
  for (std::size_t i = 0; i < kSafetensorsDTypes.size(); ++i) {
    if (kSafetensorsDTypes[i].name == name) return static_cast<SafetensorsDType>(i);
  }
  return std::nullopt;
}

// The type in which a tensor of halfbyte is stored when the caller names no other.
constexpr SafetensorsDType stored_dtype(base::DType dtype) {
  switch (dtype) {
    case base::DType::kF32:
      return SafetensorsDType::kF32;
    case base::DType::kF16:
      return SafetensorsDType::kF16;
    case base::DType::kBF16:
      return SafetensorsDType::kBF16;
    case base::DType::kI32:
      return SafetensorsDType::kI32;
    case base::DType::kI64:
      return SafetensorsDType::kI64;
    case base::DType::kU8:
      break;
  }
  return SafetensorsDType::kU8;
}

// The type in which halfbyte computes on a stored tensor; none where it has no such type. FP8 and
// E8M0 scales and packed FP4 codes travel as bytes.
constexpr std::optional<base::DType> computed_dtype(SafetensorsDType dtype) {
  switch (dtype) {
    case SafetensorsDType::kF32:
      return base::DType::kF32;
    case SafetensorsDType::kF16:
      return base::DType::kF16;
    case SafetensorsDType::kBF16:
      return base::DType::kBF16;
    case SafetensorsDType::kI32:
      return base::DType::kI32;
    case SafetensorsDType::kI64:
      return base::DType::kI64;
    case SafetensorsDType::kU8:
    case SafetensorsDType::kF8E4M3:
    case SafetensorsDType::kF8E8M0:
    case SafetensorsDType::kF4:
      return base::DType::kU8;
    default:
      return std::nullopt;
  }
}

static_assert(dtype_name(SafetensorsDType::kU64) == "U64" &&
              dtype_bits(SafetensorsDType::kF4) == 4);

// Bytes of a tensor of this type and shape. Errors (kInvalidArgument, naming neither file nor
// tensor): a negative dimension, nonzero dimensions that multiply past 2^63 - 1 bits
// (those of a zero-size tensor too: its strides are such products), bits that do not fill bytes.
base::Result<std::int64_t> tensor_bytes(SafetensorsDType dtype,
                                        std::span<const std::int64_t> shape);

// "[2, 3]", for messages: at most 8 dimensions, then an ellipsis.
std::string short_shape(std::span<const std::int64_t> shape);

}  // namespace halfbyte::io
