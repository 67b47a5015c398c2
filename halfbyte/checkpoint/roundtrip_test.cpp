// Shards, dequantize, convert and compare: what was written reads back as it must.
#include <functional>

#include "halfbyte/checkpoint/checkpoint_test_util.h"
#include "halfbyte/checkpoint/compare_checkpoints.h"
#include "halfbyte/checkpoint/convert_checkpoint.h"
#include "halfbyte/checkpoint/dequantize_checkpoint.h"
#include "halfbyte/checkpoint/stored_weights.h"
#include "halfbyte/formats/e4m3.h"
#include "halfbyte/formats/nvfp4.h"

namespace halfbyte::checkpoint {
namespace {

const std::string kQWeight = std::string(kQ) + ".weight";
const std::string kKWeight = std::string(kK) + ".weight";

class RoundTrip : public CheckpointTest {
 protected:
  CompareReport compare(const fs::path& a, const fs::path& b) {
    const auto report = compare_checkpoints(a, b, {});
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? report.value() : CompareReport{};
  }
  QuantizeReport quantize(const fs::path& in, const fs::path& out,
                          const QuantizeOptions& options = {}) {
    const auto report = quantize_checkpoint(in, out, options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? report.value() : QuantizeReport{};
  }
  ConvertReport convert(const fs::path& in, const fs::path& out, Convention convention) {
    ConvertOptions options;
    options.convention = convention;
    const auto report = convert_checkpoint(in, out, options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? report.value() : ConvertReport{};
  }
};

TEST_F(RoundTrip, ShardsChangeNothing) {
  const fs::path whole = write_folder();
  const fs::path sharded = write_sharded("sharded", {kKWeight, "lm_head.weight"});
  EXPECT_TRUE(compare(whole, sharded).equal_bits());
  for (const auto convention : {Convention::kModelOpt, Convention::kCompressedTensors}) {
    QuantizeOptions options;
    options.convention = convention;
    options.overwrite = true;
    const QuantizeReport a = quantize(whole, root_ / "a", options);
    const QuantizeReport b = quantize(sharded, root_ / "b", options);
    EXPECT_EQ(a.bytes_after, b.bytes_after);
    EXPECT_EQ(a.mean_sqnr_db(), b.mean_sqnr_db());
    const CompareReport compared = compare(root_ / "a", root_ / "b");
    EXPECT_TRUE(compared.equal_bits());
    EXPECT_EQ(compared.tensors.size(), 6u);
  }
  const auto index = io::parse_safetensors_index(
      read_bytes(root_ / "b" / "model.safetensors.index.json"), "index");
  ASSERT_TRUE(index.ok());
  EXPECT_EQ(index.value().at(std::string(kK) + ".weight_packed"),
            "model-00002-of-00002.safetensors");
  EXPECT_EQ(read_json(root_ / "b" / "model.safetensors.index.json")["metadata"]["total_size"],
            8 * 64 / 16 * 9 + 4 * 64 / 16 * 9 + 8 * 64 / 16 * 9 + 3 * 4 + (16 * 64 * 2 + 64) * 2);
}

TEST_F(RoundTrip, DequantizedValuesAreTheFormatsOwn) {
  const fs::path in = write_sharded("in", {kKWeight});
  quantize(in, root_ / "q");
  DequantizeOptions options;
  options.dtype = DType::kF32;
  const auto report = dequantize_checkpoint(root_ / "q", root_ / "back", options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report.value().weights, 3);
  EXPECT_FALSE(read_json(root_ / "back" / "config.json").contains("quantization_config"));
  EXPECT_FALSE(fs::exists(root_ / "back" / "hf_quant_config.json"));

  const auto quantized =
      io::SafetensorsFile::open((root_ / "q" / "model-00002-of-00002.safetensors").string());
  const auto back =
      io::SafetensorsFile::open((root_ / "back" / "model-00002-of-00002.safetensors").string());
  ASSERT_TRUE(quantized.ok() && back.ok());
  const auto* codes = quantized.value().find(kKWeight);
  const auto* scales = quantized.value().find(std::string(kK) + ".weight_scale");
  const float d = float_of(*quantized.value().find(std::string(kK) + ".weight_scale_2"));
  const auto* values = back.value().find(kKWeight);
  ASSERT_NE(values, nullptr);
  EXPECT_EQ(values->dtype, SafetensorsDType::kF32);
  EXPECT_EQ(values->shape, (std::vector<std::int64_t>{4, 64}));
  for (std::int64_t i = 0; i < 4 * 64; ++i) {
    float value = 0;
    std::memcpy(&value, values->data + i * 4, sizeof value);
    const std::uint8_t code = formats::e2m1_unpack(byte_of(*codes, i / 2), static_cast<int>(i % 2));
    ASSERT_EQ(value, formats::nvfp4_decode(code, byte_of(*scales, i / 16), d)) << i;
  }
  // Quantized and dequantized hold the same values; both differ from the original alike.
  const CompareReport same = compare(root_ / "q", root_ / "back");
  for (const ComparedTensor& tensor : same.tensors) EXPECT_EQ(tensor.error.noise, 0) << tensor.name;
  EXPECT_FALSE(same.equal_bits());
  const CompareReport lost = compare(in, root_ / "q"), again = compare(in, root_ / "back");
  for (std::size_t i = 0; i < lost.tensors.size(); ++i) {
    EXPECT_EQ(lost.tensors[i].error.noise, again.tensors[i].error.noise);
    EXPECT_EQ(lost.tensors[i].equal_bits, again.tensors[i].equal_bits);
  }
}

TEST_F(RoundTrip, EveryTypeOfOutput) {
  quantize(write_folder(), root_ / "q");
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    DequantizeOptions options;
    options.dtype = dtype;
    options.overwrite = true;
    ASSERT_TRUE(dequantize_checkpoint(root_ / "q", root_ / "back", options).ok());
    const auto back = io::SafetensorsFile::open((root_ / "back" / "model.safetensors").string());
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back.value().find(kQWeight)->dtype, io::stored_dtype(dtype));
  }
}

TEST_F(RoundTrip, ConvertKeepsCodesAndTurnsScales) {
  quantize(write_sharded("in", {kQWeight}), root_ / "modelopt");
  convert(root_ / "modelopt", root_ / "same", Convention::kModelOpt);
  EXPECT_TRUE(compare(root_ / "modelopt", root_ / "same").equal_bits());
  EXPECT_EQ(read_bytes(root_ / "modelopt" / "model-00001-of-00002.safetensors"),
            read_bytes(root_ / "same" / "model-00001-of-00002.safetensors"));

  const ConvertReport there =
      convert(root_ / "modelopt", root_ / "ct", Convention::kCompressedTensors);
  EXPECT_EQ(there.weights, 3);
  EXPECT_EQ(there.scales, 3);
  const ConvertReport back = convert(root_ / "ct", root_ / "back", Convention::kModelOpt);
  EXPECT_EQ(back.irreversible_scales, 0);
  // Exactly the scales that were counted come back changed.
  std::int64_t changed = 0;
  for (const ComparedTensor& tensor : compare(root_ / "modelopt", root_ / "back").tensors) {
    changed += !tensor.equal_bits;
  }
  EXPECT_EQ(changed, there.irreversible_scales);
  const auto a = ModelFiles::open(root_ / "modelopt"), b = ModelFiles::open(root_ / "ct");
  ASSERT_TRUE(a.ok() && b.ok());
  const auto bytes = [](const ModelFiles& files, const std::string& name) {
    const auto span = files.find(name).entry->bytes();
    return std::string(reinterpret_cast<const char*>(span.data()), span.size());
  };
  for (const std::string module : {kQ, kK, kO}) {
    EXPECT_EQ(bytes(a.value(), module + ".weight"), bytes(b.value(), module + ".weight_packed"));
    EXPECT_EQ(bytes(a.value(), module + ".weight_scale"),
              bytes(b.value(), module + ".weight_scale"));
    const float d = float_of(*a.value().find(module + ".weight_scale_2").entry);
    EXPECT_EQ(float_of(*b.value().find(module + ".weight_global_scale").entry), 1.0f / d);
  }
  // And once more: a file that convert wrote converts back and forth for ever.
  convert(root_ / "back", root_ / "ct2", Convention::kCompressedTensors);
  EXPECT_TRUE(compare(root_ / "ct", root_ / "ct2").equal_bits());
}

TEST_F(RoundTrip, ActivationScales) {
  const fs::path in = write_folder();
  QuantizeOptions options;
  options.activation_amax = ActivationAmax{{kQ, 3.0f}, {kK, 5.0f}, {kO, 7.0f}, {"other", 1.0f}};
  const QuantizeReport report = quantize(in, root_ / "q", options);
  EXPECT_TRUE(report.activations);
  ASSERT_EQ(report.notes.size(), 1u);  // "other"
  EXPECT_EQ(read_json(root_ / "q" / "hf_quant_config.json")["quantization"]["quant_algo"], "NVFP4");
  const auto file = io::SafetensorsFile::open((root_ / "q" / "model.safetensors").string());
  ASSERT_TRUE(file.ok());
  for (const auto& [module, amax] : {std::pair{kQ, 5.0f}, {kK, 5.0f}, {kO, 7.0f}}) {
    const auto* scale = file.value().find(std::string(module) + ".input_scale");
    ASSERT_NE(scale, nullptr);
    EXPECT_EQ(float_of(*scale), amax / 2688.0f);
  }
  const ConvertReport converted =
      convert(root_ / "q", root_ / "ct", Convention::kCompressedTensors);
  EXPECT_EQ(converted.scales, 6);
  const auto config = read_json(root_ / "ct" / "config.json")["quantization_config"];
  EXPECT_EQ(config["config_groups"]["group_0"]["input_activations"]["dynamic"], "local");

  options.activation_amax->erase(kK);
  expect_refused(in, root_ / "x", options, StatusCode::kData, kK);
  options.format = Format::kMxfp4;
  expect_refused(in, root_ / "x", options, StatusCode::kInvalidArgument, "activation amax");
}

TEST_F(RoundTrip, ActivationAmaxFiles) {
  write_text(root_ / "amax.json", R"({"a": 2.5, "b": 7})");
  const auto json = read_activation_amax(root_ / "amax.json");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json.value(), (ActivationAmax{{"a", 2.5f}, {"b", 7.0f}}));
  for (const char* text :
       {"[]", "{}", R"({"a": 0})", R"({"a": -1})", R"({"a": "1"})", R"({"a": 1e60})"}) {
    write_text(root_ / "amax.json", text);
    const auto bad = read_activation_amax(root_ / "amax.json");
    ASSERT_FALSE(bad.ok()) << text;
    EXPECT_EQ(bad.status().code(), StatusCode::kData);
  }
  float values[] = {2.5f, 3.0f};
  const io::NamedTensor tensors[] = {
      {"a.amax", TensorView(&values[0], DType::kF32, {1})},
      {"b", TensorView(&values[1], DType::kF32, std::span<const std::int64_t>{})}};
  ASSERT_TRUE(io::write_safetensors((root_ / "amax.safetensors").string(), tensors, {}).ok());
  const auto file = read_activation_amax(root_ / "amax.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file.value(), (ActivationAmax{{"a", 2.5f}, {"b", 3.0f}}));
  std::string used;
  const ActivationAmax experts = {{"l.experts.up_proj", 4.0f}};
  EXPECT_EQ(find_activation_amax(experts, "l.experts.3.up_proj", used), 4.0f);
  EXPECT_EQ(used, "l.experts.up_proj");
  EXPECT_EQ(find_activation_amax(experts, "l.experts.3.down_proj", used), 0.0f);
}

TEST_F(RoundTrip, Fp8IsRead) {
  std::vector<std::uint8_t> codes(2 * 8);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 7);
  float per_tensor = 0.5f, per_row[] = {0.25f, 3.0f};
  const io::NamedTensor tensors[] = {
      {"a.weight", TensorView(codes.data(), DType::kU8, {2, 8}), SafetensorsDType::kF8E4M3},
      {"a.weight_scale", TensorView(&per_tensor, DType::kF32, std::span<const std::int64_t>{}), {}},
      {"a.input_scale", TensorView(&per_tensor, DType::kF32, {1}), {}},
      {"b.weight", TensorView(codes.data(), DType::kU8, {2, 8}), SafetensorsDType::kF8E4M3},
      {"b.weight_scale", TensorView(per_row, DType::kF32, {2, 1}), {}}};
  const fs::path in = root_ / "in.safetensors", out = root_ / "out.safetensors";
  ASSERT_TRUE(io::write_safetensors(in.string(), tensors, {}).ok());
  DequantizeOptions options;
  options.dtype = DType::kF32;
  ASSERT_TRUE(dequantize_checkpoint(in, out, options).ok());
  const auto file = io::SafetensorsFile::open(out.string());
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file.value().entries().size(), 2u);
  for (std::int64_t i = 0; i < 16; ++i) {
    float a = 0, b = 0;
    std::memcpy(&a, file.value().find("a.weight")->data + i * 4, 4);
    std::memcpy(&b, file.value().find("b.weight")->data + i * 4, 4);
    const float value = formats::e4m3_to_float(codes[static_cast<std::size_t>(i)]);
    EXPECT_EQ(a, value * per_tensor);
    EXPECT_EQ(b, value * per_row[i / 8]);
  }
}

TEST_F(RoundTrip, CompareSeesEveryDifference) {
  const fs::path a = write_file(root_ / "a.safetensors");
  add("only.b.weight", {4, 16}, 1.0f);
  tensors_["model.norm.weight"].values[3].bits ^= 1;
  add("lm_head.weight", {8, 64}, 1.0f);
  tensors_.erase(kQWeight);
  const fs::path b = write_file(root_ / "b.safetensors");
  const CompareReport report = compare(a, b);
  EXPECT_EQ(report.only_a, std::vector<std::string>{kQWeight});
  EXPECT_EQ(report.only_b, std::vector<std::string>{"only.b.weight"});
  for (const ComparedTensor& tensor : report.tensors) {
    const bool changed = tensor.name == "model.norm.weight" || tensor.name == "lm_head.weight";
    EXPECT_EQ(tensor.equal_bits, !changed) << tensor.name;
    EXPECT_EQ(tensor.compared, tensor.name == "model.norm.weight");
    EXPECT_EQ(tensor.difference,
              tensor.name == "lm_head.weight" ? "shape [16, 64] and [8, 64]" : "");
  }
}

}  // namespace
}  // namespace halfbyte::checkpoint
