// Pure functions: names, scales, declarations, which tensors are quantized.
#include "halfbyte/checkpoint/conventions.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "halfbyte/checkpoint/declaration.h"
#include "halfbyte/checkpoint/linear_weights.h"
#include "halfbyte/checkpoint/stored_weights.h"
#include "halfbyte/numerics/float_bits.h"

namespace halfbyte::checkpoint {
namespace {

using formats::Format;
using io::SafetensorsDType;
using nlohmann::json;

io::SafetensorsEntry tensor(const std::string& name, std::vector<std::int64_t> shape,
                            SafetensorsDType dtype = SafetensorsDType::kBF16) {
  io::SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = dtype;
  entry.shape = std::move(shape);
  return entry;
}

WeightChoice choose(const std::string& name, std::vector<std::int64_t> shape = {64, 64},
                    std::vector<std::string> ignore = {}, Format format = Format::kNvfp4) {
  return choose_weight(tensor(name, std::move(shape)), format, {std::move(ignore), {}});
}

TEST(Conventions, TensorNames) {
  const auto modelopt = linear_tensor_names(Convention::kModelOpt, Format::kNvfp4, "a.q_proj");
  EXPECT_EQ(modelopt.codes, "a.q_proj.weight");
  EXPECT_EQ(modelopt.scales, "a.q_proj.weight_scale");
  EXPECT_EQ(modelopt.global_scale, "a.q_proj.weight_scale_2");
  const auto ct = linear_tensor_names(Convention::kCompressedTensors, Format::kNvfp4, "a.q_proj");
  EXPECT_EQ(ct.codes, "a.q_proj.weight_packed");
  EXPECT_EQ(ct.scales, "a.q_proj.weight_scale");
  EXPECT_EQ(ct.global_scale, "a.q_proj.weight_global_scale");
  EXPECT_EQ(linear_tensor_names(Convention::kCompressedTensors, Format::kMxfp4, "a").global_scale,
            "");
}

TEST(Conventions, NamesRoundTrip) {
  EXPECT_EQ(convention_from_name("modelopt"), Convention::kModelOpt);
  EXPECT_EQ(convention_from_name("compressed-tensors"), Convention::kCompressedTensors);
  EXPECT_EQ(convention_from_name("gguf"), std::nullopt);
}

// What convert rests on, for every significand (powers of two only move the exponents): a scale
// that was converted once converts back and forth for ever.
TEST(Conventions, ReciprocalOfAReciprocalIsItsOwnInverse) {
  std::int64_t not_own_inverse = 0;
  for (std::uint32_t significand = 0; significand < (1u << 23); ++significand) {
    const float x = numerics::bits_float(0x3F800000u | significand);
    const float y = 1.0f / x;
    ASSERT_EQ(1.0f / (1.0f / y), y) << significand;
    not_own_inverse += 1.0f / y != x;
  }
  EXPECT_GT(not_own_inverse, 1'000'000);  // the reason for all this: one in seven
}

TEST(Conventions, StoredScalesAreAsComputed) {
  for (float amax = 1e-30f; amax < 1e30f; amax *= 1.37f) {
    const StoredScale ct = stored_scale_from_amax(Convention::kCompressedTensors, amax);
    EXPECT_EQ(ct.encode, 2688.0f / amax);
    EXPECT_EQ(ct.decode, 1.0f / ct.encode);
    const StoredScale modelopt = stored_scale_from_amax(Convention::kModelOpt, amax);
    EXPECT_EQ(modelopt.encode, 2688.0f / amax);
    EXPECT_EQ(modelopt.decode, amax / 2688.0f);
    EXPECT_TRUE(encodes_as_computed(Convention::kModelOpt, amax));
    EXPECT_FALSE(encodes_as_computed(Convention::kCompressedTensors, amax));
  }
}

TEST(Conventions, StoredScaleOfExtremesIsFiniteAndNormal) {
  EXPECT_EQ(stored_scale_from_amax(Convention::kModelOpt, 0.0f).encode, 1.0f);
  EXPECT_EQ(stored_scale_from_amax(Convention::kModelOpt, 0.0f).decode, 1.0f);
  for (const Convention convention : {Convention::kModelOpt, Convention::kCompressedTensors}) {
    for (const float amax : {1e-45f, 1e-38f, 3e-35f, 4e-35f, 3.4e38f}) {
      const StoredScale scale = stored_scale_from_amax(convention, amax);
      EXPECT_TRUE(std::isnormal(scale.encode)) << amax;
      EXPECT_TRUE(std::isnormal(scale.decode)) << amax;
      if (!encodes_as_computed(convention, amax)) {
        EXPECT_EQ(scale.decode, 1.0f / scale.encode) << amax;
      }
    }
  }
}

TEST(Conventions, ModelOptDeclaresWeightOnly) {
  const QuantizationDeclaration declaration{
      Format::kNvfp4, Convention::kModelOpt, false, false, {"lm_head", "model.layers.0.mlp.gate"}};
  const json hf = json::parse(hf_quant_config_json(declaration));
  EXPECT_EQ(hf["quantization"]["quant_algo"], "W4A16_NVFP4");
  EXPECT_EQ(hf["quantization"]["group_size"], 16);
  EXPECT_EQ(hf["quantization"]["exclude_modules"], json({"lm_head", "model.layers.0.mlp.gate"}));
  const json config = json::parse(quantization_config_json(declaration));
  EXPECT_EQ(config["quant_method"], "modelopt");
  EXPECT_EQ(config["quant_algo"], "W4A16_NVFP4");
  EXPECT_FALSE(config["config_groups"]["group_0"].contains("input_activations"));
}

TEST(Conventions, CompressedTensorsDeclaresWeightOnly) {
  for (const Format format : {Format::kNvfp4, Format::kMxfp4}) {
    const json config = json::parse(quantization_config_json(
        {format, Convention::kCompressedTensors, false, false, {"lm_head"}}));
    const bool nvfp4 = format == Format::kNvfp4;
    EXPECT_EQ(config["quant_method"], "compressed-tensors");
    EXPECT_EQ(config["format"], nvfp4 ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized");
    const json& group = config["config_groups"]["group_0"];
    EXPECT_TRUE(group.contains("input_activations") && group["input_activations"].is_null());
    EXPECT_EQ(group["weights"]["group_size"], nvfp4 ? 16 : 32);
    EXPECT_EQ(group["weights"]["strategy"], nvfp4 ? "tensor_group" : "group");
    EXPECT_EQ(config["ignore"], json({"lm_head"}));
  }
}

TEST(Conventions, ConfigKeepsWhatItHad) {
  const auto text =
      quantized_config_json(R"({"vocab_size": 3, "hidden_size": 4})", "config.json", {});
  ASSERT_TRUE(text.ok());
  const auto config = nlohmann::ordered_json::parse(text.value());
  EXPECT_EQ(config.begin().key(), "vocab_size");
  EXPECT_EQ(config["hidden_size"], 4);
  EXPECT_TRUE(config["quantization_config"].is_object());
}

TEST(Conventions, ConfigRefusals) {
  for (const char* text : {"", "[]", "{"}) {
    const auto config = quantized_config_json(text, "IN/config.json", {});
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_EQ(config.status().code(), base::StatusCode::kData);
    EXPECT_NE(config.status().message().find("IN/config.json"), std::string::npos);
  }
}

TEST(LinearWeights, LinearLayersAreQuantized) {
  const WeightChoice choice = choose("model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(choice.selection, Selection::kQuantize);
  EXPECT_EQ(choice.module, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(choose("model.layers.0.mlp.gate_proj.weight").selection, Selection::kQuantize);
  EXPECT_EQ(choose("model.layers.0.mlp.experts.3.w1.weight").selection, Selection::kQuantize);
}

TEST(LinearWeights, WhatIsNotALinearLayerIsKept) {
  EXPECT_EQ(choose("model.embed_tokens.weight").selection, Selection::kKeep);
  EXPECT_EQ(choose("transformer.wte.weight").selection, Selection::kKeep);
  EXPECT_EQ(choose("model.norm.weight", {64}).selection, Selection::kKeep);
  EXPECT_EQ(choose("model.layers.0.input_layernorm.weight", {1, 64}).selection, Selection::kKeep);
  EXPECT_EQ(choose("model.layers.0.self_attn.q_proj.bias", {64}).selection, Selection::kKeep);
  EXPECT_EQ(choose("conv.weight", {64, 64, 3, 3}).selection, Selection::kKeep);
  EXPECT_EQ(
      choose_weight(tensor("a.q_proj.weight", {64, 64}, SafetensorsDType::kI64), Format::kNvfp4, {})
          .selection,
      Selection::kKeep);
}

TEST(LinearWeights, ExcludedLinearLayersAreNamed) {
  EXPECT_EQ(choose("lm_head.weight").reason, "lm_head");
  EXPECT_EQ(choose("model.layers.0.mlp.gate.weight").reason, "router");
  EXPECT_EQ(choose("model.layers.0.block_sparse_moe.gate.weight").reason, "router");
  EXPECT_EQ(choose("model.layers.0.mlp.router.weight").reason, "router");
  EXPECT_EQ(choose("a.b.down_proj.weight", {64, 64}, {"x", "*.down_proj"}).reason,
            "ignored by '*.down_proj'");
  EXPECT_EQ(choose("a.q_proj.weight", {64, 72}).selection, Selection::kExclude);
  EXPECT_EQ(choose("a.q_proj.weight", {64, 48}).selection, Selection::kQuantize);
  EXPECT_EQ(choose("a.q_proj.weight", {64, 48}, {}, Format::kMxfp4).selection, Selection::kExclude);
  const WeightChoice stacked = choose("model.layers.0.mlp.experts.gate_up_proj", {8, 64, 64});
  EXPECT_EQ(stacked.selection, Selection::kQuantize);
  EXPECT_EQ(stacked.module, "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(choose("a.experts.input_linear.weight", {8, 64, 64}).selection, Selection::kExclude);
}

TEST(LinearWeights, IncludeBringsBackWhatIsLeftOutByDefault) {
  const WeightPatterns patterns{{"b.*"}, {"lm_head", "*embed*", "*.router", "b.lm_head"}};
  const auto selection = [&](const char* name, std::vector<std::int64_t> shape = {64, 64}) {
    return choose_weight(tensor(name, std::move(shape)), Format::kNvfp4, patterns).selection;
  };
  EXPECT_EQ(selection("lm_head.weight"), Selection::kQuantize);
  EXPECT_EQ(selection("model.embed_tokens.weight"), Selection::kQuantize);
  EXPECT_EQ(selection("a.router.weight"), Selection::kQuantize);
  EXPECT_EQ(selection("a.mlp.gate.weight"), Selection::kExclude);
  EXPECT_EQ(selection("b.lm_head.weight"), Selection::kExclude);          // ignore wins
  EXPECT_EQ(selection("lm_head.weight", {64, 72}), Selection::kExclude);  // blocks do not fill it
}

TEST(LinearWeights, FusedLayersShareAKey) {
  EXPECT_EQ(shared_scale_key("l.0.q_proj"), shared_scale_key("l.0.v_proj"));
  EXPECT_EQ(shared_scale_key("l.0.gate_proj"), shared_scale_key("l.0.up_proj"));
  EXPECT_EQ(shared_scale_key("e.1.w1"), shared_scale_key("e.1.w3"));
  EXPECT_EQ(shared_scale_key("a.q_a_proj"), shared_scale_key("a.kv_a_proj_with_mqa"));
  EXPECT_NE(shared_scale_key("l.0.q_proj"), shared_scale_key("l.1.q_proj"));
  EXPECT_NE(shared_scale_key("l.0.q_proj"), shared_scale_key("l.0.o_proj"));
  EXPECT_NE(shared_scale_key("e.1.w1"), shared_scale_key("e.1.w2"));
  EXPECT_EQ(shared_scale_key("l.0.o_proj"), "l.0.o_proj");
}

TEST(LinearWeights, QuantizedTensorsAreRecognised) {
  EXPECT_TRUE(is_quantized_tensor(tensor("a.weight_packed", {4, 8}, SafetensorsDType::kU8)));
  EXPECT_TRUE(is_quantized_tensor(tensor("a.weight_scale_2", {}, SafetensorsDType::kF32)));
  EXPECT_TRUE(is_quantized_tensor(tensor("a.weight", {4, 8}, SafetensorsDType::kU8)));
  EXPECT_TRUE(is_quantized_tensor(tensor("a.weight", {4, 8}, SafetensorsDType::kF8E4M3)));
  EXPECT_FALSE(is_quantized_tensor(tensor("a.weight", {4, 8})));
  EXPECT_FALSE(is_quantized_tensor(tensor("a.mask", {4, 8}, SafetensorsDType::kU8)));
}

}  // namespace
}  // namespace halfbyte::checkpoint
