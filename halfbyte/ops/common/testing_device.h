// Test support: device memory. For tests of a build with CUDA.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

namespace halfbyte::ops::testing {

// Device memory, perhaps with a copy of host memory; freed at the end.
class OnDevice {
 public:
  explicit OnDevice(std::size_t bytes, const void* from = nullptr) {
    EXPECT_EQ(cudaMalloc(&data_, bytes + 256), cudaSuccess);
    if (from == nullptr) return;
    EXPECT_EQ(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
  }
  template <class T>
  explicit OnDevice(const std::vector<T>& from) : OnDevice(from.size() * sizeof(T), from.data()) {}
  ~OnDevice() { (void)cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace halfbyte::ops::testing
