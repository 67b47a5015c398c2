// Files made by hand for the tests of this folder: the header's text is the test's, byte for byte.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

namespace halfbyte::io {

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A length field, of any value.
inline std::string length_field(std::uint64_t length) {
  std::string field(sizeof(length), '\0');
  std::memcpy(field.data(), &length, sizeof(length));
  return field;
}

// A file with this header and `data_bytes` bytes of data.
inline std::string file_with(std::string_view header, std::size_t data_bytes = 0) {
  return length_field(header.size()) + std::string(header) + std::string(data_bytes, 'x');
}

// A folder of its own for each test, removed at the end.
class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "halfbyte-io.XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, std::string_view content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // The files in the folder, hidden ones included.
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::filesystem::path folder_;
};

}  // namespace halfbyte::io
