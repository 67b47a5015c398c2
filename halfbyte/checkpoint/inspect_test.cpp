// Each kind of finding, made on purpose; and nothing found where nothing is wrong. And what the
// reader of a folder refuses.
#include <functional>

#include "halfbyte/checkpoint/checkpoint_test_util.h"
#include "halfbyte/checkpoint/inspect_checkpoint.h"

namespace halfbyte::checkpoint {
namespace {

class Inspect : public CheckpointTest {
 protected:
  InspectReport inspect(const fs::path& path) {
    const auto report = inspect_checkpoint(path, {});
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? report.value() : InspectReport{};
  }
  // A quantized folder, whose tensor `name` is then changed in place.
  fs::path quantized(const QuantizeOptions& options = {}) {
    QuantizeOptions forced = options;
    forced.overwrite = true;
    const auto report = quantize_checkpoint(write_folder(), root_ / "q", forced);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return root_ / "q";
  }
  void change(const std::string& name, const std::function<void(std::span<std::uint8_t>)>& edit) {
    const fs::path path = root_ / "q" / "model.safetensors";
    std::string bytes = read_bytes(path);
    const auto file = io::SafetensorsFile::open(path.string());
    ASSERT_TRUE(file.ok());
    const auto* entry = file.value().find(name);
    ASSERT_NE(entry, nullptr) << name;
    const std::size_t length = *reinterpret_cast<const std::uint64_t*>(bytes.data());
    auto* data = reinterpret_cast<std::uint8_t*>(bytes.data()) + 8 + length + entry->begin;
    edit({data, static_cast<std::size_t>(entry->size_bytes())});
    std::ofstream(path, std::ios::binary) << bytes;
  }
  void set_float(const std::string& name, float value) {
    change(name, [&](std::span<std::uint8_t> bytes) { std::memcpy(bytes.data(), &value, 4); });
  }
  void expect_finding(const std::string& kind, const std::string& tensor = "") {
    const InspectReport report = inspect(root_ / "q");
    for (const Finding& finding : report.findings) {
      if (finding.kind != kind) continue;
      EXPECT_TRUE(tensor.empty() || finding.tensors == std::vector<std::string>{tensor})
          << finding.tensors.front();
      return;
    }
    ADD_FAILURE() << "no finding " << kind << " among " << report.findings.size();
  }
};

const std::string kWeight = std::string(kO) + ".weight";
const std::string kScale = std::string(kO) + ".weight_scale";
const std::string kGlobal = std::string(kO) + ".weight_scale_2";

TEST_F(Inspect, AGoodCheckpointHasNothingSuspicious) {
  for (const auto convention : {Convention::kModelOpt, Convention::kCompressedTensors}) {
    QuantizeOptions options;
    options.convention = convention;
    options.activation_amax = ActivationAmax{{kQ, 3.0f}, {kK, 5.0f}, {kO, 7.0f}};
    const InspectReport report = inspect(quantized(options));
    for (const Finding& finding : report.findings) {
      EXPECT_EQ(finding.kind, "tensor_parallel");  // K is 64 here
      EXPECT_EQ(finding.severity, Severity::kNote);
    }
    EXPECT_EQ(report.weights.size(), 3u);
    EXPECT_EQ(report.total_blocks, (8 + 4 + 8) * 64 / 16);
    EXPECT_EQ(report.sampled_blocks, report.total_blocks);
    EXPECT_TRUE(report.declaration.activations);
  }
  EXPECT_TRUE(inspect(root_ / "in").findings.empty());
}

TEST_F(Inspect, BlockScales) {
  quantized();
  change(kScale, [](std::span<std::uint8_t> bytes) { bytes[5] = 0x7F; });
  expect_finding("nan_scale", kWeight);
  quantized();
  change(kScale, [](std::span<std::uint8_t> bytes) { bytes[5] |= 0x80; });
  expect_finding("negative_scale", kWeight);
  quantized();
  change(kScale, [](std::span<std::uint8_t> bytes) { bytes[5] = 0; });
  expect_finding("zero_scale", kWeight);
  quantized();
  for (const std::string& name : {kScale, kWeight}) {
    change(name, [](std::span<std::uint8_t> bytes) { std::fill(bytes.begin(), bytes.end(), 0); });
  }
  expect_finding("uninitialised", kWeight);
  QuantizeOptions mxfp4;
  mxfp4.format = Format::kMxfp4;
  quantized(mxfp4);
  change(kScale, [](std::span<std::uint8_t> bytes) {
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 + 1);
  });
  expect_finding("uninitialised", kWeight);
}

TEST_F(Inspect, GlobalScales) {
  for (const float value : {0.0f, -1.0f, INFINITY, NAN}) {
    quantized();
    set_float(kGlobal, value);
    expect_finding("bad_global_scale", kWeight);
  }
  quantized();
  set_float(kGlobal, 11000.0f);
  expect_finding("inverted_global_scale", kWeight);
  QuantizeOptions options;
  options.convention = Convention::kCompressedTensors;
  quantized(options);
  set_float(std::string(kO) + ".weight_global_scale", 1e-4f);
  expect_finding("inverted_global_scale", kWeight);
  quantized();
  set_float(std::string(kK) + ".weight_scale_2", 1e-4f);
  expect_finding("fused_scales_differ", std::string(kQ) + ".weight");
}

TEST_F(Inspect, Declarations) {
  quantized();
  auto config = read_json(root_ / "q" / "config.json");
  const auto hf = read_json(root_ / "q" / "hf_quant_config.json");
  auto changed = hf;
  changed["quantization"]["quant_algo"] = "NVFP4";
  write_text(root_ / "q" / "hf_quant_config.json", changed.dump());
  expect_finding("activation_scale_missing");
  write_text(root_ / "q" / "hf_quant_config.json", hf.dump());
  config["quantization_config"]["ignore"] = {"re:.*o_proj", "model.layers.0.self_attn.k_proj"};
  write_text(root_ / "q" / "config.json", config.dump());
  expect_finding("ignored_but_quantized");
  expect_finding("not_in_ignore", "lm_head.weight");
  config["quantization_config"]["quant_method"] = "compressed-tensors";
  write_text(root_ / "q" / "config.json", config.dump());
  fs::remove(root_ / "q" / "hf_quant_config.json");
  expect_finding("declaration_differs");
  config.erase("quantization_config");
  write_text(root_ / "q" / "config.json", config.dump());
  expect_finding("undeclared");
}

TEST_F(Inspect, Shapes) {
  add(kWeight, {8, 256}, 0.01f);
  add(std::string(kQ) + ".weight", {8, 80}, 0.01f);
  quantized();
  expect_finding("block_alignment", std::string(kQ) + ".weight");
  expect_finding("tensor_parallel", kWeight);  // 4 ranks of 64, not 8
}

TEST_F(Inspect, FoldersThatAreRefused) {
  const auto refused = [&](const fs::path& path, StatusCode code, const std::string& says) {
    const auto report = inspect_checkpoint(path, {});
    ASSERT_FALSE(report.ok()) << says;
    EXPECT_EQ(report.status().code(), code) << report.status().message();
    EXPECT_NE(report.status().message().find(says), std::string::npos) << report.status().message();
  };
  const fs::path folder = write_sharded("in", {"lm_head.weight"});
  const fs::path index = folder / "model.safetensors.index.json";
  const std::string good = read_bytes(index);
  const std::string second = "model-00002-of-00002.safetensors";
  EXPECT_TRUE(inspect_checkpoint(folder, {}).ok());
  refused(root_ / "absent", StatusCode::kIo, "absent");

  auto json = nlohmann::json::parse(good);
  json["weight_map"]["absent.weight"] = second;
  write_text(index, json.dump());
  refused(folder, StatusCode::kData, "'absent.weight'");
  json = nlohmann::json::parse(good);
  json["weight_map"]["model.norm.weight"] = second;
  write_text(index, json.dump());
  refused(folder, StatusCode::kData, "'model.norm.weight'");
  write_text(index, good);

  const std::string shard = read_bytes(folder / second);
  write_text(folder / second, shard.substr(0, shard.size() - 1));
  refused(folder, StatusCode::kData, second);
  write_text(folder / second, read_bytes(folder / "model-00001-of-00002.safetensors"));
  refused(folder, StatusCode::kData, "expected in one shard");
  fs::remove(folder / second);
  refused(folder, StatusCode::kData, second);
  fs::remove(index);
  refused(folder, StatusCode::kData, "model.safetensors");
}

TEST_F(Inspect, WeightsThatDoNotFitTogetherAreRefused) {
  std::vector<std::uint8_t> bytes(1024);
  float one = 1;
  const auto refused = [&](std::vector<std::int64_t> scale_shape, SafetensorsDType dtype,
                           const std::string& says) {
    const io::NamedTensor tensors[] = {
        {"a.weight_packed", TensorView(bytes.data(), DType::kU8, {4, 16}), {}},
        {"a.weight_scale", TensorView(bytes.data(), DType::kU8, scale_shape), dtype},
        {"a.weight_global_scale", TensorView(&one, DType::kF32, {1}), {}}};
    const std::string path = (root_ / "m.safetensors").string();
    ASSERT_TRUE(io::write_safetensors(path, tensors, {}).ok());
    const auto report = inspect_checkpoint(path, {});
    if (says.empty()) {
      EXPECT_TRUE(report.ok()) << report.status().message();
      return;
    }
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), StatusCode::kData);
    EXPECT_NE(report.status().message().find(says), std::string::npos) << report.status().message();
  };
  refused({4, 2}, SafetensorsDType::kF8E4M3, "");
  refused({4, 1}, SafetensorsDType::kF8E4M3, "expected [4, 2]");
  refused({2, 4}, SafetensorsDType::kF8E4M3, "expected [4, 2]");
  refused({4, 2}, SafetensorsDType::kU8, "expected F8_E4M3");
}

}  // namespace
}  // namespace halfbyte::checkpoint
