#include "halfbyte/io/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "halfbyte/io/io_error.h"
#include "halfbyte/io/utf8.h"

namespace halfbyte::io {
namespace {

using base::Result;
using base::Status;
using base::StatusCode;

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

Status wrong(const std::string& path, const std::string& rule, const std::string& expected,
             const std::string& actual) {
  return {StatusCode::kInvalidArgument,
          path + ": " + rule + ": expected " + expected + ", got " + actual};
}

std::string in_tensor(const std::string& name, const std::string& rule) {
  return "tensor " + quote_text(name) + ": " + rule;
}

Status check_utf8(const std::string& path, const std::string& what, const std::string& text) {
  if (utf8_valid_prefix(text) == text.size()) return {};
  return wrong(path, what, "UTF-8", quote_text(text));
}

std::string json_string(const std::string& text) { return nlohmann::json(text).dump(); }

// The length field and the JSON object, padded with spaces to a multiple of 8, and the bytes of
// each tensor. Same key order and spelling as the safetensors package writes.
Result<std::string> make_header(const std::string& path,
                                const std::vector<SafetensorsDeclaration>& tensors,
                                const SafetensorsMetadata& metadata,
                                std::vector<std::int64_t>* sizes) {
  std::vector<std::string_view> names;
  for (const auto& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end()) {
    return wrong(path, in_tensor(std::string(*twice), "duplicate name"), "every name once",
                 "it more than once");
  }

  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      HALFBYTE_RETURN_IF_ERROR(check_utf8(path, "__metadata__ key", key));
      HALFBYTE_RETURN_IF_ERROR(check_utf8(path, "__metadata__ value", value));
      if (json.back() != '{') json += ',';
      json += json_string(key) + ":" + json_string(value);
    }
    json += "}";
  }
  std::int64_t offset = 0;
  for (const auto& tensor : tensors) {
    HALFBYTE_RETURN_IF_ERROR(check_utf8(path, "tensor name", tensor.name));
    if (tensor.name == "__metadata__") {
      return wrong(path, "tensor name", "any but the reserved '__metadata__'", "it");
    }
    const Result<std::int64_t> bytes = tensor_bytes(tensor.dtype, tensor.shape);
    if (!bytes.ok()) {
      return Status{StatusCode::kInvalidArgument,
                    path + ": " + in_tensor(tensor.name, bytes.status().message())};
    }
    sizes->push_back(bytes.value());
    const std::int64_t begin = offset;
    if (__builtin_add_overflow(offset, bytes.value(), &offset)) {
      return wrong(path, in_tensor(tensor.name, "end of its bytes"), "at most 2^63 - 1", "more");
    }
    if (json.back() != '{') json += ',';
    json += json_string(tensor.name) + ":{\"dtype\":\"" + std::string(dtype_name(tensor.dtype)) +
            "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i > 0) json += ',';
      json += std::to_string(tensor.shape[i]);
    }
    json += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(offset) + "]}";
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  if (json.size() > kSafetensorsMaxHeaderBytes) {
    return wrong(path, "header", "at most 100000000 bytes", std::to_string(json.size()));
  }
  const std::uint64_t length = json.size();
  std::string header(sizeof(length), '\0');
  std::memcpy(header.data(), &length, sizeof(length));
  return header + json;
}

// The folder of `path` with its final '/', or "" for the current one.
std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

// Makes a rename durable. The file is already in place, and not every file system can sync a
// folder, so a refusal is not an error.
void sync_folder(const std::string& path) {
  const std::string folder = folder_of(path);
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

// Renames unless the target exists; 0 or an errno.
int rename_new(const char* from, const char* to) {
  if (::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A file system without RENAME_NOREPLACE: link() refuses an existing target as well.
  if (::link(from, to) != 0) return errno;
  ::unlink(from);
  return 0;
}

}  // namespace

struct SafetensorsWriter::State {
  std::string path;
  std::string temporary;  // empty once renamed or removed
  int fd = -1;
  bool overwrite = true;
  bool finished = false;
  Status failure;  // the first refusal of the system; sticks
  std::vector<SafetensorsDeclaration> tensors;
  std::vector<std::int64_t> sizes;  // bytes of each tensor
  std::size_t current = 0;          // the tensor that is due
  std::int64_t written = 0;         // bytes of it so far
  std::vector<std::byte> buffer;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { discard(); }

  void discard() {
    if (fd >= 0) ::close(fd);
    fd = -1;
    if (!temporary.empty()) ::unlink(temporary.c_str());
    temporary.clear();
  }
  Status fail(const std::string& what, int error) {
    discard();
    return failure = io_error(path, what, error);
  }
  // Goes on to the first tensor that still lacks bytes.
  void settle() {
    while (current < sizes.size() && written == sizes[current]) {
      ++current;
      written = 0;
    }
  }

  Status open_temporary();
  Status write_out(const std::byte* data, std::size_t bytes);
  Status flush() {
    HALFBYTE_RETURN_IF_ERROR(write_out(buffer.data(), buffer.size()));
    buffer.clear();
    return {};
  }
  Status put(const std::byte* data, std::size_t bytes) {
    if (buffer.size() + bytes > kBufferBytes) HALFBYTE_RETURN_IF_ERROR(flush());
    if (bytes > kBufferBytes) return write_out(data, bytes);
    buffer.insert(buffer.end(), data, data + bytes);
    return {};
  }
};

Status SafetensorsWriter::State::open_temporary() {
  const std::string base = path.substr(folder_of(path).size());
  if (base.empty()) return {StatusCode::kIo, path + ": expected the name of a file"};
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return {StatusCode::kIo, path + ": the target exists and is not a regular file"};
    }
    if (!overwrite) return io_error(path, "overwrite is off", EEXIST);
  }
  static std::atomic<unsigned> counter{0};
  constexpr std::size_t kBaseBytes = 200;  // leaves room for the suffix within NAME_MAX
  constexpr int kAttempts = 100;           // names left behind by killed runs with our pid
  int error = EEXIST;
  for (int i = 0; i < kAttempts && error == EEXIST; ++i) {
    temporary = folder_of(path) + "." + base.substr(0, kBaseBytes) + ".tmp-" +
                std::to_string(::getpid()) + "-" + std::to_string(counter++);
    fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return {};
    error = errno;
  }
  const std::string name = std::exchange(temporary, "");  // not ours: do not remove it
  return fail("cannot create " + name, error);
}

Status SafetensorsWriter::State::write_out(const std::byte* data, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t count = ::write(fd, data, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return fail("cannot write", count < 0 ? errno : EIO);
    data += count;
    bytes -= static_cast<std::size_t>(count);
  }
  return {};
}

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path,
                                                    std::vector<SafetensorsDeclaration> tensors,
                                                    const SafetensorsMetadata& metadata,
                                                    SafetensorsWriteOptions options) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->overwrite = options.overwrite;
  state->tensors = std::move(tensors);
  const Result<std::string> header = make_header(path, state->tensors, metadata, &state->sizes);
  if (!header.ok()) return header.status();
  HALFBYTE_RETURN_IF_ERROR(state->open_temporary());
  HALFBYTE_RETURN_IF_ERROR(
      state->put(reinterpret_cast<const std::byte*>(header.value().data()), header.value().size()));
  state->settle();
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::append(std::string_view name, std::span<const std::byte> bytes) {
  State& s = *state_;
  if (!s.failure.ok()) return s.failure;
  const std::string tensor(name);
  if (s.finished) return wrong(s.path, in_tensor(tensor, "append"), "a writer in use", "finished");
  if (bytes.empty()) return {};
  if (s.current == s.tensors.size()) {
    return wrong(s.path, in_tensor(tensor, "bytes"), "none: every tensor is complete",
                 std::to_string(bytes.size()));
  }
  const std::string& due = s.tensors[s.current].name;
  const std::int64_t left = s.sizes[s.current] - s.written;
  if (name != due) {
    return wrong(s.path, in_tensor(tensor, "order of tensors"),
                 quote_text(due) + ", which lacks " + std::to_string(left) + " bytes",
                 quote_text(tensor));
  }
  if (bytes.size() > static_cast<std::size_t>(left)) {
    return wrong(s.path, in_tensor(tensor, "bytes"), "at most " + std::to_string(left) + " more",
                 std::to_string(bytes.size()));
  }
  HALFBYTE_RETURN_IF_ERROR(s.put(bytes.data(), bytes.size()));
  s.written += static_cast<std::int64_t>(bytes.size());
  s.settle();
  return {};
}

Status SafetensorsWriter::finish() {
  State& s = *state_;
  if (!s.failure.ok()) return s.failure;
  if (s.finished) return wrong(s.path, "finish", "a writer in use", "finished");
  if (s.current < s.tensors.size()) {
    return wrong(s.path, in_tensor(s.tensors[s.current].name, "bytes"),
                 std::to_string(s.sizes[s.current]), std::to_string(s.written));
  }
  HALFBYTE_RETURN_IF_ERROR(s.flush());
  if (::fsync(s.fd) != 0) return s.fail("cannot sync", errno);
  // Network file systems report a full disk as late as here.
  if (::close(std::exchange(s.fd, -1)) != 0) return s.fail("cannot close", errno);
  const char* from = s.temporary.c_str();
  const char* to = s.path.c_str();
  const int error = !s.overwrite ? rename_new(from, to) : ::rename(from, to) != 0 ? errno : 0;
  if (error != 0) return s.fail("cannot rename " + s.temporary, error);
  s.temporary.clear();
  s.finished = true;
  sync_folder(s.path);
  return {};
}

namespace {

Result<SafetensorsDeclaration> declare(const std::string& path, const NamedTensor& tensor) {
  const base::TensorView& view = tensor.view;
  if (!view.given) return wrong(path, in_tensor(tensor.name, "view"), "one", "none");
  if (view.device.type != base::DeviceType::kCpu) {
    return wrong(path, in_tensor(tensor.name, "device"), "cpu", to_string(view.device));
  }
  SafetensorsDeclaration declared{
      tensor.name, tensor.dtype.value_or(stored_dtype(view.dtype)),
      std::vector<std::int64_t>(view.shape.begin(), view.shape.begin() + view.ndim)};
  const Result<std::int64_t> size = tensor_bytes(stored_dtype(view.dtype), declared.shape);
  if (!size.ok()) {
    return Status{StatusCode::kInvalidArgument,
                  path + ": " + in_tensor(tensor.name, size.status().message())};
  }
  if (size.value() > 0 && view.data == nullptr) {
    return wrong(path, in_tensor(tensor.name, "data"), "an address", "null");
  }
  if (declared.dtype == stored_dtype(view.dtype)) return declared;
  const bool bytes = view.dtype == base::DType::kU8;
  if (bytes && dtype_bits(declared.dtype) == 8) return declared;
  if (bytes && declared.dtype == SafetensorsDType::kF4 && view.ndim > 0 &&
      !__builtin_mul_overflow(declared.shape.back(), 2, &declared.shape.back())) {
    return declared;
  }
  return wrong(path, in_tensor(tensor.name, "dtype"),
               bytes ? "a one-byte type, or F4 and a last dimension"
                     : std::string(dtype_name(stored_dtype(view.dtype))),
               std::string(dtype_name(declared.dtype)));
}

}  // namespace

Status write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                         const SafetensorsMetadata& metadata, SafetensorsWriteOptions options) {
  std::vector<SafetensorsDeclaration> declared;
  std::vector<base::RowMap> rows(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Result<SafetensorsDeclaration> declaration = declare(path, tensors[i]);
    if (!declaration.ok()) return declaration.status();
    declared.push_back(std::move(declaration).value());
    if (tensors[i].view.is_contiguous()) continue;
    Result<base::RowMap> map = base::row_map("strides", tensors[i].view);
    if (!map.ok()) {
      return {map.status().code(),
              path + ": " + in_tensor(tensors[i].name, map.status().message())};
    }
    rows[i] = map.value();
  }
  Result<SafetensorsWriter> created =
      SafetensorsWriter::create(path, std::move(declared), metadata, options);
  if (!created.ok()) return created.status();
  SafetensorsWriter& writer = created.value();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const base::TensorView& view = tensors[i].view;
    const std::int64_t element_bytes = base::dtype_bytes(view.dtype);
    const auto* data = view.as<const std::byte>();
    const bool dense = view.is_contiguous();
    const std::int64_t count = dense ? 1 : rows[i].rows;
    const std::int64_t elements = dense ? view.numel() : view.shape[view.ndim - 1];
    for (std::int64_t row = 0; row < count; ++row) {
      const std::int64_t offset = dense ? 0 : rows[i].offset(row) * element_bytes;
      HALFBYTE_RETURN_IF_ERROR(writer.append(
          tensors[i].name, {data + offset, static_cast<std::size_t>(elements * element_bytes)}));
    }
  }
  return writer.finish();
}

}  // namespace halfbyte::io
