// From a boxed kernel's stack to the structs of halfbyte.h and back.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "halfbyte/halfbyte.h"
#include "torch_abi.h"

namespace halfbyte::bindings {

using torch_abi::TensorHandle;
using torch_abi::Value;

// HALFBYTE_INVALID_ARGUMENT: "<operator>: <argument>: expected .., got ..".
[[noreturn]] void refuse(std::string_view op, std::string_view argument,
                         const std::string& expected, const std::string& got);

// Turns a status into an exception, which torch makes a RuntimeError; what kind it was, Python asks
// last_status() for: the status of this thread's last call that failed.
void check(halfbyte_status status);
halfbyte_status last_status();

// An owned tensor, or none. view() is what the C ABI takes: null for none.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(TensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(other.release()), view_(other.view_) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    view_ = other.view_;
    return *this;
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor();

  bool given() const { return handle_ != nullptr; }
  TensorHandle release();

  // Reads the tensor's type, device, shape and strides; refuses what the library has no type for.
  const halfbyte_tensor* read(std::string_view op, const char* argument);
  const halfbyte_tensor* view() const { return given() ? &view_ : nullptr; }
  std::int64_t rows() const;  // after read(): the product of all dimensions but the last

 private:
  TensorHandle handle_ = nullptr;
  halfbyte_tensor view_{};
};

// A name of an enum's value, such as "nvfp4".
using Text = std::optional<std::string>;

// The arguments of one call, taken in the order of the schema. They are owned from here on.
class Arguments {
 public:
  explicit Arguments(const Value* stack) : next_(stack) {}
  Tensor tensor();
  Tensor optional_tensor();
  Text text();
  Text optional_text();
  bool flag() { return (*next_++ & 1) != 0; }
  std::int64_t integer() { return static_cast<std::int64_t>(*next_++); }
  double real();
  std::optional<double> optional_real();
  std::optional<std::int64_t> optional_integer();

 private:
  std::optional<Value> optional_value();
  const Value* next_;
};

// The value that `name` stands for among 0, 1, ..
std::int32_t enum_value(std::string_view op, const char* argument, const Text& name,
                        std::initializer_list<const char*> names);

enum class ScalarType { kUInt8, kFloat32, kFloat16, kBFloat16 };
std::int32_t dtype_number(ScalarType type);

// A fixed number of dimensions, for a tensor to be made.
struct Shape {
  std::array<std::int64_t, 9> sizes{};
  std::int64_t ndim = 0;
  void add(std::int64_t size) { sizes[static_cast<std::size_t>(ndim++)] = size; }
  static Shape empty();  // [0]
  // All dimensions of `like` but the last, then `last`.
  static Shape with_last(const halfbyte_tensor& like, std::int64_t last);
  static Shape of(const halfbyte_tensor& like);
};

// Uninitialised, dense, on the device of `like`.
Tensor make_tensor(const halfbyte_tensor& like, const Shape& shape, std::int32_t dtype);
// Of the type and shape of `like`, dense. float32 for a type that no operator computes with: the
// library refuses `like` then.
Tensor make_like(const halfbyte_tensor& like);
ScalarType scalar_type(const halfbyte_tensor& like);
std::int32_t dtype_number(const halfbyte_tensor& like);

// An output that a call does not give: empty, [0], on the device of `like`. Tensors of one slot
// (and type and device) share one storage of no bytes, since making that is what costs; a call
// gives each slot at most once, so its outputs share none.
Tensor absent(const halfbyte_tensor& like, std::size_t slot, ScalarType type);

// torch's current stream for `x`, or its number of threads.
class Execution {
 public:
  Execution(const halfbyte_tensor& x, std::int32_t scale_mode);
  const halfbyte_execution* get() const { return &execution_; }
  // For a call on x's device; nothing for 0 bytes.
  void make_workspace(const halfbyte_tensor& x, std::uint64_t bytes);

 private:
  halfbyte_execution execution_{};
  Tensor workspace_;
};

inline void give(Value* stack, std::size_t index, Tensor& tensor) {
  stack[index] = reinterpret_cast<Value>(tensor.release());
}

}  // namespace halfbyte::bindings
