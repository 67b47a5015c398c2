#include "halfbyte/io/safetensors_writer.h"

#include <utility>

#include "halfbyte/io/atomic_file.h"
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

}  // namespace

struct SafetensorsWriter::State {
  AtomicFile file;
  bool finished = false;
  Status failure;  // the first refusal of the system; sticks
  std::vector<SafetensorsDeclaration> tensors;
  std::vector<std::int64_t> sizes;  // bytes of each tensor
  std::size_t current = 0;          // the tensor that is due
  std::int64_t written = 0;         // bytes of it so far
  std::vector<std::byte> buffer;

  explicit State(AtomicFile target) : file(std::move(target)) {}

  Status keep(Status status) {
    if (!status.ok()) file.discard();
    return failure = std::move(status);
  }
  // Goes on to the first tensor that still lacks bytes.
  void settle() {
    while (current < sizes.size() && written == sizes[current]) {
      ++current;
      written = 0;
    }
  }
  Status flush() {
    HALFBYTE_RETURN_IF_ERROR(keep(file.write(buffer.data(), buffer.size())));
    buffer.clear();
    return {};
  }
  Status put(const std::byte* data, std::size_t bytes) {
    if (buffer.size() + bytes > kBufferBytes) HALFBYTE_RETURN_IF_ERROR(flush());
    if (bytes > kBufferBytes) return keep(file.write(data, bytes));
    buffer.insert(buffer.end(), data, data + bytes);
    return {};
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path,
                                                    std::vector<SafetensorsDeclaration> tensors,
                                                    const SafetensorsMetadata& metadata,
                                                    SafetensorsWriteOptions options) {
  Result<SafetensorsLayout> layout = lay_out_safetensors(path, tensors, metadata);
  if (!layout.ok()) return layout.status();
  Result<AtomicFile> file = AtomicFile::create(path, options.overwrite);
  if (!file.ok()) return file.status();
  auto state = std::make_unique<State>(std::move(file).value());
  state->tensors = std::move(tensors);
  state->sizes = std::move(layout.value().bytes);
  const std::string& header = layout.value().header;
  HALFBYTE_RETURN_IF_ERROR(
      state->put(reinterpret_cast<const std::byte*>(header.data()), header.size()));
  state->settle();
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::append(std::string_view name, std::span<const std::byte> bytes) {
  State& s = *state_;
  if (!s.failure.ok()) return s.failure;
  const std::string tensor(name);
  if (s.finished)
    return wrong(s.file.path(), in_tensor(tensor, "append"), "a writer in use", "finished");
  if (bytes.empty()) return {};
  if (s.current == s.tensors.size()) {
    return wrong(s.file.path(), in_tensor(tensor, "bytes"), "none: every tensor is complete",
                 std::to_string(bytes.size()));
  }
  const std::string& due = s.tensors[s.current].name;
  const std::int64_t left = s.sizes[s.current] - s.written;
  if (name != due) {
    return wrong(s.file.path(), in_tensor(tensor, "order of tensors"),
                 quote_text(due) + ", which lacks " + std::to_string(left) + " bytes",
                 quote_text(tensor));
  }
  if (bytes.size() > static_cast<std::size_t>(left)) {
    return wrong(s.file.path(), in_tensor(tensor, "bytes"),
                 "at most " + std::to_string(left) + " more", std::to_string(bytes.size()));
  }
  HALFBYTE_RETURN_IF_ERROR(s.put(bytes.data(), bytes.size()));
  s.written += static_cast<std::int64_t>(bytes.size());
  s.settle();
  return {};
}

Status SafetensorsWriter::finish() {
  State& s = *state_;
  if (!s.failure.ok()) return s.failure;
  if (s.finished) return wrong(s.file.path(), "finish", "a writer in use", "finished");
  if (s.current < s.tensors.size()) {
    return wrong(s.file.path(), in_tensor(s.tensors[s.current].name, "bytes"),
                 std::to_string(s.sizes[s.current]), std::to_string(s.written));
  }
  HALFBYTE_RETURN_IF_ERROR(s.flush());
  HALFBYTE_RETURN_IF_ERROR(s.keep(s.file.commit()));
  s.finished = true;
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
