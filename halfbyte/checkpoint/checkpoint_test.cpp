// quantize_checkpoint() on small synthetic checkpoints.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "halfbyte/checkpoint/quantize_checkpoint.h"
#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/io/safetensors_reader.h"
#include "halfbyte/io/safetensors_writer.h"
#include "halfbyte/numerics/half_types.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::DType;
using base::StatusCode;
using base::TensorView;
using formats::Format;
using io::SafetensorsDType;
using numerics::Bf16;

constexpr const char* kQ = "model.layers.0.self_attn.q_proj";
constexpr const char* kK = "model.layers.0.self_attn.k_proj";
constexpr const char* kO = "model.layers.0.self_attn.o_proj";

class Checkpoint : public testing::Test {
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

float float_of(const io::SafetensorsEntry& entry) {
  float value = 0;
  std::memcpy(&value, entry.data, sizeof value);
  return value;
}
std::uint8_t byte_of(const io::SafetensorsEntry& entry, std::int64_t index) {
  return std::to_integer<std::uint8_t>(entry.data[index]);
}

QuantizedLayer layer_of(const QuantizeReport& report, const std::string& module) {
  for (const QuantizedLayer& layer : report.layers) {
    if (layer.tensor == module + ".weight") return layer;
  }
  ADD_FAILURE() << module;
  return {};
}

// The codes and scales of a module are the definition's, computed here element by element.
void expect_nvfp4(const io::SafetensorsFile& file, const LinearTensorNames& names, float g, float d,
                  const std::function<float(std::int64_t)>& original) {
  const auto* codes = file.find(names.codes);
  const auto* scales = file.find(names.scales);
  ASSERT_NE(codes, nullptr);
  ASSERT_NE(scales, nullptr);
  EXPECT_EQ(codes->dtype, SafetensorsDType::kU8);
  EXPECT_EQ(scales->dtype, SafetensorsDType::kF8E4M3);
  ASSERT_EQ(codes->shape[1], 32);
  ASSERT_EQ(scales->shape[1], 4);
  const formats::Nvfp4Scale scale{g, d, false};
  for (std::int64_t block = 0; block < codes->shape[0] * 4; ++block) {
    float amax = 0;
    for (int i = 0; i < 16; ++i) amax = std::max(amax, std::fabs(original(block * 16 + i)));
    const std::uint8_t s = formats::nvfp4_block_scale(amax, scale, formats::ScaleRule::kKernel);
    ASSERT_EQ(byte_of(*scales, block), s) << block;
    const float r = formats::nvfp4_reciprocal(s, scale);
    for (int i = 0; i < 16; ++i) {
      const std::int64_t index = block * 16 + i;
      ASSERT_EQ(formats::e2m1_unpack(byte_of(*codes, index / 2), static_cast<int>(index % 2)),
                formats::nvfp4_encode(original(index), r))
          << index;
    }
  }
}

TEST_F(Checkpoint, ModelOptFolder) {
  const fs::path in = write_folder(), out = root_ / "out";
  const auto report = quantize_checkpoint(in, out, {});
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report.value().layers.size(), 3u);
  EXPECT_EQ(report.value().tensors_kept, 3);
  ASSERT_EQ(report.value().excluded.size(), 1u);
  EXPECT_EQ(report.value().excluded[0].module, "lm_head");
  EXPECT_GT(report.value().mean_sqnr_db(), 15.0);
  EXPECT_LT(report.value().bytes_after, report.value().bytes_before);

  EXPECT_EQ(read_json(out / "config.json")["quantization_config"]["quant_method"], "modelopt");
  EXPECT_EQ(read_json(out / "config.json")["model_type"], "llama");
  EXPECT_EQ(read_json(out / "hf_quant_config.json")["quantization"]["quant_algo"], "W4A16_NVFP4");
  EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
  EXPECT_FALSE(fs::exists(out / "activations.safetensors"));
  EXPECT_EQ(listing(), (std::vector<std::string>{"in", "out"}));

  const auto file = io::SafetensorsFile::open((out / "model.safetensors").string());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file.value().metadata().at("format"), "pt");
  for (const char* module : {kQ, kK, kO}) {
    const auto names = linear_tensor_names(Convention::kModelOpt, Format::kNvfp4, module);
    const auto* stored = file.value().find(names.global_scale);
    ASSERT_NE(stored, nullptr);
    EXPECT_TRUE(stored->shape.empty());
    const float d = float_of(*stored);
    expect_nvfp4(file.value(), names, 1.0f / d, d,
                 [&](std::int64_t i) { return original(module, i); });
  }
  const auto* kept = file.value().find("lm_head.weight");
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(std::memcmp(kept->data, tensors_["lm_head.weight"].values.data(), 16 * 64 * 2), 0);
}

TEST_F(Checkpoint, FusedLayersShareTheirScale) {
  const fs::path in = write_file(root_ / "in.safetensors"), out = root_ / "out.safetensors";
  QuantizeOptions options;
  options.convention = Convention::kCompressedTensors;
  const auto report = quantize_checkpoint(in, out, options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  const auto file = io::SafetensorsFile::open(out.string());
  ASSERT_TRUE(file.ok());
  const float shared = 2688.0f / std::max(amax(kQ), amax(kK));
  const std::pair<const char*, float> expected[] = {
      {kQ, shared}, {kK, shared}, {kO, 2688.0f / amax(kO)}};
  for (const auto& [module, g] : expected) {
    const auto names = linear_tensor_names(Convention::kCompressedTensors, Format::kNvfp4, module);
    const auto* stored = file.value().find(names.global_scale);
    ASSERT_NE(stored, nullptr);
    EXPECT_EQ(stored->shape, std::vector<std::int64_t>{1});
    EXPECT_EQ(float_of(*stored), g);
    expect_nvfp4(file.value(), names, g, 1.0f / g,
                 [&, name = std::string(module)](std::int64_t i) { return original(name, i); });
  }
  EXPECT_EQ(nlohmann::json::parse(file.value().metadata().at(
                "quantization_config"))["config_groups"]["group_0"]["input_activations"],
            nullptr);
}

TEST_F(Checkpoint, Mxfp4) {
  const fs::path in = write_file(root_ / "in.safetensors"), out = root_ / "out.safetensors";
  QuantizeOptions options;
  options.format = Format::kMxfp4;
  const auto report = quantize_checkpoint(in, out, options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report.value().convention, Convention::kCompressedTensors);
  const auto file = io::SafetensorsFile::open(out.string());
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file.value().find(std::string(kO) + ".weight_global_scale"), nullptr);
  const auto* codes = file.value().find(std::string(kO) + ".weight_packed");
  const auto* scales = file.value().find(std::string(kO) + ".weight_scale");
  ASSERT_TRUE(codes != nullptr && scales != nullptr);
  EXPECT_EQ(scales->dtype, SafetensorsDType::kU8);
  EXPECT_EQ(scales->shape, (std::vector<std::int64_t>{8, 2}));
  double worst = 0;
  for (std::int64_t i = 0; i < 8 * 64; ++i) {
    const std::uint8_t code = formats::e2m1_unpack(byte_of(*codes, i / 2), static_cast<int>(i % 2));
    const float back = formats::mxfp4_decode(code, byte_of(*scales, i / 32));
    worst = std::max(worst, static_cast<double>(std::fabs(back - original(kO, i))));
  }
  EXPECT_EQ(layer_of(report.value(), kO).error.max_abs, worst);
}

TEST_F(Checkpoint, ZeroWeightsStayZero) {
  for (Bf16& value : add(std::string(kO) + ".weight", {8, 64}, 1.0f)) value = {0};
  const fs::path out = root_ / "out.safetensors";
  const auto report = quantize_checkpoint(write_file(root_ / "in.safetensors"), out, {});
  ASSERT_TRUE(report.ok()) << report.status().message();
  const QuantizedLayer layer = layer_of(report.value(), kO);
  EXPECT_EQ(layer.scale.decode, 1.0f);
  EXPECT_EQ(layer.error.zero_share(), 1.0);
  EXPECT_TRUE(std::isinf(layer.error.sqnr_db()));
  EXPECT_TRUE(std::isfinite(report.value().mean_sqnr_db()));
}

TEST_F(Checkpoint, SameBytesForAnyNumberOfThreads) {
  add("model.layers.0.mlp.down_proj.weight", {256, 1024}, 0.02f);
  const fs::path in = write_file(root_ / "in.safetensors");
  std::vector<std::string> files;
  for (const int threads : {1, 2, 5}) {
    const fs::path out = root_ / ("out" + std::to_string(threads));
    QuantizeOptions options;
    options.num_threads = threads;
    ASSERT_TRUE(quantize_checkpoint(in, out, options).ok());
    std::ifstream file(out, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST_F(Checkpoint, NotesSplitFamiliesAndUnusedPatterns) {
  QuantizeOptions options;
  options.ignore = {"*.k_proj", "nothing"};
  const auto report =
      quantize_checkpoint(write_file(root_ / "in.safetensors"), root_ / "out", options);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report.value().layers.size(), 2u);
  ASSERT_EQ(report.value().notes.size(), 2u);
  EXPECT_NE(report.value().notes[0].find("'nothing'"), std::string::npos);
  EXPECT_NE(report.value().notes[1].find(kK), std::string::npos);
}

TEST_F(Checkpoint, RefusesQuantizedInput) {
  const fs::path in = write_folder();
  ASSERT_TRUE(quantize_checkpoint(in, root_ / "once", {}).ok());
  expect_refused(root_ / "once", root_ / "twice", {}, StatusCode::kData, "hf_quant_config.json");
  expect_refused(root_ / "once/model.safetensors", root_ / "twice", {}, StatusCode::kData,
                 "not quantized");
  fs::remove(root_ / "once/hf_quant_config.json");
  expect_refused(root_ / "once", root_ / "twice", {}, StatusCode::kData, "quantization_config");
}

TEST_F(Checkpoint, RefusesWeightsThatAreNotFinite) {
  for (const int bits : {0x7FC0, 0x7F80, 0xFF80}) {
    add(std::string(kO) + ".weight", {8, 64}, 1.0f)[77] = {static_cast<std::uint16_t>(bits)};
    expect_refused(write_folder(), root_ / "out", {}, StatusCode::kData, kO);
  }
}

TEST_F(Checkpoint, RefusesExistingOutput) {
  const fs::path in = write_folder(), out = root_ / "out";
  fs::create_directories(out);
  expect_refused(in, out, {}, StatusCode::kInvalidArgument, "--force");
  expect_refused(in / "model.safetensors", out, {}, StatusCode::kInvalidArgument, "--force");
  QuantizeOptions force;
  force.overwrite = true;
  write_text(out / "precious.txt", "x");
  expect_refused(in, out, force, StatusCode::kInvalidArgument, "config.json");
  fs::remove(out / "precious.txt");
  EXPECT_TRUE(quantize_checkpoint(in, out, force).ok());
  EXPECT_TRUE(quantize_checkpoint(in, out.string() + "/", force).ok());
  EXPECT_EQ(listing(), (std::vector<std::string>{"in", "out"}));
}

TEST_F(Checkpoint, RefusesToWriteIntoItsInput) {
  const fs::path in = write_folder();
  QuantizeOptions force;
  force.overwrite = true;
  for (const fs::path& out : {in, in / "sub", root_}) {
    expect_refused(in, out, force, StatusCode::kInvalidArgument, "apart from the input");
  }
  expect_refused(in / "model.safetensors", in / "model.safetensors", force,
                 StatusCode::kInvalidArgument, "apart from the input");
}

TEST_F(Checkpoint, RefusesWhatItCannotDo) {
  const fs::path in = write_folder();
  QuantizeOptions mxfp4;
  mxfp4.format = Format::kMxfp4;
  mxfp4.convention = Convention::kModelOpt;
  expect_refused(in, root_ / "out", mxfp4, StatusCode::kInvalidArgument, "compressed-tensors");
  QuantizeOptions fp8;
  fp8.format = Format::kFp8;
  expect_refused(in, root_ / "out", fp8, StatusCode::kInvalidArgument, "nvfp4 or mxfp4");
  QuantizeOptions everything;
  everything.ignore = {"*"};
  expect_refused(in, root_ / "out", everything, StatusCode::kData, "to quantize");
  expect_refused(root_ / "absent", root_ / "out", {}, StatusCode::kIo, "absent");
  write_text(in / "model.safetensors.index.json", "{}");
  expect_refused(in, root_ / "out", {}, StatusCode::kUnsupported, "sharded");
  fs::remove(in / "model.safetensors.index.json");
  fs::remove(in / "config.json");
  expect_refused(in, root_ / "out", {}, StatusCode::kData, "config.json");
}

}  // namespace
}  // namespace halfbyte::checkpoint
