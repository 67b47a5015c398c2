#include "halfbyte/io/safetensors_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "halfbyte/io/io_error.h"
#include "halfbyte/io/utf8.h"

namespace halfbyte::io {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;

struct Descriptor {
  int fd;
  explicit Descriptor(int descriptor) : fd(descriptor) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

void SafetensorsFile::Unmap::operator()(std::byte* address) const { ::munmap(address, bytes); }

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must be refused below, not wait for a writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) return io_error(path, "cannot open", errno);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return io_error(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) {
    return Status{StatusCode::kIo, path + ": expected a regular file, got another kind"};
  }

  SafetensorsFile opened;
  opened.path_ = path;
  const auto bytes = static_cast<std::size_t>(info.st_size);
  if (bytes > 0) {  // an empty mapping is an error of mmap; the parser names the rule
    void* address = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (address == MAP_FAILED) return io_error(path, "cannot map", errno);
    opened.mapping_ = {static_cast<std::byte*>(address), Unmap{bytes}};
  }
  Result<SafetensorsHeader> header = parse_safetensors_header({opened.mapping_.get(), bytes}, path);
  if (!header.ok()) return header.status();
  opened.header_ = std::move(header).value();
  return opened;
}

void SafetensorsFile::expect_random_reads() const {
  if (mapping_) ::madvise(mapping_.get(), mapping_.get_deleter().bytes, MADV_RANDOM);
}

Result<base::TensorView> SafetensorsFile::as_view(const SafetensorsEntry& entry) const {
  Result<base::TensorView> view = io::as_view(entry);
  if (!view.ok()) return Status{view.status().code(), path_ + ": " + view.status().message()};
  return view;
}

Result<base::TensorView> as_view(const SafetensorsEntry& entry) {
  const auto unsupported = [&](const std::string& rule, const std::string& expected,
                               const std::string& actual) {
    return base::unsupported("tensor " + quote_text(entry.name) + ": " + rule + ": expected " +
                             expected + ", got " + actual);
  };
  const std::optional<base::DType> dtype = computed_dtype(entry.dtype);
  if (!dtype) {
    return unsupported("dtype", "F32, F16, BF16, U8, I32, I64, F8_E4M3, F8_E8M0 or F4",
                       std::string(dtype_name(entry.dtype)));
  }
  if (entry.shape.size() > base::kMaxDims) {
    return unsupported("rank", "at most " + std::to_string(base::kMaxDims),
                       std::to_string(entry.shape.size()));
  }
  base::TensorView view(const_cast<std::byte*>(entry.data), *dtype,
                        std::span<const std::int64_t>(entry.shape));
  if (entry.dtype == SafetensorsDType::kF4) {
    std::vector<std::int64_t> packed = entry.shape;
    if (packed.empty() || packed.back() % 2 != 0) {
      return unsupported("shape of F4", "an even last dimension", short_shape(entry.shape));
    }
    packed.back() /= 2;
    view = base::TensorView(view.data, *dtype, std::span<const std::int64_t>(packed));
  }
  const std::int64_t alignment = base::dtype_bytes(*dtype);
  const auto misaligned = reinterpret_cast<std::uintptr_t>(entry.data) % alignment;
  if (misaligned != 0 && entry.size_bytes() > 0) {
    return unsupported("alignment of " + std::string(dtype_name(entry.dtype)),
                       std::to_string(alignment) + " bytes",
                       "data " + std::to_string(misaligned) + " bytes off");
  }
  return view;
}

void release_pages(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t before = reinterpret_cast<std::uintptr_t>(bytes.data()) % page;
  // A private mapping that is only read has no page of its own to lose.
  ::madvise(const_cast<std::byte*>(bytes.data()) - before, bytes.size() + before, MADV_DONTNEED);
}

}  // namespace halfbyte::io
