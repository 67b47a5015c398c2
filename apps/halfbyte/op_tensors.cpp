#include "apps/halfbyte/op_tensors.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "apps/halfbyte/device_copy.h"

namespace halfbyte::app {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

void OwnedTensor::Free::operator()(std::byte* address) const {
  if (device == kHost) {
    std::free(address);
  } else {
    device_free(address);
  }
}

std::size_t OwnedTensor::size_bytes() const {
  return static_cast<std::size_t>(view_.numel() * base::dtype_bytes(view_.dtype));
}

base::Result<OwnedTensor> OwnedTensor::create(base::DType dtype,
                                              std::span<const std::int64_t> shape,
                                              base::Device device) {
  OwnedTensor tensor;
  tensor.view_ = base::TensorView(nullptr, dtype, shape, device);
  const std::size_t bytes = std::max(kAlignment, tensor.size_bytes());
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (device == kHost) {
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, rounded);
    tensor.memory_ = {memory, Free{device}};
  } else {
    const base::Result<void*> memory = device_allocate(rounded);
    if (!memory.ok()) return memory.status();
    tensor.memory_ = {static_cast<std::byte*>(memory.value()), Free{device}};
    const std::vector<std::byte> zeros(rounded);
    HALFBYTE_RETURN_IF_ERROR(copy_to_device(tensor.memory_.get(), zeros.data(), rounded));
  }
  tensor.view_.data = tensor.memory_.get();
  return tensor;
}

base::Result<OwnedTensor> OwnedTensor::copy_of(const io::SafetensorsEntry& entry,
                                               base::Device device) {
  const auto dtype = io::computed_dtype(entry.dtype);
  if (!dtype) {
    return base::invalid_argument(entry.name, "a type that operators take (F32, F16, BF16, U8, ..)",
                                  std::string(io::dtype_name(entry.dtype)));
  }
  std::vector<std::int64_t> shape = entry.shape;
  if (shape.size() > base::kMaxDims) {
    return base::invalid_argument(entry.name,
                                  "at most " + std::to_string(base::kMaxDims) + " dimensions",
                                  std::to_string(shape.size()));
  }
  if (entry.dtype == io::SafetensorsDType::kF4) {
    if (shape.empty() || shape.back() % 2 != 0) {
      return base::invalid_argument(entry.name, "an even last dimension of F4",
                                    io::short_shape(shape));
    }
    shape.back() /= 2;
  }
  base::Result<OwnedTensor> tensor = create(*dtype, shape, device);
  if (!tensor.ok() || entry.size_bytes() == 0) return tensor;
  const auto bytes = static_cast<std::size_t>(entry.size_bytes());
  if (device == kHost) {
    std::memcpy(tensor.value().memory_.get(), entry.data, bytes);
  } else {
    HALFBYTE_RETURN_IF_ERROR(copy_to_device(tensor.value().memory_.get(), entry.data, bytes));
  }
  return tensor;
}

base::Result<OwnedTensor> OwnedTensor::to_host() const {
  const std::span<const std::int64_t> shape(view_.shape.data(),
                                            static_cast<std::size_t>(view_.ndim));
  base::Result<OwnedTensor> copy = create(view_.dtype, shape, kHost);
  if (!copy.ok()) return copy;
  if (view_.device == kHost) {
    std::memcpy(copy.value().memory_.get(), memory_.get(), size_bytes());
  } else {
    HALFBYTE_RETURN_IF_ERROR(copy_to_host(copy.value().memory_.get(), memory_.get(), size_bytes()));
  }
  return copy;
}

}  // namespace halfbyte::app
