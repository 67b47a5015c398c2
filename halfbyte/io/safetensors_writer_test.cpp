// Round trips, and what the writer leaves behind when it cannot finish.
#include "halfbyte/io/safetensors_writer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/safetensors_test_util.h"

namespace halfbyte::io {
namespace {

using base::DType;
using base::StatusCode;
using base::TensorView;

using SafetensorsWriterTest = FolderTest;

std::vector<SafetensorsDeclaration> one_tensor(std::int64_t elements = 8) {
  return {{"w", SafetensorsDType::kU8, {elements}}};
}

SafetensorsWriter create(const std::string& path, std::vector<SafetensorsDeclaration> tensors,
                         const SafetensorsMetadata& metadata = {}) {
  auto writer = SafetensorsWriter::create(path, std::move(tensors), metadata);
  EXPECT_TRUE(writer.ok()) << writer.status().message();
  return std::move(writer).value();
}

#define EXPECT_STATUS(expression, expected_code, part)                               \
  do {                                                                               \
    const base::Status status_ = (expression);                                       \
    EXPECT_EQ(status_.code(), StatusCode::expected_code) << status_.message();       \
    EXPECT_NE(status_.message().find(part), std::string::npos) << status_.message(); \
  } while (false)

TEST_F(SafetensorsWriterTest, RoundTrip) {
  std::vector<float> floats(6);
  std::iota(floats.begin(), floats.end(), 1.0F);
  std::vector<std::uint8_t> codes(12);
  std::iota(codes.begin(), codes.end(), std::uint8_t{0});
  std::int64_t number = -7;
  const std::array shape{std::int64_t{0}, std::int64_t{5}};
  const std::vector<NamedTensor> tensors = {
      {"模型.重み.😀", TensorView(floats.data(), DType::kF32, {2, 3})},
      {"scalar", TensorView(&number, DType::kI64, std::span<const std::int64_t>())},
      {"empty", TensorView(nullptr, DType::kBF16, std::span(shape))},
      {"codes", TensorView(codes.data(), DType::kU8, {3, 4}), SafetensorsDType::kF4},
      {"scale \"\\\n", TensorView(codes.data(), DType::kU8, {2, 1}), SafetensorsDType::kF8E4M3},
      {"", TensorView(codes.data(), DType::kU8, {1})},
  };
  const SafetensorsMetadata metadata = {{"format", "pt"}, {"quote\"", "line\nbreak é"}};
  const std::string name = path("m.safetensors");
  const base::Status written = write_safetensors(name, tensors, metadata);
  ASSERT_TRUE(written.ok()) << written.message();
  EXPECT_EQ(files(), 1U);

  const auto opened = SafetensorsFile::open(name);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const SafetensorsFile& file = opened.value();
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsEntry& entry = file.entries()[i];  // declared order is file order
    EXPECT_EQ(entry.name, tensors[i].name);
    const auto view = file.as_view(entry);
    ASSERT_TRUE(view.ok()) << view.status().message();
    EXPECT_EQ(view.value().dtype, tensors[i].view.dtype);
    EXPECT_EQ(base::shape_string(view.value()), base::shape_string(tensors[i].view));
    if (entry.size_bytes() > 0) {
      EXPECT_EQ(std::memcmp(entry.data, tensors[i].view.data, entry.bytes().size()), 0);
    }
  }
  EXPECT_EQ(file.find("codes")->shape, (std::vector<std::int64_t>{3, 8}));
  EXPECT_EQ(file.find("codes")->dtype, SafetensorsDType::kF4);
}

TEST_F(SafetensorsWriterTest, BytesAreThoseOfTheFormat) {
  SafetensorsWriter writer =
      create(path("m"), {{"a", SafetensorsDType::kBF16, {1, 2}}}, {{"k", "v"}});
  ASSERT_TRUE(writer.append("a", bytes_of("1234")).ok());
  ASSERT_TRUE(writer.finish().ok());
  std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}})";
  header += std::string((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(read("m"), length_field(header.size()) + header + "1234");
  ASSERT_TRUE(create(path("none"), {}).finish().ok());
  EXPECT_EQ(read("none"), length_field(8) + "{}      ");
}

TEST_F(SafetensorsWriterTest, ChunksOfAnySizeGiveTheSameFile) {
  const std::string data(3'000'001, 'd');  // larger than the buffer
  for (const std::size_t chunk : {std::size_t{997}, std::size_t{1} << 20, data.size()}) {
    SafetensorsWriter writer = create(
        path("m"), {{"z", SafetensorsDType::kF32, {0}}, {"w", SafetensorsDType::kU8, {3'000'001}}});
    for (std::size_t at = 0; at < data.size(); at += chunk) {
      ASSERT_TRUE(writer.append("w", bytes_of(std::string_view(data).substr(at, chunk))).ok());
    }
    ASSERT_TRUE(writer.append("z", {}).ok());
    ASSERT_TRUE(writer.finish().ok());
    const std::string file = read("m");
    EXPECT_EQ((file.size() - data.size()) % 8, 0U);
    EXPECT_TRUE(file.ends_with(data));
  }
}

TEST_F(SafetensorsWriterTest, StridedViewsAreWrittenRowByRow) {
  std::vector<std::uint8_t> data(24);
  std::iota(data.begin(), data.end(), std::uint8_t{0});
  const std::array shape{std::int64_t{3}, std::int64_t{4}};
  const std::array row_strides{std::int64_t{8}, std::int64_t{1}};
  const std::array column_strides{std::int64_t{1}, std::int64_t{6}};
  const NamedTensor rows{"w", TensorView(data.data(), DType::kU8, shape, row_strides)};
  ASSERT_TRUE(write_safetensors(path("m"), {&rows, 1}).ok());
  EXPECT_TRUE(read("m").ends_with(std::string("\0\1\2\3\x8\x9\xA\xB\x10\x11\x12\x13", 12)));
  const NamedTensor columns{"w", TensorView(data.data(), DType::kU8, shape, column_strides)};
  EXPECT_STATUS(write_safetensors(path("n"), {&columns, 1}), kInvalidArgument,
                "n: tensor 'w': strides: expected a dense last dimension");
  EXPECT_EQ(files(), 1U);
}

TEST_F(SafetensorsWriterTest, ViewsThatCannotBeStoredAreRefused) {
  std::array<std::uint8_t, 4> data{};
  float number = 0;
  const auto store = [&](const TensorView& view, std::optional<SafetensorsDType> dtype = {}) {
    const NamedTensor tensor{"w", view, dtype};
    return write_safetensors(path("m"), {&tensor, 1});
  };
  EXPECT_STATUS(store({}), kInvalidArgument, "tensor 'w': view: expected one, got none");
  EXPECT_STATUS(store({data.data(), DType::kU8, {4}, {base::DeviceType::kCuda, 0}}),
                kInvalidArgument, "device: expected cpu, got cuda:0");
  EXPECT_STATUS(store({nullptr, DType::kU8, {4}}), kInvalidArgument, "data: expected an address");
  EXPECT_STATUS(store({data.data(), DType::kU8, {-4}}), kInvalidArgument, "dimensions >= 0");
  EXPECT_STATUS(store({&number, DType::kF32, {1}}, SafetensorsDType::kI32), kInvalidArgument,
                "dtype: expected F32, got I32");
  EXPECT_STATUS(store({data.data(), DType::kU8, {2, 2}}, SafetensorsDType::kBF16), kInvalidArgument,
                "dtype: expected a one-byte type");
  EXPECT_EQ(files(), 0U);
}

TEST_F(SafetensorsWriterTest, DeclarationsThatBreakTheFormatAreRefused) {
  const auto declare = [&](std::vector<SafetensorsDeclaration> tensors,
                           const SafetensorsMetadata& metadata = {}) {
    return SafetensorsWriter::create(path("m"), std::move(tensors), metadata).status();
  };
  const auto u8 = SafetensorsDType::kU8;
  EXPECT_STATUS(declare({{"a", u8, {1}}, {"b", u8, {1}}, {"a", u8, {2}}}), kInvalidArgument,
                "m: tensor 'a': duplicate name");
  EXPECT_STATUS(declare({{"__metadata__", u8, {1}}}), kInvalidArgument, "reserved");
  EXPECT_STATUS(declare({{"\xFF", u8, {1}}}), kInvalidArgument, "tensor name: expected UTF-8");
  EXPECT_STATUS(declare({}, {{"\xC0\x80", ""}}), kInvalidArgument, "__metadata__ key");
  EXPECT_STATUS(declare({}, {{"k", "\xED\xA0\x80"}}), kInvalidArgument, "__metadata__ value");
  EXPECT_STATUS(declare({{"a", u8, {-1}}}), kInvalidArgument, "tensor 'a': shape: expected dim");
  EXPECT_STATUS(declare({{"a", SafetensorsDType::kF4, {3}}}), kInvalidArgument, "whole bytes");
  EXPECT_STATUS(declare({{"a", u8, {std::int64_t{1} << 62}}}), kInvalidArgument, "overflow");
  EXPECT_STATUS(declare({}, {{"k", std::string(100'000'001, 'v')}}), kInvalidArgument,
                "header: expected at most 100000000 bytes");
  EXPECT_EQ(files(), 0U);
}

TEST_F(SafetensorsWriterTest, CountsBytesAndOrder) {
  SafetensorsWriter writer =
      create(path("m"), {{"a", SafetensorsDType::kU8, {4}}, {"b", SafetensorsDType::kU8, {1}}});
  EXPECT_STATUS(writer.append("b", bytes_of("x")), kInvalidArgument,
                "m: tensor 'b': order of tensors: expected 'a', which lacks 4 bytes, got 'b'");
  EXPECT_STATUS(writer.append("a", bytes_of("12345")), kInvalidArgument,
                "tensor 'a': bytes: expected at most 4 more, got 5");
  ASSERT_TRUE(writer.append("a", bytes_of("123")).ok());
  EXPECT_STATUS(writer.finish(), kInvalidArgument, "tensor 'a': bytes: expected 4, got 3");
  ASSERT_TRUE(writer.append("a", bytes_of("4")).ok());
  ASSERT_TRUE(writer.append("b", bytes_of("5")).ok());
  EXPECT_STATUS(writer.append("b", bytes_of("6")), kInvalidArgument, "every tensor is complete");
  EXPECT_FALSE(std::filesystem::exists(path("m")));
  ASSERT_TRUE(writer.finish().ok());
  EXPECT_TRUE(read("m").ends_with("12345"));
  EXPECT_STATUS(writer.finish(), kInvalidArgument, "finished");
  EXPECT_STATUS(writer.append("b", bytes_of("6")), kInvalidArgument, "finished");
}

TEST_F(SafetensorsWriterTest, WithoutFinishNothingIsLeft) {
  write("m", "the old file");
  {
    SafetensorsWriter writer = create(path("m"), one_tensor());
    ASSERT_TRUE(writer.append("w", bytes_of("12345678")).ok());
    EXPECT_EQ(files(), 2U);  // the old file and the temporary one
    SafetensorsWriter moved = std::move(writer);
    EXPECT_EQ(files(), 2U);
  }
  EXPECT_EQ(files(), 1U);
  EXPECT_EQ(read("m"), "the old file");
}

// A killed process cannot remove its temporary file, but the final name stays as it was.
TEST_F(SafetensorsWriterTest, AKilledProcessLeavesNoFinalFile) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto writer = SafetensorsWriter::create(path("m"), one_tensor(std::int64_t{4} << 20));
    if (!writer.ok()) ::_exit(1);
    const std::string data(std::size_t{2} << 20, 'd');
    if (!writer.value().append("w", bytes_of(data)).ok()) ::_exit(1);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_FALSE(std::filesystem::exists(path("m")));
  EXPECT_EQ(files(), 1U);
  const std::string left = std::filesystem::directory_iterator(folder_)->path().filename().string();
  EXPECT_TRUE(left.starts_with(".m.tmp-" + std::to_string(child) + "-")) << left;
}

TEST_F(SafetensorsWriterTest, OverwritesOnlyWhenAllowed) {
  write("m", "old");
  const auto refused = SafetensorsWriter::create(path("m"), one_tensor(), {}, {.overwrite = false});
  EXPECT_STATUS(refused.status(), kIo, "m: overwrite is off: File exists");
  ASSERT_TRUE(create(path("m"), {}).finish().ok());
  EXPECT_NE(read("m"), "old");
  // A target that appears while the file is being written is kept as well.
  auto writer = SafetensorsWriter::create(path("n"), {}, {}, {.overwrite = false});
  ASSERT_TRUE(writer.ok());
  write("n", "newer");
  EXPECT_STATUS(writer.value().finish(), kIo, "File exists");
  EXPECT_STATUS(writer.value().finish(), kIo, "File exists");
  EXPECT_EQ(read("n"), "newer");
  EXPECT_EQ(files(), 2U);
}

TEST_F(SafetensorsWriterTest, NamesTheSystemsReason) {
  const auto open = [&](const std::string& name) {
    return SafetensorsWriter::create(name, one_tensor()).status();
  };
  EXPECT_STATUS(open(path("no/folder/m")), kIo, "No such file or directory");
  EXPECT_STATUS(open("/proc/halfbyte.safetensors"), kIo, "cannot create");
  EXPECT_STATUS(open(folder_.string()), kIo, "not a regular file");
  EXPECT_STATUS(open("/dev/full"), kIo, "not a regular file");
  EXPECT_STATUS(open(folder_.string() + "/"), kIo, "expected the name of a file");
  EXPECT_STATUS(open(""), kIo, "expected the name of a file");
  EXPECT_EQ(files(), 0U);
  ASSERT_TRUE(create(path(std::string(255, 'n')), {}).finish().ok());  // the longest name
}

// The nearest to a full disk that needs no file system of our own: a limit on the file's size.
TEST_F(SafetensorsWriterTest, ADiskThatFillsUpLeavesNothing) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{std::size_t{3} << 19, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  base::Status append_status;
  base::Status finish_status;
  std::size_t left = 0;
  {
    SafetensorsWriter writer = create(path("m"), one_tensor(std::int64_t{4} << 20));
    const std::string chunk(std::size_t{1} << 19, 'd');
    for (int i = 0; i < 8 && append_status.ok(); ++i) {
      append_status = writer.append("w", bytes_of(chunk));
    }
    finish_status = writer.finish();
    left = files();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  EXPECT_STATUS(append_status, kIo, "m: cannot write: File too large");
  EXPECT_EQ(finish_status.message(), append_status.message());
  EXPECT_EQ(left, 0U);
}

}  // namespace
}  // namespace halfbyte::io
