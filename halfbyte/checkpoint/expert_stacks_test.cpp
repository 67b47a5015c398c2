// Stacks of experts: orientation, splitting, the forms engines load, and back.
#include "halfbyte/checkpoint/expert_stacks.h"

#include "halfbyte/checkpoint/checkpoint_test_util.h"
#include "halfbyte/checkpoint/compare_checkpoints.h"
#include "halfbyte/checkpoint/dequantize_checkpoint.h"

namespace halfbyte::checkpoint {
namespace {

constexpr const char* kGateUp = "model.layers.0.mlp.experts.gate_up_proj";
constexpr const char* kDown = "model.layers.0.mlp.experts.down_proj";
constexpr std::int64_t kExperts = 3, kHidden = 64, kInner = 96;

class ExpertStacks : public CheckpointTest {
 protected:
  fs::path write(const std::string& model, bool transposed) {
    tensors_.clear();
    const std::int64_t h = kHidden, i = kInner;
    add(kGateUp, transposed ? std::vector{kExperts, h, 2 * i} : std::vector{kExperts, 2 * i, h},
        0.3f);
    add(kDown, transposed ? std::vector{kExperts, i, h} : std::vector{kExperts, h, i}, 0.2f);
    const fs::path folder = root_ / "in";
    fs::create_directories(folder);
    write_file(folder / "model.safetensors");
    write_text(folder / "config.json",
               R"({"model_type": ")" + model + R"(", "text_config": {"hidden_size": 64}})");
    return folder;
  }
  QuantizeReport quantize(const fs::path& in, Format format, Convention convention) {
    QuantizeOptions options;
    options.format = format;
    options.convention = convention;
    options.overwrite = true;
    const auto report = quantize_checkpoint(in, root_ / "q", options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? report.value() : QuantizeReport{};
  }
  std::vector<std::int64_t> shape(const fs::path& folder, const std::string& name) {
    const auto file = io::SafetensorsFile::open((folder / "model.safetensors").string());
    EXPECT_TRUE(file.ok());
    const auto* entry = file.value().find(name);
    return entry == nullptr ? std::vector<std::int64_t>{-1} : entry->shape;
  }
  // What the encoder reports is what compare finds in the file, through quite another path.
  void expect_reported_errors(const fs::path& in, const QuantizeReport& report) {
    const auto compared = compare_checkpoints(in, root_ / "q", {});
    ASSERT_TRUE(compared.ok()) << compared.status().message();
    EXPECT_TRUE(compared.value().only_a.empty());
    double reported = 0, found = 0;
    for (const QuantizedLayer& layer : report.layers) reported += layer.error.noise;
    for (const ComparedTensor& tensor : compared.value().tensors) found += tensor.error.noise;
    EXPECT_NEAR(found, reported, reported * 1e-12);  // fp64 sums in another order
    EXPECT_GT(report.mean_sqnr_db(), 15);
  }
};

TEST_F(ExpertStacks, OneLayerAnExpert) {
  for (const bool transposed : {false, true}) {
    const fs::path in = write(transposed ? "qwen3_vl_moe" : "qwen3_5_moe", transposed);
    for (const auto convention : {Convention::kModelOpt, Convention::kCompressedTensors}) {
      const QuantizeReport report = quantize(in, Format::kNvfp4, convention);
      EXPECT_EQ(report.layers.size(), static_cast<std::size_t>(3 * kExperts));
      const std::string prefix = "model.layers.0.mlp.experts.1.";
      const std::string codes = convention == Convention::kModelOpt ? "weight" : "weight_packed";
      EXPECT_EQ(shape(root_ / "q", prefix + "gate_proj." + codes),
                (std::vector<std::int64_t>{kInner, kHidden / 2}));
      EXPECT_EQ(shape(root_ / "q", prefix + "up_proj.weight_scale"),
                (std::vector<std::int64_t>{kInner, kHidden / 16}));
      EXPECT_EQ(shape(root_ / "q", prefix + "down_proj." + codes),
                (std::vector<std::int64_t>{kHidden, kInner / 2}));
      EXPECT_EQ(shape(root_ / "q", kGateUp), std::vector<std::int64_t>{-1});
      // Three down_proj come first; gate and up of an expert share a scale, experts do not.
      EXPECT_EQ(report.layers[3].tensor, "model.layers.0.mlp.experts.0.gate_proj");
      EXPECT_EQ(report.layers[3].scale.encode, report.layers[4].scale.encode);
      EXPECT_NE(report.layers[3].scale.encode, report.layers[5].scale.encode);
      expect_reported_errors(in, report);
    }
  }
}

TEST_F(ExpertStacks, ModelOptKeepsLlama4AndGptOssStacked) {
  for (const char* model : {"llama4", "gpt_oss"}) {
    const fs::path in = write(model, true);
    const QuantizeReport report = quantize(in, Format::kNvfp4, Convention::kModelOpt);
    EXPECT_EQ(report.layers.size(), static_cast<std::size_t>(2 * kExperts));
    EXPECT_EQ(shape(root_ / "q", kGateUp),
              (std::vector<std::int64_t>{kExperts, kHidden / 2, 2 * kInner}));
    EXPECT_EQ(shape(root_ / "q", std::string(kGateUp) + "_weight_scale"),
              (std::vector<std::int64_t>{kExperts, kHidden / 16, 2 * kInner}));
    EXPECT_EQ(shape(root_ / "q", std::string(kDown) + "_weight_scale_2"),
              std::vector<std::int64_t>{});
    expect_reported_errors(in, report);
    DequantizeOptions options;
    options.overwrite = true;
    ASSERT_TRUE(dequantize_checkpoint(root_ / "q", root_ / "back", options).ok());
    EXPECT_EQ(shape(root_ / "back", kGateUp),
              (std::vector<std::int64_t>{kExperts, kHidden, 2 * kInner}));
  }
}

TEST_F(ExpertStacks, GptOssMxfp4) {
  const fs::path in = write("gpt_oss", true);
  const QuantizeReport report = quantize(in, Format::kMxfp4, Convention::kGptOss);
  EXPECT_EQ(shape(root_ / "q", std::string(kGateUp) + "_blocks"),
            (std::vector<std::int64_t>{kExperts, 2 * kInner, kHidden / 32, 16}));
  EXPECT_EQ(shape(root_ / "q", std::string(kDown) + "_scales"),
            (std::vector<std::int64_t>{kExperts, kHidden, kInner / 32}));
  EXPECT_EQ(read_json(root_ / "q" / "config.json")["quantization_config"]["quant_method"], "mxfp4");
  expect_reported_errors(in, report);
  // Values of MXFP4 are bf16 values: quantizing what was dequantized gives the same file.
  const auto back = dequantize_checkpoint(root_ / "q", root_ / "back", {});
  ASSERT_TRUE(back.ok()) << back.status().message();
  QuantizeOptions again;
  again.format = Format::kMxfp4;
  again.convention = Convention::kGptOss;
  ASSERT_TRUE(quantize_checkpoint(root_ / "back", root_ / "q2", again).ok());
  const auto compared = compare_checkpoints(root_ / "back", root_ / "q2", {});
  ASSERT_TRUE(compared.ok());
  for (const auto& tensor : compared.value().tensors) EXPECT_EQ(tensor.error.noise, 0);
}

TEST_F(ExpertStacks, WhatNobodyCouldLoadIsRefused) {
  QuantizeOptions options;
  options.convention = Convention::kCompressedTensors;
  expect_refused(write("gpt_oss", true), root_ / "q", options, StatusCode::kUnsupported, kDown);
  options.format = Format::kMxfp4;
  options.convention = Convention::kGptOss;
  expect_refused(write("llama4", true), root_ / "q", options, StatusCode::kUnsupported, "gpt-oss");
  // Both axes are 64: only the model type could tell.
  write("unheard_of", false);
  tensors_.clear();
  add(kDown, {2, 64, 64}, 1.0f);
  write_file(root_ / "in" / "model.safetensors");
  expect_refused(root_ / "in", root_ / "q", {}, StatusCode::kUnsupported, "hidden_size");
  options = {};
  options.patterns.ignore = {"*.down_proj"};
  expect_refused(root_ / "in", root_ / "q", options, StatusCode::kData, "to quantize");
}

}  // namespace
}  // namespace halfbyte::checkpoint
