// Tensors that own their memory, on the host or on CUDA device 0.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/io/safetensors_header.h"

namespace halfbyte::app {

inline constexpr base::Device kHost{};
inline constexpr base::Device kCudaDevice{base::DeviceType::kCuda, 0};

class OwnedTensor {
 public:
  // Contiguous, zeroed, aligned to 64 bytes.
  static base::Result<OwnedTensor> create(base::DType dtype, std::span<const std::int64_t> shape,
                                          base::Device device);
  // A copy of a file's tensor: FP8 and E8M0 as bytes, F4 as U8 of half the last dimension. Errors
  // (kInvalidArgument) name the tensor: a type that no operator takes, too many dimensions.
  static base::Result<OwnedTensor> copy_of(const io::SafetensorsEntry& entry, base::Device device);

  base::Result<OwnedTensor> to_host() const;
  const base::TensorView& view() const { return view_; }
  std::size_t size_bytes() const;

 private:
  struct Free {
    base::Device device;
    void operator()(std::byte* address) const;
  };
  std::unique_ptr<std::byte[], Free> memory_;
  base::TensorView view_;
};

}  // namespace halfbyte::app
