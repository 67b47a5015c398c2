#include "halfbyte/ops/common/c_abi.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <span>

namespace halfbyte::ops::c_abi {

using base::Backend;
using base::DType;
using base::invalid_argument;
using base::Status;
using base::StatusCode;

namespace {

constexpr bool same(auto c_value, auto value) {
  return static_cast<std::int32_t>(c_value) == static_cast<std::int32_t>(value);
}
static_assert(same(HALFBYTE_OK, StatusCode::kOk));
static_assert(same(HALFBYTE_INVALID_ARGUMENT, StatusCode::kInvalidArgument));
static_assert(same(HALFBYTE_UNSUPPORTED, StatusCode::kUnsupported));
static_assert(same(HALFBYTE_DATA_ERROR, StatusCode::kData));
static_assert(same(HALFBYTE_IO_ERROR, StatusCode::kIo));
static_assert(same(HALFBYTE_CUDA_ERROR, StatusCode::kCuda));
static_assert(same(HALFBYTE_INTERNAL_ERROR, StatusCode::kInternal));
static_assert(same(HALFBYTE_NVFP4, Format::kNvfp4) && same(HALFBYTE_MXFP4, Format::kMxfp4) &&
              same(HALFBYTE_FP8, Format::kFp8));
static_assert(same(HALFBYTE_LAYOUT_LINEAR, ScaleLayout::kLinear) &&
              same(HALFBYTE_LAYOUT_128X4, ScaleLayout::k128x4) &&
              same(HALFBYTE_LAYOUT_8X4, ScaleLayout::k8x4));
static_assert(same(HALFBYTE_SCALE_TENSOR, ScaleMode::kTensor) &&
              same(HALFBYTE_SCALE_ROW, ScaleMode::kRow) &&
              same(HALFBYTE_SCALE_COMPUTED, ScaleMode::kComputed));
static_assert(same(HALFBYTE_SCALE_RULE_KERNEL, ScaleRule::kKernel) &&
              same(HALFBYTE_SCALE_RULE_TE, ScaleRule::kTe));
static_assert(same(HALFBYTE_MX_ROUND_UP, MxRule::kRoundUp) &&
              same(HALFBYTE_MX_OCP_FLOOR, MxRule::kOcpFloor));
static_assert(same(HALFBYTE_ROUNDING_FLOAT32, Rounding::kFloat32) &&
              same(HALFBYTE_ROUNDING_HUGGINGFACE, Rounding::kHuggingFace));
static_assert(same(HALFBYTE_BACKEND_AUTO, Backend::kAuto) &&
              same(HALFBYTE_BACKEND_REFERENCE, Backend::kReference) &&
              same(HALFBYTE_BACKEND_CPU, Backend::kCpu) &&
              same(HALFBYTE_BACKEND_CUDA, Backend::kCuda));

// A struct_size above this is not a size (an uninitialised struct): it must not be read.
constexpr std::uint32_t kLargestStruct = 4096;

struct DTypeEntry {
  halfbyte_dtype c;
  DType dtype;
};
constexpr DTypeEntry kDTypes[] = {{{2, 32, 1}, DType::kF32},  {{2, 16, 1}, DType::kF16},
                                  {{4, 16, 1}, DType::kBF16}, {{1, 8, 1}, DType::kU8},
                                  {{0, 32, 1}, DType::kI32},  {{0, 64, 1}, DType::kI64}};

Status read_device(const char* argument, halfbyte_device from, base::Device& to) {
  if (from.type == static_cast<std::int32_t>(base::DeviceType::kCpu)) {
    to = {base::DeviceType::kCpu, 0};  // there is one CPU; frameworks number it 0 or -1
    return {};
  }
  if (from.type == static_cast<std::int32_t>(base::DeviceType::kCuda) && from.index >= 0) {
    to = {base::DeviceType::kCuda, from.index};
    return {};
  }
  return invalid_argument(
      argument, "device type 1 (CPU) or 2 (CUDA, index >= 0)",
      "type " + std::to_string(from.type) + ", index " + std::to_string(from.index));
}

// Both the elements and the span of addresses that the strides reach must have a size in bytes.
Status check_extent(const char* argument, const TensorView& view) {
  std::int64_t bytes = base::dtype_bytes(view.dtype), reach = bytes;
  bool fits = true;
  for (int i = 0; i < view.ndim; ++i) {
    const std::int64_t size = std::max<std::int64_t>(view.shape[i], 1), steps = size - 1;
    std::int64_t distance = view.strides[i];
    fits = fits && distance != std::numeric_limits<std::int64_t>::min();
    if (fits && distance < 0) distance = -distance;
    fits = fits && !__builtin_mul_overflow(bytes, size, &bytes) &&
           !__builtin_mul_overflow(distance, base::dtype_bytes(view.dtype), &distance) &&
           !__builtin_mul_overflow(distance, steps, &distance) &&
           !__builtin_add_overflow(reach, distance, &reach);
  }
  if (fits) return {};
  const auto dims = static_cast<std::size_t>(view.ndim);
  return invalid_argument(argument, "fewer than 2^63 bytes",
                          "shape " + base::shape_string(view) + " with strides " +
                              base::shape_string(std::span(view.strides.data(), dims)));
}

struct LastError {
  std::string storage;
  const char* message = "";
};
thread_local LastError last_error;

}  // namespace

Status read_dtype(const char* argument, halfbyte_dtype from, DType& to) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.c.code == from.code && entry.c.bits == from.bits && entry.c.lanes == from.lanes) {
      to = entry.dtype;
      return {};
    }
  }
  return invalid_argument(argument, "fp32, fp16, bf16, u8, i32 or i64 with one lane",
                          "type code " + std::to_string(from.code) + ", " +
                              std::to_string(from.bits) + " bits, " + std::to_string(from.lanes) +
                              " lanes");
}

Status read_tensor(const char* argument, const halfbyte_tensor* from, TensorView& to) {
  to = TensorView();
  if (from == nullptr) return {};
  if (from->ndim < 0 || from->ndim > base::kMaxDims) {
    return invalid_argument(argument, "0 to 8 dimensions", std::to_string(from->ndim));
  }
  TensorView view;
  view.given = true;
  view.ndim = from->ndim;
  HALFBYTE_RETURN_IF_ERROR(read_dtype(argument, from->dtype, view.dtype));
  HALFBYTE_RETURN_IF_ERROR(read_device(argument, from->device, view.device));
  if (from->ndim > 0 && from->shape == nullptr) {
    return invalid_argument(argument, "a shape",
                            "NULL with " + std::to_string(from->ndim) + " dimensions");
  }
  bool negative = false;
  for (int i = 0; i < view.ndim; ++i) {
    view.shape[i] = from->shape[i];
    negative = negative || view.shape[i] < 0;
  }
  if (negative) {
    return invalid_argument(argument, "no negative dimension", base::shape_string(view));
  }
  std::int64_t stride = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    view.strides[i] = from->strides != nullptr ? from->strides[i] : stride;
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(view.shape[i], 1), &stride)) {
      stride = std::numeric_limits<std::int64_t>::max();  // check_extent refuses it
    }
  }
  HALFBYTE_RETURN_IF_ERROR(check_extent(argument, view));
  if (from->data != nullptr) view.data = static_cast<char*>(from->data) + from->byte_offset;
  to = view;
  return {};
}

Status check_struct(const char* argument, const void* from, std::size_t our_size,
                    std::size_t alignment) {
  if (from == nullptr) return invalid_argument(argument, "a struct", "NULL");
  std::uint32_t size = 0;
  std::memcpy(&size, from, sizeof(size));
  const std::string field = std::string(argument) + ": struct_size";
  if (size < sizeof(size) || size > kLargestStruct || size % alignment != 0) {
    return invalid_argument(
        field, "sizeof the struct (HALFBYTE_INIT sets it; " + std::to_string(our_size) + " here)",
        std::to_string(size));
  }
  const auto* bytes = static_cast<const unsigned char*>(from);
  for (std::size_t i = our_size; i < size; ++i) {
    if (bytes[i] != 0) {
      return invalid_argument(field,
                              std::to_string(our_size) +
                                  ", or zeros after these bytes: this "
                                  "library is older than the caller's halfbyte.h",
                              std::to_string(size) + " with byte " + std::to_string(i) + " = " +
                                  std::to_string(bytes[i]));
    }
  }
  return {};
}

Status check_enum(const char* argument, std::int32_t value, std::int32_t count,
                  const char* expected) {
  if (value >= 0 && value < count) return {};
  return invalid_argument(argument, expected, std::to_string(value));
}

Status read_format(std::int32_t value, Format& to) {
  return read_enum("format", value, 3, "0 (nvfp4), 1 (mxfp4) or 2 (fp8)", to);
}

Status read_layout(const char* argument, std::int32_t value, ScaleLayout& to) {
  return read_enum(argument, value, 3, "0 (linear), 1 (128x4) or 2 (8x4)", to);
}

Status read_execution(const halfbyte_execution* from, base::Execution& to) {
  to = {};
  if (from == nullptr) return {};
  halfbyte_execution copy{};
  HALFBYTE_RETURN_IF_ERROR(read_struct("execution", from, copy));
  HALFBYTE_RETURN_IF_ERROR(read_enum("backend", copy.backend, 4,
                                     "0 (auto), 1 (reference), 2 (cpu) or 3 (cuda)", to.backend));
  if (copy.num_threads < 0) {
    return invalid_argument("num_threads", "0 (all) or more", std::to_string(copy.num_threads));
  }
  if (copy.reserved != 0) {
    return invalid_argument("execution: reserved", "0", std::to_string(copy.reserved));
  }
  const auto read_flag = [](const char* argument, std::int32_t value, bool& flag) -> Status {
    if (value != 0 && value != 1)
      return invalid_argument(argument, "0 or 1", std::to_string(value));
    flag = value == 1;
    return {};
  };
  HALFBYTE_RETURN_IF_ERROR(
      read_flag("programmatic_launch", copy.programmatic_launch, to.programmatic_launch));
  HALFBYTE_RETURN_IF_ERROR(
      read_flag("constant_weights", copy.constant_weights, to.constant_weights));
  to.num_threads = copy.num_threads;
  to.stream = copy.stream;
  to.workspace = copy.workspace;
  to.workspace_bytes = copy.workspace_bytes;
  return {};
}

Status read_quantization(const halfbyte_quantize_spec* spec, const halfbyte_quantize_outputs* out,
                         const halfbyte_tensor* global_scale, const halfbyte_tensor* decode_scale,
                         QuantizeSpec& to_spec, GivenScale& to_given, QuantizeOutputs& to_out) {
  halfbyte_quantize_spec s{};
  HALFBYTE_RETURN_IF_ERROR(read_struct("spec", spec, s));
  halfbyte_quantize_outputs o{};
  HALFBYTE_RETURN_IF_ERROR(read_struct("out", out, o));

  HALFBYTE_RETURN_IF_ERROR(read_format(s.format, to_spec.format));
  HALFBYTE_RETURN_IF_ERROR(read_layout("layout", s.layout, to_spec.layout));
  HALFBYTE_RETURN_IF_ERROR(
      read_enum("scale", s.scale, 3, "0 (tensor), 1 (row) or 2 (computed)", to_spec.scale));
  HALFBYTE_RETURN_IF_ERROR(
      read_enum("scale_rule", s.scale_rule, 2, "0 (kernel) or 1 (te)", to_spec.scale_rule));
  HALFBYTE_RETURN_IF_ERROR(
      read_enum("mx_rule", s.mx_rule, 2, "0 (round_up) or 1 (ocp_floor)", to_spec.mx_rule));
  if (o.scales_second != nullptr) {
    HALFBYTE_RETURN_IF_ERROR(
        read_layout("second_layout", s.second_layout, to_spec.second_layout.emplace()));
  }

  HALFBYTE_RETURN_IF_ERROR(read_tensor("global_scale", global_scale, to_given.global_scale));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("decode_scale", decode_scale, to_given.decode_scale));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("codes", o.codes, to_out.codes));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("scales", o.scales, to_out.scales));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("scales_second", o.scales_second, to_out.scales_second));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("row_scale", o.row_scale, to_out.row_scale));
  HALFBYTE_RETURN_IF_ERROR(read_tensor("out.global_scale", o.global_scale, to_out.global_scale));
  return read_tensor("out.decode_scale", o.decode_scale, to_out.decode_scale);
}

Status read_activation(const halfbyte_activation* from, Activation& to) {
  halfbyte_activation activation{};
  HALFBYTE_RETURN_IF_ERROR(read_struct("activation", from, activation));
  to.interleave = activation.interleave;
  if (activation.clamp != 0.0f) to.clamp = activation.clamp;
  to.alpha = activation.alpha;
  to.up_bias = activation.up_bias;
  return read_enum("rounding", activation.rounding, 2, "0 (float32) or 1 (huggingface)",
                   to.rounding);
}

Status read_row_groups(const halfbyte_row_groups* from, RowGroups& to) {
  if (from == nullptr) return {};
  halfbyte_row_groups groups{};
  HALFBYTE_RETURN_IF_ERROR(read_struct("groups", from, groups));
  if (groups.reserved != 0) {
    return invalid_argument("groups: reserved", "0", std::to_string(groups.reserved));
  }
  to.count = groups.count;
  HALFBYTE_RETURN_IF_ERROR(read_tensor("row_offsets", groups.row_offsets, to.row_offsets));
  return read_tensor("scale_row_offsets", groups.scale_row_offsets, to.scale_row_offsets);
}

void set_error_message(const std::string& message) noexcept {
  try {
    last_error.storage = message;
    last_error.message = last_error.storage.c_str();
  } catch (...) {
    last_error.message = "out of memory (the message of this error too)";
  }
}

void set_exception_message(const char* name) noexcept {
  try {
    try {
      throw;
    } catch (const std::exception& error) {
      set_error_message(std::string(name) + ": internal error: " + error.what());
    } catch (...) {
      set_error_message(std::string(name) + ": internal error: an unknown exception");
    }
  } catch (...) {
    last_error.message = "internal error: out of memory";
  }
}

}  // namespace halfbyte::ops::c_abi

extern "C" const char* halfbyte_error_message(void) {
  return halfbyte::ops::c_abi::last_error.message;
}
