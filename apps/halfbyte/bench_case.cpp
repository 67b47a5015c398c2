#include "apps/halfbyte/bench_case.h"

#include <utility>

namespace halfbyte::app {

std::string BenchShape::name() const {
  const std::string plane = std::to_string(rows) + "x" + std::to_string(columns);
  return inner == 0 ? plane : plane + "x" + std::to_string(inner);
}
namespace {

std::int64_t bytes_of(const std::vector<BenchTensor>& tensors, Role role) {
  std::int64_t bytes = 0;
  for (const BenchTensor& tensor : tensors) {
    if (tensor.role == role || tensor.role == Role::kUpdate) bytes += tensor.must_touch_bytes;
  }
  return bytes;
}

int add_tensor(std::vector<BenchTensor>& tensors, BenchTensor tensor) {
  tensor.must_touch_bytes = tensor.model.numel() * base::dtype_bytes(tensor.model.dtype);
  tensors.push_back(tensor);
  return static_cast<int>(tensors.size()) - 1;
}

}  // namespace

int BenchCase::add(Role role, base::DType dtype, std::vector<std::int64_t> shape, Fill fill) {
  return add_tensor(tensors, {role, base::TensorView(nullptr, dtype, shape), fill, 0});
}

int BenchCase::add_given(Role role, const base::TensorView& contents) {
  return add_tensor(tensors, {role, contents, Fill::kNone, 0});
}

std::int64_t BenchCase::bytes_read() const { return bytes_of(tensors, Role::kRead); }
std::int64_t BenchCase::bytes_written() const { return bytes_of(tensors, Role::kWrite); }
std::int64_t BenchCase::footprint() const {
  return bytes_read() + bytes_written() - bytes_of(tensors, Role::kUpdate);
}

}  // namespace halfbyte::app
