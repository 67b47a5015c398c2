// bench_device.h on the CUDA runtime.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <utility>

#include "apps/halfbyte/bench_compare_cuda.h"
#include "apps/halfbyte/bench_device.h"
#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/floor_cuda.h"

namespace halfbyte::app {
namespace {

using base::Result;
using base::Status;

Status checked(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  return {base::StatusCode::kCuda, std::string(what) + ": " + cudaGetErrorString(error)};
}

struct Graph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  int calls = 0;
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  Graph(Graph&& other) noexcept
      : graph(std::exchange(other.graph, nullptr)),
        executable(std::exchange(other.executable, nullptr)),
        calls(other.calls) {}
  Graph& operator=(Graph&&) = delete;
  ~Graph() {
    if (executable != nullptr) (void)cudaGraphExecDestroy(executable);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
  }
};

Result<Graph> capture(cudaStream_t stream, const DeviceWork& work, int calls) {
  Graph graph;
  graph.calls = calls;
  HALFBYTE_RETURN_IF_ERROR(checked("cudaStreamBeginCapture",
                                   cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal)));
  Status enqueued;
  for (int call = 0; call < calls && enqueued.ok(); ++call) enqueued = work(stream, call);
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph.graph);
  HALFBYTE_RETURN_IF_ERROR(enqueued);
  HALFBYTE_RETURN_IF_ERROR(checked("cudaStreamEndCapture", ended));
  HALFBYTE_RETURN_IF_ERROR(
      checked("cudaGraphInstantiate", cudaGraphInstantiate(&graph.executable, graph.graph, 0)));
  return Result<Graph>(std::move(graph));
}

}  // namespace

Status copy_on_device(void* to, const void* from, std::size_t bytes) {
  return checked("cudaMemcpy", cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice));
}

Status set_on_device(void* address, std::byte value, std::size_t bytes) {
  return checked("cudaMemset", cudaMemset(address, std::to_integer<int>(value), bytes));
}

Result<bool> equal_on_device(const void* a, const void* b, std::size_t bytes) {
  HALFBYTE_RETURN_IF_ERROR(device_synchronize());
  const Result<void*> flag = device_allocate(sizeof(int));
  if (!flag.ok()) return flag.status();
  int differ = 0;
  Status status = set_on_device(flag.value(), std::byte{0}, sizeof(int));
  if (status.ok()) status = compare_on_device(a, b, bytes, static_cast<int*>(flag.value()));
  if (status.ok()) status = copy_to_host(&differ, flag.value(), sizeof(int));
  device_free(flag.value());
  HALFBYTE_RETURN_IF_ERROR(status);
  return differ == 0;
}

struct DeviceTimer::State {
  cudaStream_t stream = nullptr;
  cudaEvent_t start = nullptr;
  cudaEvent_t stop = nullptr;
  std::span<const std::byte> elsewhere;  // three times the L2

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (start != nullptr) (void)cudaEventDestroy(start);
    if (stop != nullptr) (void)cudaEventDestroy(stop);
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
    if (elsewhere.data() != nullptr) device_free(const_cast<std::byte*>(elsewhere.data()));
  }

  Status create() {
    HALFBYTE_RETURN_IF_ERROR(
        checked("cudaStreamCreate", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)));
    HALFBYTE_RETURN_IF_ERROR(checked("cudaEventCreate", cudaEventCreate(&start)));
    HALFBYTE_RETURN_IF_ERROR(checked("cudaEventCreate", cudaEventCreate(&stop)));
    constexpr std::size_t kUnknown = 64 << 20;
    const std::size_t l2 = device_l2_bytes();
    const std::size_t bytes = 3 * (l2 > 0 ? l2 : kUnknown);
    const Result<void*> memory = device_allocate(bytes);
    if (!memory.ok()) return memory.status();
    elsewhere = {static_cast<const std::byte*>(memory.value()), bytes};
    HALFBYTE_RETURN_IF_ERROR(set_on_device(memory.value(), std::byte{0x5A}, bytes));
    return device_synchronize();
  }

  Status empty_l2() {
    int device = 0, multiprocessors = 1;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    return cuda_stream_floor({&elsewhere, 1}, {}, {multiprocessors * 8, 256, false, false}, stream);
  }

  // One replay, in microseconds a call. The device is still busy reading elsewhere when the graph
  // is launched: the time from event to event has no gap for the host in it.
  Status replay(const Graph& graph, double& us) {
    HALFBYTE_RETURN_IF_ERROR(empty_l2());
    HALFBYTE_RETURN_IF_ERROR(checked("cudaEventRecord", cudaEventRecord(start, stream)));
    HALFBYTE_RETURN_IF_ERROR(checked("cudaGraphLaunch", cudaGraphLaunch(graph.executable, stream)));
    HALFBYTE_RETURN_IF_ERROR(checked("cudaEventRecord", cudaEventRecord(stop, stream)));
    HALFBYTE_RETURN_IF_ERROR(checked("cudaEventSynchronize", cudaEventSynchronize(stop)));
    float milliseconds = 0;
    HALFBYTE_RETURN_IF_ERROR(
        checked("cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, start, stop)));
    us = static_cast<double>(milliseconds) * 1000 / graph.calls;
    return {};
  }

  // The graph that fills the budget.
  Result<Graph> graph_of(const DeviceWork& work, double budget_us) {
    // Once outside of a graph: the kernels are loaded before anything is captured.
    HALFBYTE_RETURN_IF_ERROR(work(stream, 0));
    Result<Graph> once = capture(stream, work, 1);
    if (!once.ok()) return once;
    double us = 0;
    for (int i = 0; i < 2; ++i) HALFBYTE_RETURN_IF_ERROR(replay(once.value(), us));
    return capture(stream, work,
                   static_cast<int>(std::clamp<double>(budget_us / std::max(us, 0.01), 1,
                                                       DeviceTimer::kMostCalls)));
  }
};

DeviceTimer::DeviceTimer(std::unique_ptr<State> state) : state_(std::move(state)) {}
DeviceTimer::~DeviceTimer() = default;
DeviceTimer::DeviceTimer(DeviceTimer&&) noexcept = default;
DeviceTimer& DeviceTimer::operator=(DeviceTimer&&) noexcept = default;

Result<DeviceTimer> DeviceTimer::create() {
  auto state = std::make_unique<State>();
  HALFBYTE_RETURN_IF_ERROR(state->create());
  return DeviceTimer(std::move(state));
}

Result<std::vector<Timing>> DeviceTimer::time(std::span<const DeviceWork> candidates,
                                              double budget_us, int replays) {
  HALFBYTE_RETURN_IF_ERROR(device_synchronize());  // the fills, on another stream
  std::vector<Graph> graphs;
  for (const DeviceWork& work : candidates) {
    Result<Graph> graph = state_->graph_of(work, budget_us);
    if (!graph.ok()) return graph.status();
    graphs.push_back(std::move(graph).value());
  }
  constexpr int kWarmUp = 3;
  std::vector<std::vector<double>> times(candidates.size());
  for (int round = -kWarmUp; round < replays; ++round) {
    for (std::size_t i = 0; i < graphs.size(); ++i) {
      double us = 0;
      HALFBYTE_RETURN_IF_ERROR(state_->replay(graphs[i], us));
      if (round >= 0) times[i].push_back(us);
    }
  }
  std::vector<Timing> result;
  for (std::vector<double>& of_one : times) result.push_back(timing_of(std::move(of_one)));
  return result;
}

}  // namespace halfbyte::app
