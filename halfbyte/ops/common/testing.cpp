#include "halfbyte/ops/common/testing.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "halfbyte/base/cuda_device.h"
#include "halfbyte/numerics/half_types.h"

#ifdef HALFBYTE_WITH_CUDA
#include <cuda_runtime.h>
#endif

namespace halfbyte::ops::testing {

using base::Backend;
using base::Device;
using base::DType;
using base::Execution;
using base::Status;
using base::TensorView;

namespace {

std::string hex(std::uint32_t bits, std::int64_t bytes) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%0*X", static_cast<int>(2 * bytes), bits);
  return text;
}

std::uint32_t read_bits(const std::byte* p, std::int64_t bytes) {
  std::uint32_t bits = 0;  // little-endian, as every machine halfbyte runs on
  std::memcpy(&bits, p, static_cast<std::size_t>(bytes));
  return bits;
}

bool is_nan_bits(DType dtype, std::uint32_t bits) {
  if (dtype == DType::kF32) return (bits & 0x7FFFFFFFu) > 0x7F800000u;
  if (dtype == DType::kF16) return (bits & 0x7FFFu) > 0x7C00u;
  return dtype == DType::kBF16 && (bits & 0x7FFFu) > 0x7F80u;
}

}  // namespace

TestTensor::TestTensor(DType dtype, std::vector<std::int64_t> shape,
                       std::vector<std::int64_t> strides, std::int64_t offset_elems)
    : dtype_(dtype), shape_(std::move(shape)), strides_(std::move(strides)) {
  if (strides_.empty()) {
    const TensorView dense(nullptr, dtype_, shape_);
    strides_.assign(dense.strides.begin(), dense.strides.begin() + dense.ndim);
  }
  std::int64_t low = 0, high = 0, count = 1;
  for (std::size_t i = 0; i < shape_.size(); ++i) {
    const std::int64_t reach = (shape_[i] - 1) * strides_[i];
    low += std::min<std::int64_t>(reach, 0);
    high += std::max<std::int64_t>(reach, 0);
    count *= shape_[i];
  }
  if (count == 0) low = 0, high = -1;
  const std::int64_t element = base::dtype_bytes(dtype_);
  begin_ = kGuardBytes / element + offset_elems - low;
  storage_.assign(static_cast<std::size_t>((begin_ + high + 1) * element + kGuardBytes), kPoison);
}

TensorView TestTensor::view_in(std::byte* storage, Device device) const {
  return TensorView(storage + begin_ * base::dtype_bytes(dtype_), dtype_, shape_, strides_, device);
}

TensorView TestTensor::view() const {
  return view_in(const_cast<std::byte*>(storage_.data()), Device{});
}

std::string TestTensor::place_of(std::int64_t index) const {
  const TensorView all = view();
  const std::int64_t columns = shape_.back(), step = columns > 1 ? strides_.back() : 1;
  const std::vector<std::int64_t> rows = row_offsets(all);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const std::int64_t distance = index - begin_ - rows[row];
    if (distance % step == 0 && distance / step >= 0 && distance / step < columns) {
      return "[row " + std::to_string(row) + ", column " + std::to_string(distance / step) + "]";
    }
  }
  return "no element (a guard or a gap, " + std::to_string(index - begin_) + " from the first)";
}

std::string TestTensor::describe() const {
  return std::string(base::dtype_name(dtype_)) + base::shape_string(shape_) + " strides " +
         base::shape_string(strides_) + " at element " + std::to_string(begin_);
}

std::vector<std::int64_t> row_offsets(const TensorView& view) {
  std::vector<std::int64_t> offsets;
  if (view.numel() == 0) return offsets;
  std::array<std::int64_t, base::kMaxDims> index{};
  while (true) {
    std::int64_t offset = 0;
    for (int i = 0; i < view.ndim - 1; ++i) offset += index[i] * view.strides[i];
    offsets.push_back(offset);
    int i = view.ndim - 2;
    while (i >= 0 && ++index[i] == view.shape[i]) index[i--] = 0;
    if (i < 0) return offsets;
  }
}

std::uint32_t get_bits(const TensorView& view, std::int64_t offset) {
  const std::int64_t element = base::dtype_bytes(view.dtype);
  return read_bits(view.as<std::byte>() + offset * element, element);
}

void set_bits(const TensorView& view, std::int64_t offset, std::uint32_t bits) {
  const std::int64_t element = base::dtype_bytes(view.dtype);
  std::memcpy(view.as<std::byte>() + offset * element, &bits, static_cast<std::size_t>(element));
}

float get(const TensorView& view, std::int64_t offset) {
  const std::uint32_t bits = get_bits(view, offset);
  const auto half = static_cast<std::uint16_t>(bits);
  if (view.dtype == DType::kBF16) return numerics::to_float(numerics::Bf16{half});
  if (view.dtype == DType::kF16) return numerics::to_float(numerics::Fp16{half});
  return numerics::bits_float(bits);
}

void set(const TensorView& view, std::int64_t offset, float value) {
  std::uint32_t bits = numerics::float_bits(value);
  if (view.dtype == DType::kBF16) bits = numerics::bf16_from_float(value).bits;
  if (view.dtype == DType::kF16) bits = numerics::fp16_from_float(value).bits;
  set_bits(view, offset, bits);
}

std::vector<float> values(const TensorView& view) {
  std::vector<float> all;
  for (const std::int64_t row : row_offsets(view)) {
    for (std::int64_t k = 0; k < view.shape[view.ndim - 1]; ++k) all.push_back(get(view, row + k));
  }
  return all;
}

std::vector<std::uint8_t> bytes(const TensorView& view) {
  std::vector<std::uint8_t> all;
  for (const std::int64_t row : row_offsets(view)) {
    for (std::int64_t k = 0; k < view.shape[view.ndim - 1]; ++k) {
      all.push_back(static_cast<std::uint8_t>(get_bits(view, row + k)));
    }
  }
  return all;
}

void fill(const TensorView& view, const std::vector<float>& data) {
  std::size_t next = 0;
  for (const std::int64_t row : row_offsets(view)) {
    for (std::int64_t k = 0; k < view.shape[view.ndim - 1]; ++k) {
      set(view, row + k, data[next++ % data.size()]);
    }
  }
}

void TensorSet::add(const std::string& name, TestTensor tensor) {
  tensors_.insert_or_assign(name, std::move(tensor));
}

void TensorSet::add_columns(const std::string& name, const std::string& owner, std::int64_t first,
                            std::int64_t count) {
  columns_[name] = {owner, first, count};
}

TensorView TensorSet::view(const std::string& name) const {
  if (const auto slice = columns_.find(name); slice != columns_.end()) {
    TensorView whole = view(slice->second.owner);
    whole.data = whole.as<std::byte>() + slice->second.first * base::dtype_bytes(whole.dtype);
    whole.shape[whole.ndim - 1] = slice->second.count;
    return whole;
  }
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return {};
  const auto placed = placed_.find(name);
  return placed == placed_.end() ? found->second.view()
                                 : found->second.view_in(placed->second, device_);
}

void TensorSet::place(Device device, std::map<std::string, std::byte*> storage) {
  device_ = device;
  placed_ = std::move(storage);
}

std::string TensorSet::describe() const {
  std::string text;
  for (const auto& [name, tensor] : tensors_) {
    text +=
        "  " + name + ": " + tensor.describe() + (stays_on_host(name) ? " on the host\n" : "\n");
  }
  return text;
}

std::string first_difference(const TensorSet& expected, const TensorSet& actual) {
  for (const auto& [name, tensor] : expected.tensors()) {
    const TestTensor& other = actual.tensors().at(name);
    if (tensor.storage() == other.storage()) continue;
    // The eight bytes of an i64 as two words.
    const std::int64_t element = std::min<std::int64_t>(base::dtype_bytes(tensor.dtype()), 4);
    const std::int64_t words = base::dtype_bytes(tensor.dtype()) / element;
    const auto count = static_cast<std::int64_t>(tensor.storage().size()) / element;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t a = read_bits(tensor.storage().data() + i * element, element);
      const std::uint32_t b = read_bits(other.storage().data() + i * element, element);
      if (a == b || (is_nan_bits(tensor.dtype(), a) && is_nan_bits(tensor.dtype(), b))) continue;
      return name + " at " + tensor.place_of(i / words) + ": expected " + hex(a, element) +
             ", got " + hex(b, element);
    }
  }
  return "";
}

Runner cpu_runner(std::string name, Execution execution) {
  return {std::move(name), [execution](TensorSet& set, const Operation& operation) {
            return operation(set, execution);
          }};
}

Runner reference_runner() {
  Execution execution;
  execution.backend = Backend::kReference;
  return cpu_runner("reference", execution);
}

std::vector<Runner> cpu_runners() {
  std::vector<Runner> runners;
  for (const base::CpuLevel level : base::available_cpu_levels()) {
    if (level == base::CpuLevel::kReference) continue;
    for (const int threads : {1, 2, 3}) {
      runners.push_back(
          cpu_runner(std::string(base::cpu_level_name(level)) + " x" + std::to_string(threads),
                     {.backend = Backend::kCpu, .num_threads = threads, .cpu_level = level}));
    }
  }
  return runners;
}

#ifdef HALFBYTE_WITH_CUDA

namespace {

// Device memory that grows as cases need it, and a stream that does not wait for the default one.
struct CudaArena {
  std::byte* memory = nullptr;
  std::size_t capacity = 0;
  cudaStream_t stream = nullptr;

  ~CudaArena() {
    cudaFree(memory);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

Status cuda_error(const char* what, cudaError_t error) {
  return {base::StatusCode::kCuda, std::string(what) + ": " + cudaGetErrorString(error)};
}

#define RETURN_IF_CUDA_ERROR(call) \
  if (const cudaError_t error = (call); error != cudaSuccess) return cuda_error(#call, error)

Status replay(CudaArena& arena, const std::function<Status()>& launch) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(arena.stream, cudaStreamCaptureModeGlobal));
  const Status launched = launch();
  RETURN_IF_CUDA_ERROR(cudaStreamEndCapture(arena.stream, &graph));
  if (launched.ok()) {
    RETURN_IF_CUDA_ERROR(cudaGraphInstantiate(&executable, graph, 0));
    RETURN_IF_CUDA_ERROR(cudaGraphLaunch(executable, arena.stream));
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(arena.stream));
    RETURN_IF_CUDA_ERROR(cudaGraphExecDestroy(executable));
  }
  RETURN_IF_CUDA_ERROR(cudaGraphDestroy(graph));
  return launched;
}

Status run_on_cuda(CudaArena& arena, bool in_graph, TensorSet& set, const Operation& operation) {
  constexpr std::size_t kSlot = 256;  // a multiple of every alignment that a kernel looks for
  std::vector<std::byte> staging(kSlot, kPoison);  // the first slot: the workspace
  std::map<std::string, std::size_t> offsets;
  for (const auto& [name, tensor] : set.tensors()) {
    if (set.stays_on_host(name)) continue;
    offsets[name] = staging.size();
    staging.insert(staging.end(), tensor.storage().begin(), tensor.storage().end());
    staging.resize((staging.size() + kSlot - 1) / kSlot * kSlot, kPoison);
  }
  if (arena.stream == nullptr) {
    RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&arena.stream, cudaStreamNonBlocking));
  }
  if (arena.capacity < staging.size()) {
    RETURN_IF_CUDA_ERROR(cudaFree(arena.memory));
    arena.capacity = 2 * staging.size();
    RETURN_IF_CUDA_ERROR(cudaMalloc(reinterpret_cast<void**>(&arena.memory), arena.capacity));
  }
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(arena.memory, staging.data(), staging.size(),
                                       cudaMemcpyHostToDevice, arena.stream));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(arena.stream));

  std::map<std::string, std::byte*> placed;
  for (const auto& [name, offset] : offsets) placed[name] = arena.memory + offset;
  set.place({base::DeviceType::kCuda, 0}, placed);
  Execution execution;
  execution.backend = Backend::kCuda;
  execution.stream = arena.stream;
  execution.workspace = arena.memory;
  execution.workspace_bytes = base::kComputedWorkspaceBytes;
  // In a graph also launched programmatically: of two operators the second waits for the first.
  execution.programmatic_launch = execution.constant_weights = in_graph;
  const auto launch = [&] { return operation(set, execution); };
  const Status status = in_graph ? replay(arena, launch) : launch();
  set.place({}, {});

  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(staging.data(), arena.memory, staging.size(),
                                       cudaMemcpyDeviceToHost, arena.stream));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(arena.stream));
  for (const auto& [name, offset] : offsets) {
    std::vector<std::byte>& storage = set.tensors().at(name).storage();
    std::memcpy(storage.data(), staging.data() + offset, storage.size());
  }
  const auto workspace_end = staging.begin() + base::kComputedWorkspaceBytes;
  if (std::any_of(workspace_end, staging.begin() + kSlot,
                  [](std::byte b) { return b != kPoison; })) {
    return {base::StatusCode::kInternal, "bytes past the workspace were written"};
  }
  return status;
}

}  // namespace

std::vector<Runner> cuda_runners() {
  static const bool available = [] {
    const auto devices = base::cuda_devices();
    return devices.ok() && !devices.value().empty();
  }();
  if (!available) return {};
  static const auto arena = std::make_shared<CudaArena>();  // one for all runners of the program
  std::vector<Runner> runners;
  for (const bool in_graph : {false, true}) {
    runners.push_back(
        {in_graph ? "cuda graph" : "cuda stream", [=](TensorSet& set, const Operation& operation) {
           return run_on_cuda(*arena, in_graph, set, operation);
         }});
  }
  return runners;
}

std::byte* cuda_workspace(std::size_t bytes) {
  static std::byte* memory = nullptr;
  static std::size_t capacity = 0;
  if (bytes > capacity) {
    cudaFree(memory);
    memory = nullptr;
    capacity = 2 * bytes;
    if (cudaMalloc(reinterpret_cast<void**>(&memory), capacity) != cudaSuccess) memory = nullptr;
    // The tests' stream does not wait for the default one, which this is on.
    if (memory != nullptr && (cudaMemset(memory, 0xFF, capacity) != cudaSuccess ||
                              cudaDeviceSynchronize() != cudaSuccess)) {
      memory = nullptr;
    }
  }
  return memory;
}

#else

std::vector<Runner> cuda_runners() { return {}; }
std::byte* cuda_workspace(std::size_t) { return nullptr; }

#endif

}  // namespace halfbyte::ops::testing
