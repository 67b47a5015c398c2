// What the reader accepts, and every rule by which it refuses.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "halfbyte/io/fuzz/safetensors_invariants.h"
#include "halfbyte/io/safetensors_header.h"
#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/safetensors_test_util.h"
#include "halfbyte/io/utf8.h"

namespace halfbyte::io {
namespace {

using base::StatusCode;

using SafetensorsReaderTest = FolderTest;

// One byte of U8, the tensor most cases vary.
#define U8_FIELDS R"("dtype":"U8","shape":[1],"data_offsets":[0,1])"
#define U8_TENSOR "{" U8_FIELDS "}"

base::Result<SafetensorsHeader> parse(const std::string& file) {
  return parse_safetensors_header(bytes_of(file), "m.safetensors");
}

TEST(SafetensorsHeaderTest, AcceptsWhatTheFormatAllows) {
  const std::vector<std::pair<std::string, std::size_t>> files = {
      {file_with("{}"), 0},
      {file_with("{}      "), 0},
      {file_with("{}\n\t\r "), 0},
      {file_with(R"({"__metadata__":{}})"), 0},
      {file_with(R"({"a":)" U8_TENSOR "}", 1), 1},
      {file_with(R"({"":)" U8_TENSOR "}", 1), 1},
      {file_with(R"({"a\u0000b":)" U8_TENSOR "}", 1), 1},
      {file_with(R"({ "a" : )" U8_TENSOR " , \"__metadata__\" : { } } ", 1), 1},
      {file_with(R"({"a":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}})", 4), 1},
      {file_with(R"({"a":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}})", 3), 1},
      {file_with(R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}})", 3), 1},
      {file_with(R"({"a":{"dtype":"I64","shape":[0,7],"data_offsets":[0,0]}})"), 1},
      {file_with(R"({"z":{"dtype":"F4","shape":[3,0],"data_offsets":[1,1]},"a":)" U8_TENSOR "}", 1),
       2},
  };
  for (const auto& [file, tensors] : files) {
    const auto header = parse(file);
    ASSERT_TRUE(header.ok()) << header.status().message();
    EXPECT_EQ(header.value().entries.size(), tensors);
    EXPECT_EQ(broken_invariant(header.value(), bytes_of(file)), "");
  }
}

TEST(SafetensorsHeaderTest, OrdersByOffsetAndFindsByName) {
  const std::string file = file_with(
      R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]},
          "é":{"dtype":"I16","shape":[1],"data_offsets":[0,2]},
          "__metadata__":{"format":"pt","k":""}})",
      5);
  const auto parsed = parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  const SafetensorsHeader& header = parsed.value();
  ASSERT_EQ(header.entries.size(), 2U);
  EXPECT_EQ(header.entries[0].name, "é");
  EXPECT_EQ(header.entries[0].dtype, SafetensorsDType::kI16);
  EXPECT_EQ(header.entries[1].shape, std::vector<std::int64_t>{3});
  EXPECT_EQ(header.find("b"), &header.entries[1]);
  EXPECT_EQ(header.find("a"), nullptr);
  EXPECT_EQ(header.find("c"), nullptr);
  EXPECT_EQ(header.find("éé"), nullptr);
  EXPECT_EQ(header.metadata, (SafetensorsMetadata{{"format", "pt"}, {"k", ""}}));
}

TEST(SafetensorsHeaderTest, KnowsEveryDtypeOfTheFormat) {
  for (const auto& [name, bits] : kSafetensorsDTypes) {
    const std::string file =
        file_with(R"({"a":{"dtype":")" + std::string(name) + R"(","shape":[8],"data_offsets":[0,)" +
                      std::to_string(bits) + "]}}",
                  static_cast<std::size_t>(bits));
    const auto header = parse(file);
    ASSERT_TRUE(header.ok()) << header.status().message();
    EXPECT_EQ(dtype_name(header.value().entries[0].dtype), name);
  }
}

struct Malformed {
  std::string rule;  // must appear in the message
  std::string file;
};

// `fields` inside the tensor "a", whose name the message must hold as well.
Malformed in_a(const std::string& rule, const std::string& fields, std::size_t data_bytes = 1) {
  return {"tensor 'a': " + rule, file_with(R"({"a":{)" + fields + "}}", data_bytes)};
}

std::vector<Malformed> malformed_files() {
  const std::string rest = R"(,"shape":[1],"data_offsets":[0,1])";
  const std::string no_shape = R"("dtype":"U8","data_offsets":[0,1],"shape":)";
  const std::string no_offsets = R"("dtype":"U8","shape":[1],"data_offsets":)";
  const std::string two = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":)";
  return {
      // The file and the length field.
      {"file too short: expected at least 8 bytes, got 0", ""},
      {"file too short: expected at least 8 bytes, got 7", std::string(7, '\2')},
      {"header length: expected 2 to 100000000 bytes, got 0", length_field(0) + "{}"},
      {"header length: expected 2 to 100000000 bytes, got 1", length_field(1) + "{}"},
      {"header length: expected 2 to 100000000 bytes, got 100000001", length_field(100'000'001)},
      {"header length: expected 2", length_field(~std::uint64_t{0}) + "{}"},
      {"header length: expected 2", length_field(std::uint64_t{1} << 63) + "{}"},
      {"past the end of the file: expected at most 2 bytes, got 3", length_field(3) + "{}"},
      {"past the end of the file: expected at most 0", length_field(100'000'000)},
      // The text of the header.
      {"header start: expected '{', got '['", file_with("[]")},
      {"header start: expected '{', got ' '", file_with(" {}")},
      {"header start: expected '{', got '\\xef'", file_with("\xEF\xBB\xBF{}")},
      {"not UTF-8: expected valid UTF-8, got '\\xff' at byte 2", file_with("{\"\xFF\":1}")},
      {"not UTF-8", file_with("{\"\xC0\x80\":1}")},          // overlong NUL
      {"not UTF-8", file_with("{\"\xE0\x9F\xBF\":1}")},      // overlong, three bytes
      {"not UTF-8", file_with("{\"\xF0\x8F\xBF\xBF\":1}")},  // overlong, four bytes
      {"not UTF-8", file_with("{\"\xED\xA0\x80\":1}")},      // surrogate
      {"not UTF-8", file_with("{\"\xF4\x90\x80\x80\":1}")},  // above U+10FFFF
      {"not UTF-8", file_with("{}\xE2\x82")},                // cut
      {"not JSON: expected no NUL byte, got one at byte 2", file_with(std::string("{}\0{", 4))},
      {"not JSON", file_with("{{")},
      {"not JSON", file_with("{,}")},
      {"not JSON", file_with("{} {}")},
      {"not JSON", file_with("{}x")},
      {"not JSON", file_with(R"({"a":)" U8_TENSOR, 1)},
      {"not JSON", file_with(R"({"a":)" U8_TENSOR ",}", 1)},
      {"not JSON", file_with("{'a':" U8_TENSOR "}", 1)},
      {"not JSON", file_with("{/**/}")},
      {"not JSON", file_with("{\"a\nb\":" U8_TENSOR "}", 1)},
      {"not JSON", file_with(R"({"\ud800":)" U8_TENSOR "}", 1)},
      {"not JSON", file_with(R"({"\x":)" U8_TENSOR "}", 1)},
      {"tensor 'a': header is not JSON: byte ",
       file_with(R"({"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}})", 1)},
      {"not JSON", file_with(R"({"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}})", 1)},
      {"not JSON", file_with(R"({"a":{"dtype":"U8","shape":[+1],"data_offsets":[0,1]}})", 1)},
      // Keys.
      {"tensor 'a': duplicate key", file_with(R"({"a":)" U8_TENSOR R"(,"a":)" U8_TENSOR "}", 1)},
      {"tensor 'a': duplicate key",
       file_with(R"({"a":)" U8_TENSOR R"(,"\u0061":)" U8_TENSOR "}", 1)},
      {"duplicate key: expected every key once, got '__metadata__'",
       file_with(R"({"__metadata__":{},"__metadata__":{}})")},
      {"__metadata__: duplicate key: expected every key once, got 'k'",
       file_with(R"({"__metadata__":{"k":"1","k":"1"}})")},
      in_a("duplicate field: expected every field once, got 'dtype'", R"("dtype":"U8",)" U8_FIELDS),
      in_a("duplicate field", U8_FIELDS R"(,"shape":[1])"),
      in_a("duplicate field", U8_FIELDS R"(,"data_offsets":[0,1])"),
      in_a("unknown field: expected dtype, shape and data_offsets only, got 'x'",
           U8_FIELDS R"(,"x":1)"),
      in_a("missing field: expected dtype", R"("shape":[1],"data_offsets":[0,1])"),
      in_a("missing field: expected shape", R"("dtype":"U8","data_offsets":[0,1])"),
      in_a("missing field: expected data_offsets", R"("dtype":"U8","shape":[1])"),
      in_a("missing field", ""),
      // Types and arity.
      {"tensor 'a': type: expected an object", file_with(R"({"a":1})")},
      {"tensor 'a': type: expected an object", file_with(R"({"a":null})")},
      {"tensor 'a': type: expected an object", file_with(R"({"a":[]})")},
      in_a("unknown dtype: expected a type of the format, such as BF16, got 'F31'",
           R"("dtype":"F31")" + rest),
      in_a("unknown dtype", R"("dtype":"u8")" + rest),
      in_a("unknown dtype", R"("dtype":"")" + rest),
      in_a("dtype: expected a string, got 8", R"("dtype":8)" + rest),
      in_a("dtype: expected a string, got null", R"("dtype":null)" + rest),
      in_a("dtype: expected a string, got an array", R"("dtype":["U8"])" + rest),
      in_a("shape: expected an array of integers, got 1", no_shape + "1"),
      in_a("shape: expected an array of integers, got an object", no_shape + "{}"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got the string '1'",
           no_shape + R"(["1"])"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got true", no_shape + "[true]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got an array", no_shape + "[[1]]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got a negative", no_shape + "[-1]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got a negative", no_shape + "[-0]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got a fractional", no_shape + "[1.0]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got a fractional", no_shape + "[1e0]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got a number out of range, '1e999'",
           no_shape + "[1e999]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got 9223372036854775808",
           no_shape + "[9223372036854775808]"),
      in_a("shape: expected an integer in [0, 2^63 - 1], got an integer out of range, '1844674407",
           no_shape + "[18446744073709551616]"),
      in_a("data_offsets: expected an array of two integers, got 0", no_offsets + "0"),
      in_a("data_offsets: expected two integers, got none", no_offsets + "[]"),
      in_a("data_offsets: expected two integers, got one", no_offsets + "[0]"),
      in_a("data_offsets: expected two integers, got three", no_offsets + "[0,1,1]"),
      in_a("data_offsets: expected an integer", no_offsets + "[0,1.5]"),
      in_a("data_offsets: expected an integer", no_offsets + "[-1,1]"),
      in_a("data_offsets: expected an integer", no_offsets + "[0,9223372036854775808]"),
      in_a("data_offsets: expected an integer", no_offsets + R"([0,"1"])"),
      {"__metadata__: expected an object of strings, got null",
       file_with(R"({"__metadata__":null})")},
      {"__metadata__: expected an object", file_with(R"({"__metadata__":["a"]})")},
      {"__metadata__: value of 'k': expected a string, got 1",
       file_with(R"({"__metadata__":{"k":1}})")},
      {"__metadata__: value of 'k'", file_with(R"({"__metadata__":{"k":null}})")},
      {"__metadata__: value of 'k': expected a string, got an object",
       file_with(R"({"__metadata__":{"k":{"k":"v"}}})")},
      {"tensor 'a': type: expected an object with dtype, shape and data_offsets, got an array",
       file_with(R"({"a":)" + std::string(1'000'000, '['))},
      {"tensor 'a': unknown field", file_with([] {
         std::string bomb = "{";
         for (int i = 0; i < 100'000; ++i) bomb += R"("a":{)";
         return bomb;
       }())},
      // Sizes.
      in_a("shape [4294967296, 4294967296] of U8: shape product overflow",
           no_shape + "[4294967296,4294967296]"),
      in_a("shape [0, 9223372036854775807, 2] of U8: shape product overflow",
           no_shape + "[0,9223372036854775807,2]"),
      in_a("shape [2305843009213693952] of F64: shape product overflow",
           R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])", 0),
      in_a("shape [3] of F4: size: expected whole bytes, got 12 bits",
           R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"),
      in_a("shape [] of F6_E3M2: size: expected whole bytes, got 6 bits",
           R"("dtype":"F6_E3M2","shape":[],"data_offsets":[0,1])"),
      in_a("size: expected 8 bytes for shape [2] of F32, got 4 in data_offsets [0, 4)",
           R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", 4),
      in_a("size: expected 0 bytes", no_shape + "[0]"),
      in_a("size: expected 4 bytes", R"("dtype":"F32","shape":[],"data_offsets":[0,1])"),
      in_a("data_offsets: expected begin <= end, got [1, 0)", no_offsets + "[1,0]"),
      // Layout.
      in_a("the first range starts after 0: expected data_offsets to begin at 0, got 1",
           no_offsets + "[1,2]", 2),
      {"tensor 'b': ranges overlap: expected data_offsets to begin at 4, got 3",
       file_with(two + R"({"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", 7)},
      {"ranges overlap", file_with(two + R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4)},
      {"tensor 'b': ranges overlap",
       file_with(two + R"({"dtype":"U8","shape":[0],"data_offsets":[2,2]}})", 4)},
      {"tensor 'b': ranges leave a hole: expected data_offsets to begin at 4, got 5",
       file_with(two + R"({"dtype":"U8","shape":[1],"data_offsets":[5,6]}})", 6)},
      {"tensor 'b': ranges leave a hole",
       file_with(two + R"({"dtype":"U8","shape":[0],"data_offsets":[9,9]}})", 4)},
      in_a("range past the end of the file: expected data_offsets to end within 0 bytes of data",
           U8_FIELDS, 0),
      {"tensor 'b': range past the end",
       file_with(two + R"({"dtype":"U8","shape":[1],"data_offsets":[4,5]}})", 4)},
      {"trailing bytes: expected 1 bytes of data, as the header says, got 2",
       file_with(R"({"a":)" U8_TENSOR "}", 2)},
      {"trailing bytes: expected 0 bytes of data, as the header says, got 3", file_with("{}", 3)},
  };
}

TEST(SafetensorsHeaderTest, RefusesEveryMalformedFileByRule) {
  const std::vector<Malformed> cases = malformed_files();
  EXPECT_GE(cases.size(), 100U);
  for (const Malformed& bad : cases) {
    const auto header = parse(bad.file);
    ASSERT_FALSE(header.ok()) << bad.rule;
    EXPECT_EQ(header.status().code(), StatusCode::kData);
    const std::string message = header.status().message();
    EXPECT_TRUE(message.starts_with("m.safetensors: ")) << message;
    EXPECT_NE(message.find(bad.rule), message.npos) << message << "\n  lacks: " << bad.rule;
    EXPECT_LT(message.size(), 500U) << "a message must stay short whatever the file holds";
  }
}

// Bit flips, byte changes, cuts and growth of a valid file: never a crash (run it with
// sanitizers), and what is accepted keeps every invariant.
TEST(SafetensorsHeaderTest, MutationsAreRefusedOrConsistent) {
  const std::string valid = file_with(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"F4","shape":[4,2],"data_offsets":[24,28]},)"
      R"("c":{"dtype":"BF16","shape":[],"data_offsets":[28,30]},)"
      R"("d":{"dtype":"I64","shape":[0],"data_offsets":[30,30]}}  )",
      30);
  ASSERT_TRUE(parse(valid).ok());
  std::mt19937 random(20240607);
  const auto below = [&](std::size_t n) { return random() % n; };
  int accepted = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string file = valid;
    for (std::size_t change = 0; change <= below(3); ++change) {
      const std::size_t at = below(file.size());
      switch (below(5)) {
        case 0:
          file.resize(std::max<std::size_t>(at, 1));
          break;
        case 1:
          file[at] = static_cast<char>(below(256));
          break;
        case 2:
          file[at] = "0123456789[]{},:\" "[below(18)];
          break;
        case 3:
          file.push_back('x');
          break;
        default:
          file[at] = static_cast<char>(file[at] ^ (1 << below(8)));
      }
    }
    const auto header = parse(file);
    if (!header.ok()) continue;
    ++accepted;
    EXPECT_EQ(broken_invariant(header.value(), bytes_of(file)), "") << i;
  }
  EXPECT_GT(accepted, 20);  // changes of data and names alone leave a file valid
}

TEST_F(SafetensorsReaderTest, MapsAFileAndViewsItsTensors) {
  const std::string header = R"({"f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("q":{"dtype":"F4","shape":[2,4],"data_offsets":[8,12]},)"
                             R"("s":{"dtype":"F8_E4M3","shape":[2,1],"data_offsets":[12,14]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  const std::string name = write("m.safetensors", file_with(padded, 14));
  auto opened = SafetensorsFile::open(name);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const SafetensorsFile file = std::move(opened).value();  // moving keeps the pointers valid
  EXPECT_EQ(file.path(), name);
  ASSERT_EQ(file.entries().size(), 3U);
  EXPECT_EQ(static_cast<char>(file.find("f")->bytes()[7]), 'x');
  const auto f = file.as_view(*file.find("f"));
  ASSERT_TRUE(f.ok()) << f.status().message();
  EXPECT_EQ(f.value().dtype, base::DType::kF32);
  const auto q = file.as_view(*file.find("q"));
  ASSERT_TRUE(q.ok());
  EXPECT_EQ(q.value().dtype, base::DType::kU8);
  EXPECT_EQ(base::shape_string(q.value()), "[2, 2]");
  EXPECT_EQ(base::shape_string(file.as_view(*file.find("s")).value()), "[2, 1]");
}

TEST_F(SafetensorsReaderTest, RefusesWhatIsNotAReadableFile) {
  const auto code_and_name = [&](const std::string& name, StatusCode code,
                                 const std::string& rule) {
    const auto file = SafetensorsFile::open(name);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), code);
    EXPECT_EQ(file.status().message().find(name), 0U) << file.status().message();
    EXPECT_NE(file.status().message().find(rule), std::string::npos) << file.status().message();
  };
  code_and_name(path("none"), StatusCode::kIo, "No such file");
  code_and_name(folder_.string(), StatusCode::kIo, "regular file");
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  code_and_name(path("fifo"), StatusCode::kIo, "regular file");
  code_and_name("/dev/null", StatusCode::kIo, "regular file");
  code_and_name(write("empty", ""), StatusCode::kData, "file too short");
  code_and_name(write("text", "hello, world"), StatusCode::kData, "header length");
}

TEST_F(SafetensorsReaderTest, ViewsNameWhatTheyCannotShow) {
  const std::string file =
      file_with(R"({"c":{"dtype":"C64","shape":[1],"data_offsets":[0,8]},)"
                R"("o":{"dtype":"F4","shape":[2,3],"data_offsets":[8,11]},)"
                R"("r":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[11,12]},)"
                R"("x":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},)"
                R"("y":{"dtype":"U8","shape":[1],"data_offsets":[16,17]},)"
                R"("z":{"dtype":"F32","shape":[1],"data_offsets":[17,21]}})",
                21);
  const auto opened = SafetensorsFile::open(write("m.safetensors", file));
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const auto message = [&](const char* name) {
    const auto view = opened.value().as_view(*opened.value().find(name));
    EXPECT_EQ(view.status().code(), StatusCode::kUnsupported);
    EXPECT_EQ(view.status().message().find(opened.value().path()), 0U);
    return view.status().message();
  };
  EXPECT_NE(message("c").find("'c': dtype: expected F32"), std::string::npos);
  EXPECT_NE(message("o").find("'o': shape of F4: expected an even last"), std::string::npos);
  EXPECT_NE(message("r").find("'r': rank: expected at most 8, got 9"), std::string::npos);
  // x and z lie five bytes apart: at least one of them is not aligned, whatever the header.
  const bool x = opened.value().as_view(*opened.value().find("x")).ok();
  EXPECT_NE(message(x ? "z" : "x").find("alignment of F32: expected 4 bytes"), std::string::npos);
}

TEST(Utf8Test, QuotesWithoutControlCharactersAndCutsLongText) {
  EXPECT_EQ(quote_text("é\n\x7F\xFF"), "'é\\x0a\\x7f\\xff'");
  const std::string cut = quote_text(std::string(5000, 'n'));
  EXPECT_LT(cut.size(), 160U);
  EXPECT_NE(cut.find("(5000 bytes)"), std::string::npos);
}

}  // namespace
}  // namespace halfbyte::io
