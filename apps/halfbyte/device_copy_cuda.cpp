// device_copy.h on the CUDA runtime.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <vector>

#include "apps/halfbyte/device_copy.h"
#include "halfbyte/base/cuda_device.h"

namespace halfbyte::app {
namespace {

using base::Result;
using base::Status;

Status checked(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  return {base::StatusCode::kCuda, std::string(what) + ": " + cudaGetErrorString(error)};
}

struct Stream {
  cudaStream_t handle = nullptr;
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (handle != nullptr) cudaStreamDestroy(handle);
  }
};
struct Event {
  cudaEvent_t handle = nullptr;
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() {
    if (handle != nullptr) cudaEventDestroy(handle);
  }
};
struct Graph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
};

Status capture(cudaStream_t stream, const std::function<Status(void*, int)>& enqueue, int calls,
               Graph& graph) {
  HALFBYTE_RETURN_IF_ERROR(checked("cudaStreamBeginCapture",
                                   cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal)));
  Status enqueued;
  for (int call = 0; call < calls && enqueued.ok(); ++call) enqueued = enqueue(stream, call);
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph.graph);
  HALFBYTE_RETURN_IF_ERROR(enqueued);
  HALFBYTE_RETURN_IF_ERROR(checked("cudaStreamEndCapture", ended));
  return checked("cudaGraphInstantiate", cudaGraphInstantiate(&graph.executable, graph.graph, 0));
}

}  // namespace

Status require_cuda() { return base::cuda_devices().status(); }

Result<void*> device_allocate(std::size_t bytes) {
  void* address = nullptr;
  HALFBYTE_RETURN_IF_ERROR(checked("cudaMalloc", cudaMalloc(&address, bytes)));
  return address;
}

void device_free(void* address) { cudaFree(address); }

Status copy_to_device(void* device, const void* host, std::size_t bytes) {
  return checked("cudaMemcpy", cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
}

Status copy_to_host(void* host, const void* device, std::size_t bytes) {
  return checked("cudaMemcpy", cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

Status device_synchronize() { return checked("cudaDeviceSynchronize", cudaDeviceSynchronize()); }

std::size_t device_l2_bytes() {
  int bytes = 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, 0) != cudaSuccess) return 0;
  return static_cast<std::size_t>(bytes);
}

Result<double> time_on_device(const std::function<Status(void*, int)>& enqueue, int calls,
                              int replays) {
  Stream stream;
  HALFBYTE_RETURN_IF_ERROR(checked("cudaStreamCreate", cudaStreamCreate(&stream.handle)));
  Graph graph;
  HALFBYTE_RETURN_IF_ERROR(capture(stream.handle, enqueue, calls, graph));
  Event start, stop;
  HALFBYTE_RETURN_IF_ERROR(checked("cudaEventCreate", cudaEventCreate(&start.handle)));
  HALFBYTE_RETURN_IF_ERROR(checked("cudaEventCreate", cudaEventCreate(&stop.handle)));
  constexpr int kWarmUp = 3;
  std::vector<double> times;
  for (int replay = -kWarmUp; replay < replays; ++replay) {
    HALFBYTE_RETURN_IF_ERROR(
        checked("cudaEventRecord", cudaEventRecord(start.handle, stream.handle)));
    HALFBYTE_RETURN_IF_ERROR(
        checked("cudaGraphLaunch", cudaGraphLaunch(graph.executable, stream.handle)));
    HALFBYTE_RETURN_IF_ERROR(
        checked("cudaEventRecord", cudaEventRecord(stop.handle, stream.handle)));
    HALFBYTE_RETURN_IF_ERROR(checked("cudaEventSynchronize", cudaEventSynchronize(stop.handle)));
    float milliseconds = 0;
    HALFBYTE_RETURN_IF_ERROR(checked(
        "cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, start.handle, stop.handle)));
    if (replay >= 0) times.push_back(static_cast<double>(milliseconds) * 1000 / calls);
  }
  std::nth_element(times.begin(), times.begin() + replays / 2, times.end());
  return times[static_cast<std::size_t>(replays / 2)];
}

}  // namespace halfbyte::app
