// quantize_checkpoint() on small synthetic checkpoints.
#include <functional>

#include "halfbyte/checkpoint/checkpoint_test_util.h"
#include "halfbyte/formats/mxfp4.h"
#include "halfbyte/formats/nvfp4.h"

namespace halfbyte::checkpoint {
namespace {

using QuantizeCheckpoint = CheckpointTest;

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

TEST_F(QuantizeCheckpoint, ModelOptFolder) {
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
    const float shared = module == kO ? amax(kO) : std::max(amax(kQ), amax(kK));
    EXPECT_EQ(d, shared / 2688.0f);  // as ModelOpt computes it, not the reciprocal of g
    expect_nvfp4(file.value(), names, 2688.0f / shared, d,
                 [&](std::int64_t i) { return original(module, i); });
  }
  const auto* kept = file.value().find("lm_head.weight");
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(std::memcmp(kept->data, tensors_["lm_head.weight"].values.data(), 16 * 64 * 2), 0);
}

TEST_F(QuantizeCheckpoint, FusedLayersShareTheirScale) {
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

TEST_F(QuantizeCheckpoint, Mxfp4) {
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

TEST_F(QuantizeCheckpoint, ZeroWeightsStayZero) {
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

TEST_F(QuantizeCheckpoint, SameBytesForAnyNumberOfThreads) {
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

TEST_F(QuantizeCheckpoint, NotesSplitFamiliesAndUnusedPatterns) {
  QuantizeOptions options;
  options.patterns.ignore = {"*.k_proj", "nothing"};
  const auto report =
      quantize_checkpoint(write_file(root_ / "in.safetensors"), root_ / "out", options);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report.value().layers.size(), 2u);
  ASSERT_EQ(report.value().notes.size(), 2u);
  EXPECT_NE(report.value().notes[0].find("'nothing'"), std::string::npos);
  EXPECT_NE(report.value().notes[1].find(kK), std::string::npos);
}

TEST_F(QuantizeCheckpoint, RefusesQuantizedInput) {
  const fs::path in = write_folder();
  ASSERT_TRUE(quantize_checkpoint(in, root_ / "once", {}).ok());
  expect_refused(root_ / "once", root_ / "twice", {}, StatusCode::kData, "hf_quant_config.json");
  expect_refused(root_ / "once/model.safetensors", root_ / "twice", {}, StatusCode::kData,
                 "not quantized");
  fs::remove(root_ / "once/hf_quant_config.json");
  expect_refused(root_ / "once", root_ / "twice", {}, StatusCode::kData, "quantization_config");
}

TEST_F(QuantizeCheckpoint, RefusesWeightsThatAreNotFinite) {
  for (const int bits : {0x7FC0, 0x7F80, 0xFF80}) {
    add(std::string(kO) + ".weight", {8, 64}, 1.0f)[77] = {static_cast<std::uint16_t>(bits)};
    expect_refused(write_folder(), root_ / "out", {}, StatusCode::kData, kO);
  }
}

TEST_F(QuantizeCheckpoint, RefusesExistingOutput) {
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

TEST_F(QuantizeCheckpoint, RefusesToWriteIntoItsInput) {
  const fs::path in = write_folder();
  QuantizeOptions force;
  force.overwrite = true;
  for (const fs::path& out : {in, in / "sub", root_}) {
    expect_refused(in, out, force, StatusCode::kInvalidArgument, "apart from the input");
  }
  expect_refused(in / "model.safetensors", in / "model.safetensors", force,
                 StatusCode::kInvalidArgument, "apart from the input");
}

TEST_F(QuantizeCheckpoint, RefusesWhatItCannotDo) {
  const fs::path in = write_folder();
  QuantizeOptions mxfp4;
  mxfp4.format = Format::kMxfp4;
  mxfp4.convention = Convention::kModelOpt;
  expect_refused(in, root_ / "out", mxfp4, StatusCode::kInvalidArgument, "compressed-tensors");
  QuantizeOptions fp8;
  fp8.format = Format::kFp8;
  expect_refused(in, root_ / "out", fp8, StatusCode::kInvalidArgument, "nvfp4 or mxfp4");
  QuantizeOptions everything;
  everything.patterns.ignore = {"*"};
  expect_refused(in, root_ / "out", everything, StatusCode::kData, "to quantize");
  expect_refused(root_ / "absent", root_ / "out", {}, StatusCode::kIo, "absent");
  write_text(in / "model.safetensors.index.json", "{}");
  expect_refused(in, root_ / "out", {}, StatusCode::kData, "weight_map");
  fs::remove(in / "model.safetensors.index.json");
  fs::remove(in / "config.json");
  expect_refused(in, root_ / "out", {}, StatusCode::kData, "config.json");
}

}  // namespace
}  // namespace halfbyte::checkpoint
