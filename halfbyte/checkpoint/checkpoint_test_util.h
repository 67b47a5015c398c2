// Small synthetic checkpoints for the tests of this folder.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "halfbyte/checkpoint/quantize_checkpoint.h"
#include "halfbyte/io/safetensors_index.h"
#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/safetensors_writer.h"
#include "halfbyte/numerics/half_types.h"

namespace halfbyte::checkpoint {

namespace fs = std::filesystem;
using base::DType;
using base::StatusCode;
using base::TensorView;
using formats::Format;
using io::SafetensorsDType;
using numerics::Bf16;

inline constexpr const char* kQ = "model.layers.0.self_attn.q_proj";
inline constexpr const char* kK = "model.layers.0.self_attn.k_proj";
inline constexpr const char* kO = "model.layers.0.self_attn.o_proj";

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "halfbyte-checkpoint.XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    add(std::string(kQ) + ".weight", {8, 64}, 0.5f);
    add(std::string(kK) + ".weight", {4, 64}, 2.0f);
    add(std::string(kO) + ".weight", {8, 64}, 0.01f);
    add("model.embed_tokens.weight", {16, 64}, 1.0f);
    add("model.norm.weight", {64}, 1.0f);
    add("lm_head.weight", {16, 64}, 1.0f);
  }
  void TearDown() override { fs::remove_all(root_); }

  static std::string read_bytes(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  // Adds or replaces a tensor of the checkpoint to come.
  std::vector<Bf16>& add(const std::string& name, std::vector<std::int64_t> shape, float sigma) {
    std::int64_t count = 1;
    for (const std::int64_t dim : shape) count *= dim;
    std::mt19937 generator(static_cast<unsigned>(tensors_.size() + 1));
    std::normal_distribution<float> normal(0.0f, sigma);
    Tensor& tensor = tensors_[name];
    tensor.shape = std::move(shape);
    tensor.values.clear();
    for (std::int64_t i = 0; i < count; ++i) {
      tensor.values.push_back(numerics::bf16_from_float(normal(generator)));
    }
    return tensor.values;
  }
  fs::path write_file(const fs::path& path) {
    std::vector<io::NamedTensor> named;
    for (auto& [name, tensor] : tensors_) {
      named.push_back({name, TensorView(tensor.values.data(), DType::kBF16, tensor.shape)});
    }
    EXPECT_TRUE(io::write_safetensors(path.string(), named, {{"format", "pt"}}).ok());
    return path;
  }
  fs::path write_folder() {
    const fs::path folder = root_ / "in";
    fs::create_directories(folder);
    write_file(folder / "model.safetensors");
    write_text(folder / "config.json", R"({"model_type": "llama"})");
    write_text(folder / "tokenizer.json", "{}");
    write_text(folder / "activations.safetensors", "recordings");
    return folder;
  }
  // A folder with two shards: the tensors named by `second`, and the others.
  fs::path write_sharded(const std::string& name, const std::vector<std::string>& second,
                         const std::string& config = R"({"model_type": "llama"})") {
    const fs::path folder = root_ / name;
    fs::create_directories(folder);
    io::SafetensorsIndex index;
    for (const bool last : {false, true}) {
      const std::string file =
          last ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors";
      std::vector<io::NamedTensor> named;
      for (auto& [tensor, data] : tensors_) {
        if ((std::find(second.begin(), second.end(), tensor) != second.end()) != last) continue;
        named.push_back({tensor, TensorView(data.values.data(), DType::kBF16, data.shape)});
        index[tensor] = file;
      }
      EXPECT_TRUE(io::write_safetensors((folder / file).string(), named, {{"format", "pt"}}).ok());
    }
    write_text(folder / "model.safetensors.index.json", io::safetensors_index_json(index, 1));
    write_text(folder / "config.json", config);
    return folder;
  }
  static void write_text(const fs::path& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  static nlohmann::json read_json(const fs::path& path) {
    std::ifstream file(path);
    return nlohmann::json::parse(file);
  }
  float original(const std::string& module, std::int64_t index) const {
    return numerics::to_float(
        tensors_.at(module + ".weight").values[static_cast<std::size_t>(index)]);
  }
  float amax(const std::string& module) const {
    float most = 0;
    for (const Bf16 value : tensors_.at(module + ".weight").values) {
      most = std::max(most, std::fabs(numerics::to_float(value)));
    }
    return most;
  }
  // Names in the test's folder, hidden ones too.
  std::vector<std::string> listing() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(root_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  // The operation fails with `code`, says `text`, and leaves the folder as it was.
  void expect_refused(const fs::path& in, const fs::path& out, const QuantizeOptions& options,
                      StatusCode code, const std::string& text) const {
    const auto before = listing();
    const auto report = quantize_checkpoint(in, out, options);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), code) << report.status().message();
    EXPECT_NE(report.status().message().find(text), std::string::npos) << report.status().message();
    EXPECT_EQ(listing(), before);
  }

  struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<Bf16> values;
  };
  std::map<std::string, Tensor> tensors_;
  fs::path root_;
};

inline float float_of(const io::SafetensorsEntry& entry) {
  float value = 0;
  std::memcpy(&value, entry.data, sizeof value);
  return value;
}
inline std::uint8_t byte_of(const io::SafetensorsEntry& entry, std::int64_t index) {
  return std::to_integer<std::uint8_t>(entry.data[index]);
}

}  // namespace halfbyte::checkpoint
