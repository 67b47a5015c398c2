#include "apps/halfbyte/bench_buffers.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "apps/halfbyte/bench_device.h"
#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/op_tensors.h"
#include "halfbyte/formats/scale_layout.h"

namespace halfbyte::app {
namespace {

using base::Result;
using base::Status;

constexpr std::int64_t kAlignment = 64;

bool is_output(const BenchTensor& tensor) {
  return tensor.role == Role::kWrite || tensor.role == Role::kUpdate;
}

// `bytes` bytes that repeat `block`.
Status fill_repeated(std::byte* target, std::span<const std::byte> block, std::int64_t bytes,
                     bool on_host) {
  const auto all = static_cast<std::size_t>(bytes);
  std::size_t filled = std::min(block.size(), all);
  if (filled == 0) return {};
  if (on_host) {
    std::memcpy(target, block.data(), filled);
  } else {
    HALFBYTE_RETURN_IF_ERROR(copy_to_device(target, block.data(), filled));
  }
  while (filled < all) {
    const std::size_t more = std::min(filled, all - filled);
    if (on_host) {
      std::memcpy(target + filled, target, more);
    } else {
      HALFBYTE_RETURN_IF_ERROR(copy_on_device(target + filled, target, more));
    }
    filled += more;
  }
  return {};
}

}  // namespace

base::TensorView TensorSet::operator[](int tensor) const {
  return tensor == kAbsent ? base::TensorView() : buffers_.view(tensor, set_);
}

void FreeMemory::operator()(std::byte* address) const {
  if (on_host) {
    std::free(address);
  } else {
    device_free(address);
  }
}

Result<Buffers::Memory> Buffers::allocate(std::int64_t bytes, base::Device device) {
  const auto rounded = static_cast<std::size_t>(std::max(bytes, kAlignment));
  if (device == kHost) {
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
    if (memory == nullptr) throw std::bad_alloc();
    return Memory(memory, FreeMemory{true});
  }
  const Result<void*> memory = device_allocate(rounded);
  if (!memory.ok()) return memory.status();
  return Memory(static_cast<std::byte*>(memory.value()), FreeMemory{false});
}

Status Buffers::fill(std::size_t index, BenchData& data, std::int64_t sets, std::byte poison) {
  const BenchTensor& tensor = case_->tensors[index];
  const Slab& slab = slabs_[index];
  const bool on_host = device_ == kHost;
  std::byte* first = slab.memory.get();
  const std::int64_t all = std::max(slab.stride * sets, kAlignment);
  if (tensor.model.data == nullptr && tensor.fill == Fill::kNone) {
    if (!on_host) return set_on_device(first, poison, static_cast<std::size_t>(all));
    std::memset(first, std::to_integer<int>(poison), static_cast<std::size_t>(all));
    return {};
  }
  if (slab.bytes == 0) return {};
  const std::span<const std::byte> block =
      tensor.model.data != nullptr
          ? std::span(tensor.model.as<const std::byte>(), static_cast<std::size_t>(slab.bytes))
          : data.block(tensor.fill, tensor.model.dtype, tensor.model.numel(),
                       static_cast<unsigned>(index));
  HALFBYTE_RETURN_IF_ERROR(fill_repeated(first, block, slab.bytes, on_host));
  const auto bytes = static_cast<std::size_t>(slab.bytes);
  for (std::int64_t set = 1; set < sets; ++set) {
    std::byte* target = first + set * slab.stride;
    if (on_host) {
      std::memcpy(target, first, bytes);
    } else {
      HALFBYTE_RETURN_IF_ERROR(copy_on_device(target, first, bytes));
    }
  }
  return {};
}

Result<Buffers> Buffers::create(const BenchCase& bench_case, BenchData& data, std::int64_t sets,
                                base::Device device, std::byte poison) {
  Buffers buffers;
  buffers.case_ = &bench_case;
  buffers.device_ = device;
  for (const BenchTensor& tensor : bench_case.tensors) {
    Slab slab;
    slab.bytes = tensor.model.numel() * base::dtype_bytes(tensor.model.dtype);
    slab.stride = formats::round_up_to(slab.bytes, kAlignment);
    Result<Memory> memory = allocate(slab.stride * sets, device);
    if (!memory.ok()) return memory.status();
    slab.memory = std::move(memory).value();
    buffers.slabs_.push_back(std::move(slab));
    HALFBYTE_RETURN_IF_ERROR(buffers.fill(buffers.slabs_.size() - 1, data, sets, poison));
  }
  return buffers;
}

base::TensorView Buffers::view(int tensor, std::int64_t set) const {
  const auto index = static_cast<std::size_t>(tensor);
  base::TensorView view = case_->tensors[index].model;
  view.device = device_;
  view.data = slabs_[index].memory.get() + set * slabs_[index].stride;
  return view;
}

FloorSpans<const std::byte> Buffers::reads(std::int64_t set) const {
  FloorSpans<const std::byte> result;
  for (std::size_t i = 0; i < slabs_.size() && result.count < result.kMost; ++i) {
    const BenchTensor& tensor = case_->tensors[i];
    if (tensor.role != Role::kRead && tensor.role != Role::kUpdate) continue;
    result.spans[result.count++] = {slabs_[i].memory.get() + set * slabs_[i].stride,
                                    static_cast<std::size_t>(tensor.must_touch_bytes)};
  }
  return result;
}

FloorSpans<std::byte> Buffers::writes(std::int64_t set) const {
  FloorSpans<std::byte> result;
  for (std::size_t i = 0; i < slabs_.size() && result.count < result.kMost; ++i) {
    const BenchTensor& tensor = case_->tensors[i];
    if (!is_output(tensor)) continue;
    result.spans[result.count++] = {slabs_[i].memory.get() + set * slabs_[i].stride,
                                    static_cast<std::size_t>(tensor.must_touch_bytes)};
  }
  return result;
}

Result<bool> Buffers::equal_outputs(const Buffers& a, const Buffers& b) {
  for (std::size_t i = 0; i < a.slabs_.size(); ++i) {
    if (!is_output(a.case_->tensors[i]) || a.slabs_[i].bytes == 0) continue;
    const auto bytes = static_cast<std::size_t>(a.slabs_[i].bytes);
    const std::byte* data[2] = {a.slabs_[i].memory.get(), b.slabs_[i].memory.get()};
    if (a.device_ != kHost && b.device_ != kHost) {
      Result<bool> equal = equal_on_device(data[0], data[1], bytes);
      if (!equal.ok() || !equal.value()) return equal;
      continue;
    }
    std::vector<std::byte> copies[2];
    const base::Device devices[2] = {a.device_, b.device_};
    for (int side = 0; side < 2; ++side) {
      if (devices[side] == kHost) continue;
      copies[side].resize(bytes);
      HALFBYTE_RETURN_IF_ERROR(copy_to_host(copies[side].data(), data[side], bytes));
      data[side] = copies[side].data();
    }
    if (std::memcmp(data[0], data[1], bytes) != 0) return false;
  }
  return true;
}

}  // namespace halfbyte::app
