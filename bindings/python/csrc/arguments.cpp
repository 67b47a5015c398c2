#include "arguments.h"

#include <atomic>
#include <bit>
#include <stdexcept>

namespace halfbyte::bindings {
namespace {

using torch_abi::torch;

thread_local halfbyte_status failed = HALFBYTE_OK;

void require(std::int32_t error, const char* what) {
  if (error == 0) return;
  failed = HALFBYTE_INTERNAL_ERROR;
  throw std::runtime_error(std::string("halfbyte: torch failed: ") + what);
}

// torch's numbers for the types that the library knows, read once.
struct Types {
  struct Type {
    std::int32_t number;
    halfbyte_dtype dtype;
  };
  std::array<Type, 6> known{};
  std::int32_t cpu = 0;
  std::int32_t cuda = 0;

  Types()
      : known{{{torch().aoti_torch_dtype_bfloat16(), {4, 16, 1}},
               {torch().aoti_torch_dtype_float16(), {2, 16, 1}},
               {torch().aoti_torch_dtype_float32(), {2, 32, 1}},
               {torch().aoti_torch_dtype_uint8(), {1, 8, 1}},
               {torch().aoti_torch_dtype_int32(), {0, 32, 1}},
               {torch().aoti_torch_dtype_int64(), {0, 64, 1}}}},
        cpu(torch().aoti_torch_device_type_cpu()),
        cuda(torch().aoti_torch_device_type_cuda()) {}
};

const Types& types() {
  static const Types instance;
  return instance;
}

std::string refusal(std::string_view op, std::string_view argument, const std::string& expected,
                    const std::string& got) {
  std::string text(op);
  return text.append(": ").append(argument).append(": expected ") + expected + ", got " + got;
}

// torch's own numbers of types that are not ours, for messages.
std::string type_name(std::int32_t number) {
  constexpr std::array kNames = {"uint8",     "int8",      "int16",      "int32",
                                 "int64",     "float16",   "float32",    "float64",
                                 "complex32", "complex64", "complex128", "bool"};
  if (number >= 0 && static_cast<std::size_t>(number) < kNames.size()) {
    return std::string("torch.") + kNames[static_cast<std::size_t>(number)];
  }
  return "another type (torch's number " + std::to_string(number) + ")";
}

}  // namespace

void refuse(std::string_view op, std::string_view argument, const std::string& expected,
            const std::string& got) {
  failed = HALFBYTE_INVALID_ARGUMENT;
  throw std::invalid_argument(refusal(op, argument, expected, got));
}

void check(halfbyte_status status) {
  if (status == HALFBYTE_OK) return;
  failed = status;
  throw std::runtime_error(halfbyte_error_message());
}

halfbyte_status last_status() { return failed; }

Tensor::~Tensor() {
  if (handle_ != nullptr) torch().aoti_torch_delete_tensor_object(handle_);
}

TensorHandle Tensor::release() { return std::exchange(handle_, nullptr); }

const halfbyte_tensor* Tensor::read(std::string_view op, const char* argument) {
  if (handle_ == nullptr) return nullptr;
  const torch_abi::Functions& t = torch();
  std::int32_t number = 0;
  std::int64_t ndim = 0;
  std::int32_t device = 0;
  require(t.aoti_torch_get_dtype(handle_, &number), "dtype");
  require(t.aoti_torch_get_dim(handle_, &ndim), "dim");
  require(t.aoti_torch_get_device_type(handle_, &device), "device");
  bool known = false;
  for (const Types::Type& type : types().known) {
    if (type.number == number) {
      view_.dtype = type.dtype;
      known = true;
      break;
    }
  }
  if (!known) {
    refuse(op, argument, "float32, float16, bfloat16, uint8, int32 or int64", type_name(number));
  }
  if (ndim > 8) refuse(op, argument, "0 to 8 dimensions", std::to_string(ndim));
  if (device == types().cuda) {
    view_.device.type = 2;
    require(t.aoti_torch_get_device_index(handle_, &view_.device.index), "device");
  } else if (device == types().cpu) {
    view_.device = {1, 0};
  } else {
    refuse(op, argument, "a CPU or CUDA tensor", "another device");
  }
  view_.ndim = static_cast<std::int32_t>(ndim);
  std::int64_t* sizes = nullptr;
  std::int64_t* strides = nullptr;
  require(t.aoti_torch_get_sizes(handle_, &sizes), "sizes");
  require(t.aoti_torch_get_strides(handle_, &strides), "strides");
  view_.shape = sizes;
  view_.strides = strides;
  require(t.aoti_torch_get_data_ptr(handle_, &view_.data), "data_ptr");
  return &view_;
}

std::int64_t Tensor::rows() const {
  std::int64_t product = 1;
  for (std::int32_t i = 0; i + 1 < view_.ndim; ++i) product *= view_.shape[i];
  return product;
}

Tensor Arguments::tensor() {
  return Tensor(reinterpret_cast<TensorHandle>(*next_++));  // NOLINT(performance-no-int-to-ptr)
}

std::optional<Value> Arguments::optional_value() {
  auto* value = reinterpret_cast<Value*>(*next_++);  // NOLINT(performance-no-int-to-ptr)
  if (value == nullptr) return std::nullopt;
  const Value inner = *value;
  if (const auto free_value = torch().torch_delete_stable_ivalue) {
    require(free_value(value), "optional");
  } else {
    delete value;  // NOLINT(cppcoreguidelines-owning-memory): how torch's ABI hands it over
  }
  return inner;
}

Tensor Arguments::optional_tensor() {
  const std::optional<Value> value = optional_value();
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  return value ? Tensor(reinterpret_cast<TensorHandle>(*value)) : Tensor();
}

static std::string take_text(Value value) {
  auto* handle = reinterpret_cast<torch_abi::StringHandle>(value);  // NOLINT
  std::size_t length = 0;
  const char* characters = nullptr;
  require(torch().torch_string_length(handle, &length), "string");
  require(torch().torch_string_c_str(handle, &characters), "string");
  std::string text(characters, length);
  require(torch().torch_delete_string(handle), "string");
  return text;
}

Text Arguments::text() { return take_text(*next_++); }

Text Arguments::optional_text() {
  const std::optional<Value> value = optional_value();
  return value ? Text(take_text(*value)) : std::nullopt;
}

double Arguments::real() { return std::bit_cast<double>(*next_++); }

std::optional<double> Arguments::optional_real() {
  const std::optional<Value> value = optional_value();
  return value ? std::optional(std::bit_cast<double>(*value)) : std::nullopt;
}

std::optional<std::int64_t> Arguments::optional_integer() {
  const std::optional<Value> value = optional_value();
  return value ? std::optional(static_cast<std::int64_t>(*value)) : std::nullopt;
}

std::int32_t enum_value(std::string_view op, const char* argument, const Text& name,
                        std::initializer_list<const char*> names) {
  std::int32_t value = 0;
  for (const char* known : names) {
    if (*name == known) return value;
    ++value;
  }
  std::string expected = "one of ";
  for (const char* known : names) {
    if (known != *names.begin()) expected += ", ";
    expected += known;
  }
  refuse(op, argument, expected, "'" + *name + "'");
}

std::int32_t dtype_number(ScalarType type) {
  switch (type) {
    case ScalarType::kUInt8:
      return torch().aoti_torch_dtype_uint8();
    case ScalarType::kFloat16:
      return torch().aoti_torch_dtype_float16();
    case ScalarType::kBFloat16:
      return torch().aoti_torch_dtype_bfloat16();
    case ScalarType::kFloat32:
      break;
  }
  return torch().aoti_torch_dtype_float32();
}

Shape Shape::empty() {
  Shape shape;
  shape.add(0);
  return shape;
}

Shape Shape::with_last(const halfbyte_tensor& like, std::int64_t last) {
  Shape shape;
  for (std::int32_t i = 0; i + 1 < like.ndim; ++i) shape.add(like.shape[i]);
  shape.add(last);
  return shape;
}

Shape Shape::of(const halfbyte_tensor& like) {
  Shape shape;
  for (std::int32_t i = 0; i < like.ndim; ++i) shape.add(like.shape[i]);
  return shape;
}

Tensor make_tensor(const halfbyte_tensor& like, const Shape& shape, std::int32_t dtype) {
  std::array<std::int64_t, 9> strides{};
  std::int64_t stride = 1;
  for (std::int64_t i = shape.ndim - 1; i >= 0; --i) {
    strides[static_cast<std::size_t>(i)] = stride;
    stride *=
        shape.sizes[static_cast<std::size_t>(i)] > 1 ? shape.sizes[static_cast<std::size_t>(i)] : 1;
  }
  TensorHandle handle = nullptr;
  const bool cuda = like.device.type == 2;
  require(torch().aoti_torch_empty_strided(shape.ndim, shape.sizes.data(), strides.data(), dtype,
                                           cuda ? types().cuda : types().cpu,
                                           cuda ? like.device.index : -1, &handle),
          "allocation");
  return Tensor(handle);
}

Tensor absent(const halfbyte_tensor& like, std::size_t slot, ScalarType type) {
  constexpr std::size_t kSlots = 6;
  constexpr std::size_t kTypes = 4;
  constexpr std::size_t kDevices = 65;  // the CPU and 64 GPUs
  // Never freed: torch may be gone when the process ends.
  static std::array<std::atomic<TensorHandle>, kDevices * kTypes * kSlots> made{};
  const std::size_t device =
      like.device.type == 2 ? 1 + static_cast<std::size_t>(like.device.index) : 0;
  const auto make = [&] { return make_tensor(like, Shape::empty(), dtype_number(type)); };
  if (device >= kDevices) return make();
  std::atomic<TensorHandle>& one =
      made[(device * kTypes + static_cast<std::size_t>(type)) * kSlots + slot];
  if (one.load(std::memory_order_acquire) == nullptr) {
    Tensor fresh = make();
    TensorHandle expected = nullptr;
    TensorHandle handle = fresh.release();
    if (!one.compare_exchange_strong(expected, handle)) fresh = Tensor(handle);
  }
  TensorHandle handle = nullptr;
  constexpr std::int64_t kSize = 0;
  constexpr std::int64_t kStride = 1;
  require(torch().aoti_torch__reinterpret_tensor(one.load(std::memory_order_acquire), 1, &kSize,
                                                 &kStride, 0, &handle),
          "tensor");
  return Tensor(handle);
}

ScalarType scalar_type(const halfbyte_tensor& like) {
  if (like.dtype.code == 4) return ScalarType::kBFloat16;
  return like.dtype.bits == 16 ? ScalarType::kFloat16 : ScalarType::kFloat32;
}

std::int32_t dtype_number(const halfbyte_tensor& like) { return dtype_number(scalar_type(like)); }

Tensor make_like(const halfbyte_tensor& like) {
  return make_tensor(like, Shape::of(like), dtype_number(like));
}

Execution::Execution(const halfbyte_tensor& x, std::int32_t scale_mode) {
  execution_.struct_size = sizeof(execution_);
  const torch_abi::Functions& t = torch();
  if (x.device.type != 2) {
    std::uint32_t threads = 0;
    require(t.torch_get_num_threads(&threads), "number of threads");
    execution_.num_threads = static_cast<std::int32_t>(threads);
    return;
  }
  require(t.aoti_torch_get_current_cuda_stream(x.device.index, &execution_.stream), "stream");
  make_workspace(x, halfbyte_workspace_bytes(scale_mode));
}

void Execution::make_workspace(const halfbyte_tensor& x, std::uint64_t bytes) {
  if (bytes == 0) return;
  Shape shape;
  shape.add(static_cast<std::int64_t>(bytes));
  workspace_ = make_tensor(x, shape, dtype_number(ScalarType::kUInt8));
  execution_.workspace = workspace_.read("workspace", "workspace")->data;
  execution_.workspace_bytes = bytes;
}

}  // namespace halfbyte::bindings
