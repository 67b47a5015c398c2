// Writing safetensors files: all tensors are declared first, then their bytes stream in. The file
// appears under its name only when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/io/safetensors_dtype.h"
#include "halfbyte/io/safetensors_header.h"
#include "halfbyte/io/safetensors_layout.h"

namespace halfbyte::io {

struct SafetensorsWriteOptions {
  bool overwrite = true;  // false: a target that exists is an error, checked again at finish()
};

// Streams one file. The bytes of the file depend on the declarations, the metadata and the data
// only: tensors lie in the order declared, without gaps; metadata is sorted by key; the data
// section starts at a multiple of 8. A tensor is therefore aligned to its element when those
// before it are: a caller who wants that for all declares wide dtypes first.
//
// Data goes to a temporary file (atomic_file.h). finish() renames it; an I/O error or the
// destructor without finish() removes it. Movable; not safe to call from two threads at once.
class SafetensorsWriter {
 public:
  // Creates the temporary file and writes the header. A target that is a symbolic link is replaced,
  // not followed. Errors: kInvalidArgument for a declaration that breaks a rule of the format
  // (duplicate name, the name `__metadata__`, text that is not UTF-8, a shape whose bytes do not
  // fit 63 bits or do not fill bytes, a header above 100 MB); kIo when the system refuses, with its
  // reason, when the target is not a regular file, or when it exists and overwrite is false.
  static base::Result<SafetensorsWriter> create(const std::string& path,
                                                std::vector<SafetensorsDeclaration> tensors,
                                                const SafetensorsMetadata& metadata = {},
                                                SafetensorsWriteOptions options = {});

  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  // The next bytes of tensor `name`, in chunks of any size. Tensors are written in the order
  // declared; zero-size ones need no call. Errors: kInvalidArgument for another tensor than the one
  // due and for more bytes than it has left (nothing is written, the writer stays usable); kIo when
  // the system refuses (the temporary file is gone, every later call returns the same error).
  base::Status append(std::string_view name, std::span<const std::byte> bytes);

  // Checks that every tensor is complete (else kInvalidArgument, and the writer stays usable),
  // flushes the file to the disk, renames it. After success the writer takes no more calls.
  base::Status finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct NamedTensor {
  std::string name;
  base::TensorView view;  // on the CPU; any strides that base::row_map takes
  // How to store it; default: the view's own type. A kU8 view may be stored as any one-byte type,
  // and as F4, which doubles the last dimension.
  std::optional<SafetensorsDType> dtype = std::nullopt;
};

// Writes a whole file; strided views row by row. Errors: those of SafetensorsWriter, and
// kInvalidArgument for a view that is not given or null, not on the CPU, has rows that are not
// dense, or does not fit the dtype it shall be stored as.
base::Status write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                               const SafetensorsMetadata& metadata = {},
                               SafetensorsWriteOptions options = {});

}  // namespace halfbyte::io
