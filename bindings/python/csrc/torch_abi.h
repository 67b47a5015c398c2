// The part of torch's stable C ABI that the operators use (torch/csrc/stable/c/shim.h and
// torch/csrc/inductor/aoti_torch/c/shim.h), declared here and looked up when the package is
// imported: no torch is needed to compile, and one binary serves every torch from 2.11 on and every
// Python. A function that returns int32_t gives 0 for success unless it says otherwise.
#pragma once

#include <cstddef>
#include <cstdint>

namespace halfbyte::torch_abi {

// A value on its way between torch's dispatcher and a boxed kernel: an int64, a bool, a double, a
// dtype's number or one of the handles below; an optional is a pointer to one on the heap, or null.
using Value = std::uint64_t;
using BoxedKernel = void (*)(Value* stack, std::uint64_t inputs, std::uint64_t outputs);

struct TensorOpaque;
struct StringOpaque;
struct LibraryOpaque;
using TensorHandle = TensorOpaque*;
using StringHandle = StringOpaque*;
using LibraryHandle = LibraryOpaque*;

// What torch calls the meaning of the values above: those of torch 2.11, which later ones keep.
inline constexpr std::uint64_t kAbiVersion = (2ULL << 56) | (11ULL << 48);

// X(result, name, (parameters)) for every function of libtorch_cpu.so ..
#define HALFBYTE_TORCH_FUNCTIONS(X)                                                               \
  X(std::int32_t, aoti_torch_get_data_ptr, (TensorHandle, void**))                                \
  X(std::int32_t, aoti_torch_get_dim, (TensorHandle, std::int64_t*))                              \
  X(std::int32_t, aoti_torch_get_sizes, (TensorHandle, std::int64_t**))                           \
  X(std::int32_t, aoti_torch_get_strides, (TensorHandle, std::int64_t**))                         \
  X(std::int32_t, aoti_torch_get_dtype, (TensorHandle, std::int32_t*))                            \
  X(std::int32_t, aoti_torch_get_device_type, (TensorHandle, std::int32_t*))                      \
  X(std::int32_t, aoti_torch_get_device_index, (TensorHandle, std::int32_t*))                     \
  X(std::int32_t, aoti_torch_delete_tensor_object, (TensorHandle))                                \
  X(std::int32_t, aoti_torch__reinterpret_tensor,                                                 \
    (TensorHandle, std::int64_t ndim, const std::int64_t* sizes, const std::int64_t* strides,     \
     std::int64_t offset, TensorHandle* out))                                                     \
  X(std::int32_t, aoti_torch_empty_strided,                                                       \
    (std::int64_t ndim, const std::int64_t* sizes, const std::int64_t* strides,                   \
     std::int32_t dtype, std::int32_t device_type, std::int32_t device_index, TensorHandle* out)) \
  X(std::int32_t, aoti_torch_library_init_impl,                                                   \
    (const char* name_space, const char* key, const char* file, std::uint32_t line,               \
     LibraryHandle* out))                                                                         \
  X(std::int32_t, torch_library_impl,                                                             \
    (LibraryHandle, const char* name, BoxedKernel, std::uint64_t abi_version))                    \
  X(std::int32_t, torch_string_length, (StringHandle, std::size_t*))                              \
  X(std::int32_t, torch_string_c_str, (StringHandle, const char**))                               \
  X(std::int32_t, torch_delete_string, (StringHandle))                                            \
  X(std::int32_t, torch_get_num_threads, (std::uint32_t*))                                        \
  X(std::int32_t, aoti_torch_device_type_cpu, ())  /* the number itself */                        \
  X(std::int32_t, aoti_torch_device_type_cuda, ()) /* likewise */                                 \
  X(std::int32_t, aoti_torch_dtype_float32, ())                                                   \
  X(std::int32_t, aoti_torch_dtype_float16, ())                                                   \
  X(std::int32_t, aoti_torch_dtype_bfloat16, ())                                                  \
  X(std::int32_t, aoti_torch_dtype_uint8, ())                                                     \
  X(std::int32_t, aoti_torch_dtype_int32, ())                                                     \
  X(std::int32_t, aoti_torch_dtype_int64, ())

// .. and of libtorch_cuda.so; null in a torch without CUDA.
#define HALFBYTE_TORCH_CUDA_FUNCTIONS(X) \
  X(std::int32_t, aoti_torch_get_current_cuda_stream, (std::int32_t device, void** out))

struct Functions {
#define HALFBYTE_POINTER(result, name, parameters) result(*name) parameters = nullptr;
  HALFBYTE_TORCH_FUNCTIONS(HALFBYTE_POINTER)
  HALFBYTE_TORCH_CUDA_FUNCTIONS(HALFBYTE_POINTER)
#undef HALFBYTE_POINTER
  // Of torch 2.13 and later, which make the values of optionals with a function of their own; null:
  // operator delete frees them.
  std::int32_t (*torch_delete_stable_ivalue)(Value*) = nullptr;
};

// The functions; set once, by load().
const Functions& torch();

// Looks the functions up in the libtorch that this process has loaded. The name of what is missing,
// or null.
const char* load();

}  // namespace halfbyte::torch_abi
