// Reading safetensors files: a read-only mapping of the file and its checked header.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/io/safetensors_header.h"

namespace halfbyte::io {

// An open file. Entries and views point into the mapping: they live as long as this object (moving
// it leaves them valid) and must not be written through. Another process that truncates the file
// meanwhile makes reads of the lost pages raise SIGBUS; replacing it by renaming, as
// SafetensorsWriter does, is harmless. Const functions may be called from several threads.
class SafetensorsFile {
 public:
  // Maps `path` and checks all of its header; no tensor data is read. Errors: kIo when the system
  // refuses (no such file, no permission, not a regular file), kData when the file breaks a rule
  // of the format (safetensors_header.h lists them; an empty file is one).
  static base::Result<SafetensorsFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const SafetensorsMetadata& metadata() const { return header_.metadata; }
  // nullptr when there is no such tensor.
  const SafetensorsEntry* find(std::string_view name) const { return header_.find(name); }

  // Tells the system not to read ahead: for a few samples of a large file.
  void expect_random_reads() const;

  // as_view() below, its errors prefixed with the file.
  base::Result<base::TensorView> as_view(const SafetensorsEntry& entry) const;

 private:
  struct Unmap {
    std::size_t bytes;  // of the mapping
    void operator()(std::byte* address) const;
  };

  std::string path_;
  std::unique_ptr<std::byte[], Unmap> mapping_;
  SafetensorsHeader header_;
};

// A contiguous CPU view of the entry's bytes: shape as stored, dtype by computed_dtype(); F4 is
// kU8 with half the last dimension (two codes a byte). Do not write through it. Errors
// (kUnsupported, naming the tensor): a dtype halfbyte does not compute on, more than base::kMaxDims
// dimensions, F4 whose last dimension is odd, data not aligned to its element (the format promises
// no alignment: copy entry.bytes() to aligned memory instead).
base::Result<base::TensorView> as_view(const SafetensorsEntry& entry);

// Gives the resident pages of a mapped file's bytes back to the system; reading them again maps
// them again. Keeps the peak memory of a pass over a large file small.
void release_pages(std::span<const std::byte> bytes);

}  // namespace halfbyte::io
