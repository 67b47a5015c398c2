#include <cublasLt.h>
#include <dlfcn.h>

#include <mutex>
#include <string>

#include "halfbyte/ops/gemm/gemm_cublaslt.h"

namespace halfbyte::ops::cublaslt {
namespace {

struct Library {
  base::Status status;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
};

constexpr int kMajor = CUBLAS_VER_MAJOR;
constexpr std::uint32_t kGemmAlignment = 256;

Library load() {
  Library library;
  const std::string name = "libcublasLt.so." + std::to_string(kMajor);
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    (void)(library.status = base::unsupported(std::string("cuBLASLt: ") + dlerror()));
    return library;
  }
  const auto find = [&](auto& function, const char* symbol) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, symbol));
    if (function != nullptr) return;
    (void)(library.status = base::unsupported(name + " has no " + symbol));
  };
  find(library.create, "cublasLtCreate");
  find(library.matmul, "cublasLtMatmul");
  find(library.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(library.desc_create, "cublasLtMatmulDescCreate");
  find(library.desc_set, "cublasLtMatmulDescSetAttribute");
  find(library.desc_destroy, "cublasLtMatmulDescDestroy");
  find(library.layout_create, "cublasLtMatrixLayoutCreate");
  find(library.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(library.preference_create, "cublasLtMatmulPreferenceCreate");
  find(library.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(library.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  return library;
}

const Library& library() {
  static const Library loaded = load();
  return loaded;
}

// One a process and device; never destroyed, as the context may be gone by then.
base::Result<cublasLtHandle_t> handle_of_device() {
  constexpr int kMostDevices = 64;
  static std::mutex mutex;
  static cublasLtHandle_t handles[kMostDevices] = {};
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kMostDevices)
    return base::unsupported("cuBLASLt: no device");
  const std::lock_guard<std::mutex> lock(mutex);
  if (handles[device] == nullptr && library().create(&handles[device]) != CUBLAS_STATUS_SUCCESS) {
    handles[device] = nullptr;
    return base::Status(base::StatusCode::kCuda, "cublasLtCreate failed");
  }
  return handles[device];
}

cudaDataType_t cuda_type(base::DType dtype) {
  return dtype == base::DType::kBF16  ? CUDA_R_16BF
         : dtype == base::DType::kF16 ? CUDA_R_16F
                                      : CUDA_R_32F;
}

cudaDataType_t cuda_type(Input input) {
  switch (input) {
    case Input::kBF16:
      return CUDA_R_16BF;
    case Input::kF16:
      return CUDA_R_16F;
    case Input::kE4m3:
      return CUDA_R_8F_E4M3;
    case Input::kNvfp4:
      return CUDA_R_4F_E2M1;
  }
  return CUDA_R_16BF;
}

// The largest power of two, up to kGemmAlignment, that the address is a multiple of.
std::uint32_t alignment_of(const void* address) {
  std::uint32_t alignment = kGemmAlignment;
  while (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) alignment /= 2;
  return alignment;
}

// What cuBLASLt needs to hear of a product; destroyed whatever happened.
struct Descriptions {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;

  Descriptions() = default;
  Descriptions(const Descriptions&) = delete;
  Descriptions& operator=(const Descriptions&) = delete;
  ~Descriptions() {
    if (preference != nullptr) library().preference_destroy(preference);
    for (cublasLtMatrixLayout_t layout : {a, b, d}) {
      if (layout != nullptr) library().layout_destroy(layout);
    }
    if (operation != nullptr) library().desc_destroy(operation);
  }
};

// Column by column: D^T[n, m] = (B^T[k, n])^T * A^T[k, m]; A and B change places.
cublasStatus_t describe(const Matmul& problem, Descriptions& all) {
  const Library& lt = library();
  cublasStatus_t status = lt.desc_create(&all.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const auto keep = [&status](cublasStatus_t result) {
    if (status == CUBLAS_STATUS_SUCCESS) status = result;
  };
  const auto set = [&](cublasLtMatmulDescAttributes_t what, const auto& value) {
    keep(lt.desc_set(all.operation, what, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(CUBLASLT_MATMUL_DESC_POINTER_MODE,
      problem.alpha != nullptr ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST);
  if (problem.a_scales != nullptr) {
    const cublasLtMatmulMatrixScale_t mode = problem.input == Input::kNvfp4
                                                 ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3
                                                 : CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, problem.b_scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, problem.a_scales);
  }
  const auto n = static_cast<std::uint64_t>(problem.n), m = static_cast<std::uint64_t>(problem.m);
  const auto k = static_cast<std::uint64_t>(problem.k);
  keep(lt.layout_create(&all.a, cuda_type(problem.input), k, n, problem.k));
  keep(lt.layout_create(&all.b, cuda_type(problem.input), k, m, problem.k));
  keep(lt.layout_create(&all.d, cuda_type(problem.output), n, m, problem.stride));
  keep(lt.preference_create(&all.preference));
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    keep(lt.preference_set(all.preference, what, &value, sizeof value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(problem.b));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(problem.a));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(problem.d));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(problem.d));
  return status;
}

cublasStatus_t run(const Matmul& problem, cublasLtHandle_t handle, void* stream) {
  const Library& lt = library();
  Descriptions all;
  cublasStatus_t status = describe(problem, all);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  status = lt.heuristic(handle, all.operation, all.a, all.b, all.d, all.d, all.preference, 1,
                        &found, &count);
  if (status == CUBLAS_STATUS_SUCCESS && count == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  static constexpr float kOneAndZero[2] = {1.0f, 0.0f};
  const float* alpha = problem.alpha != nullptr ? problem.alpha : kOneAndZero;
  return lt.matmul(handle, all.operation, alpha, problem.b, all.a, problem.a, all.b, alpha + 1,
                   problem.d, all.d, problem.d, all.d, &found.algo, problem.workspace,
                   kWorkspaceBytes, static_cast<cudaStream_t>(stream));
}

base::Status status_of(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return {base::StatusCode::kCuda, "cuBLASLt: status " + std::to_string(static_cast<int>(status))};
}

}  // namespace

base::Status available() { return library().status; }

base::Status matmul(const Matmul& problem, void* stream) {
  HALFBYTE_RETURN_IF_ERROR(available());
  const base::Result<cublasLtHandle_t> handle = handle_of_device();
  if (!handle.ok()) return handle.status();
  return status_of(run(problem, handle.value(), stream));
}

base::Status describes(const Matmul& problem) {
  HALFBYTE_RETURN_IF_ERROR(available());
  Descriptions all;
  return status_of(describe(problem, all));
}

}  // namespace halfbyte::ops::cublaslt
