// The index parser, and files written in pieces.
#include "halfbyte/io/safetensors_index.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <thread>

#include "halfbyte/io/atomic_file.h"
#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/safetensors_shard_writer.h"
#include "halfbyte/io/safetensors_test_util.h"
#include "halfbyte/io/safetensors_writer.h"

namespace halfbyte::io {
namespace {

using base::StatusCode;

TEST(SafetensorsIndex, ReadsTheMapAndNothingElse) {
  const auto index = parse_safetensors_index(
      R"({"metadata": {"total_size": 12, "deep": [[1, {"weight_map": 2}]]},
          "weight_map": {"a.weight": "x-1.safetensors", "": "y"}, "other": null})",
      "m");
  ASSERT_TRUE(index.ok()) << index.status().message();
  EXPECT_EQ(index.value(), (SafetensorsIndex{{"a.weight", "x-1.safetensors"}, {"", "y"}}));
  const auto again = parse_safetensors_index(safetensors_index_json(index.value(), 12), "m");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again.value(), index.value());
}

TEST(SafetensorsIndex, Refusals) {
  const std::string deep = R"({"metadata":)" + std::string(20, '[') + std::string(20, ']') + "}";
  const std::pair<std::string, const char*> cases[] = {
      {"", "JSON"},
      {"[]", "an object, got an array"},
      {"7", "an object"},
      {"{}", "weight_map: expected an object, got none"},
      {R"({"weight_map": []})", "weight_map"},
      {R"({"weight_map": "a"})", "weight_map"},
      {R"({"weight_map": {"a": 1}})", "'a': expected a string"},
      {R"({"weight_map": {"a": {}}})", "'a': expected a string, got an object"},
      {R"({"weight_map": {"a": "b", "a": "b"}})", "'a': expected every key once"},
      {R"({"weight_map": {}, "weight_map": {}})", "every key once"},
      {R"({"metadata": {"a": 1, "a": 2}, "weight_map": {}})", "every key once"},
      {R"({"weight_map": {"a": ""}})", "the name of a file"},
      {R"({"weight_map": {"a": ".."}})", "the name of a file"},
      {R"({"weight_map": {"a": "../b"}})", "the name of a file"},
      {R"({"weight_map": {"a": "b\u0000"}})", "the name of a file"},
      {R"({"weight_map": {}} {})", "JSON"},
      {"{\"weight_map\": {\"\xff\": \"b\"}}", "UTF-8"},
      {"\xEF\xBB\xBF{\"weight_map\": {}}", "byte order mark"},
      {deep, "at most 8 levels"},
  };
  for (const auto& [text, says] : cases) {
    const auto index = parse_safetensors_index(text, "folder/index");
    ASSERT_FALSE(index.ok()) << text;
    EXPECT_EQ(index.status().code(), StatusCode::kData);
    EXPECT_TRUE(index.status().message().starts_with("folder/index: ")) << text;
    EXPECT_NE(index.status().message().find(says), std::string::npos) << index.status().message();
  }
}

using ShardWriter = FolderTest;

const std::vector<SafetensorsDeclaration> kTensors = {{"a", SafetensorsDType::kF32, {2}},
                                                      {"b", SafetensorsDType::kU8, {3, 2}},
                                                      {"none", SafetensorsDType::kU8, {0}}};
constexpr std::string_view kA = "ABCDEFGH", kB = "opqrst";

TEST_F(ShardWriter, PiecesOfAnyOrderGiveTheFileOfTheOtherWriter) {
  auto writer = SafetensorsWriter::create(path("one"), kTensors, {{"k", "v"}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer.value().append("a", bytes_of(kA)).ok());
  ASSERT_TRUE(writer.value().append("b", bytes_of(kB)).ok());
  ASSERT_TRUE(writer.value().finish().ok());
  auto shard = SafetensorsShardWriter::create(path("two"), kTensors, {{"k", "v"}}, false);
  ASSERT_TRUE(shard.ok());
  std::thread other([&] { EXPECT_TRUE(shard.value().write("b", 2, bytes_of(kB.substr(2))).ok()); });
  EXPECT_TRUE(shard.value().write("a", 0, bytes_of(kA)).ok());
  EXPECT_TRUE(shard.value().write("b", 0, bytes_of(kB.substr(0, 2))).ok());
  other.join();
  ASSERT_TRUE(shard.value().finish().ok());
  EXPECT_EQ(read("one"), read("two"));
}

TEST_F(ShardWriter, RefusesWhatWasNotDeclaredAndWhatIsMissing) {
  auto shard = SafetensorsShardWriter::create(path("m"), kTensors, {}, false);
  ASSERT_TRUE(shard.ok());
  EXPECT_EQ(shard.value().write("c", 0, {}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(shard.value().write("a", 1, bytes_of(kA)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(shard.value().write("a", -1, bytes_of(kA.substr(1))).code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(shard.value().write("a", 0, bytes_of(kA)).ok());
  EXPECT_NE(shard.value().finish().message().find("expected 14, got 8"), std::string::npos);
  EXPECT_EQ(files(), 1u);  // the temporary file only
}

TEST_F(ShardWriter, TemporaryFilesOfTheDeadAreRemovedThoseOfTheLivingAreNot) {
  write(".m.tmp-1-0", "of a killed run");
  write(".n.tmp-1-0", "of another target");
  const std::string held = write(".m.tmp-1-1", "of a run that lives");
  const int fd = ::open(held.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  {
    auto file = AtomicFile::create(path("m"), false);
    ASSERT_TRUE(file.ok());
    EXPECT_EQ(files(), 3u);
    // The living one's own file is safe from the next run.
    auto second = AtomicFile::create(path("m"), false);
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(files(), 4u);
    ASSERT_TRUE(file.value().commit().ok());
  }
  ::close(fd);
  EXPECT_EQ(files(), 3u);
  EXPECT_TRUE(std::filesystem::exists(path("m")));
  EXPECT_FALSE(std::filesystem::exists(path(".m.tmp-1-0")));
  EXPECT_TRUE(std::filesystem::exists(path(".n.tmp-1-0")));
}

TEST_F(ShardWriter, ReleasedPagesReadTheSame) {
  auto shard = SafetensorsShardWriter::create(path("m"), kTensors, {}, false);
  ASSERT_TRUE(shard.ok());
  ASSERT_TRUE(shard.value().write("a", 0, bytes_of(kA)).ok());
  ASSERT_TRUE(shard.value().write("b", 0, bytes_of(kB)).ok());
  ASSERT_TRUE(shard.value().finish().ok());
  const auto file = SafetensorsFile::open(path("m"));
  ASSERT_TRUE(file.ok());
  file.value().expect_random_reads();
  const auto* b = file.value().find("b");
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(std::memcmp(b->data, kB.data(), kB.size()), 0);
    release_pages(b->bytes());
  }
}

}  // namespace
}  // namespace halfbyte::io
