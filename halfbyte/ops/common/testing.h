// Test support of the operator rooms (not installed): tensors whose surroundings are watched, and
// the implementations of an operator behind one interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "halfbyte/base/execution.h"
#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"

namespace halfbyte::ops::testing {

// What storage holds before anything is written: a finite number in every float type, so that an
// output byte that nobody wrote is seen, as is a write where no element lies.
inline constexpr std::byte kPoison{0xAB};
inline constexpr std::int64_t kGuardBytes = 64;

// A strided tensor in storage of its own, with guards before and after. Copies are independent.
class TestTensor {
 public:
  // No strides: dense. `offset_elems` moves the first element off the 64-byte guard's end, which
  // gives pointers aligned to their element alone. Strides may be negative or leave gaps.
  TestTensor(base::DType dtype, std::vector<std::int64_t> shape,
             std::vector<std::int64_t> strides = {}, std::int64_t offset_elems = 0);

  base::DType dtype() const { return dtype_; }
  std::vector<std::byte>& storage() { return storage_; }
  const std::vector<std::byte>& storage() const { return storage_; }

  // The tensor in its own storage, or in a copy of that storage elsewhere.
  base::TensorView view() const;
  base::TensorView view_in(std::byte* storage, base::Device device) const;

  // Where element `index` of the storage lies: "[2, 5]", or "no element (a guard or a gap)".
  std::string place_of(std::int64_t index) const;
  std::string describe() const;

 private:
  base::DType dtype_;
  std::vector<std::int64_t> shape_, strides_;
  std::int64_t begin_ = 0;  // element of the storage that is element 0 of the tensor
  std::vector<std::byte> storage_;
};

// The element offset of each row of a view [.., H], in row-major order of the leading dimensions.
std::vector<std::int64_t> row_offsets(const base::TensorView& view);
// Elements of float tensors on the host, by element offset from view.data.
float get(const base::TensorView& view, std::int64_t offset);
void set(const base::TensorView& view, std::int64_t offset, float value);
std::uint32_t get_bits(const base::TensorView& view, std::int64_t offset);
void set_bits(const base::TensorView& view, std::int64_t offset, std::uint32_t bits);
// All elements in order, whatever the strides.
std::vector<float> values(const base::TensorView& view);
std::vector<std::uint8_t> bytes(const base::TensorView& view);
// `data` to all elements in order; a shorter list repeats.
void fill(const base::TensorView& view, const std::vector<float>& data);

// The named arguments of a call.
class TensorSet {
 public:
  void add(const std::string& name, TestTensor tensor);
  // The columns [first, first + count) of tensor `owner` under a name of their own.
  void add_columns(const std::string& name, const std::string& owner, std::int64_t first,
                   std::int64_t count);
  // A tensor that stays in host memory when the others go to a device.
  void keep_on_host(const std::string& name) { host_[name] = true; }
  TensorSet clone() const { return *this; }

  // An absent view if there is no such tensor.
  base::TensorView view(const std::string& name) const;
  std::map<std::string, TestTensor>& tensors() { return tensors_; }
  const std::map<std::string, TestTensor>& tensors() const { return tensors_; }
  bool stays_on_host(const std::string& name) const { return host_.count(name) != 0; }
  // Makes view() point into copies of the storage on a device; none: back to the host.
  void place(base::Device device, std::map<std::string, std::byte*> storage);
  std::string describe() const;

 private:
  struct Columns {
    std::string owner;
    std::int64_t first, count;
  };
  std::map<std::string, TestTensor> tensors_;
  std::map<std::string, Columns> columns_;
  std::map<std::string, bool> host_;
  base::Device device_;
  std::map<std::string, std::byte*> placed_;
};

// The first difference of two sets over their whole storage, guards, gaps and inputs included;
// empty: none. Floats are compared by their bits, except that any NaN equals any other.
std::string first_difference(const TensorSet& expected, const TensorSet& actual);

using Operation = std::function<base::Status(const TensorSet&, const base::Execution&)>;

// One way to run an operation on a set, leaving what it wrote in the set's host storage.
struct Runner {
  std::string name;
  std::function<base::Status(TensorSet&, const Operation&)> run;
};

Runner cpu_runner(std::string name, base::Execution execution);
Runner reference_runner();
// Every CPU level of this machine but the reference, with 1, 2 and 3 threads.
std::vector<Runner> cpu_runners();
// On device 0, launched on a stream and replayed from a graph. Empty: no CUDA device.
std::vector<Runner> cuda_runners();
// Device memory for an operation that asks for a workspace, 256-byte aligned, with anything in it.
// It grows outside of a capture: cuda_runners' first one never captures.
std::byte* cuda_workspace(std::size_t bytes);

}  // namespace halfbyte::ops::testing
