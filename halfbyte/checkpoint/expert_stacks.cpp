#include "halfbyte/checkpoint/expert_stacks.h"

#include <algorithm>
#include <iterator>
#include <optional>

namespace halfbyte::checkpoint {
namespace {

using base::Result;

// Models whose files hold [E, in, out].
constexpr std::string_view kTransposedModels[] = {
    "gpt_oss", "llama4",    "llama4_text",  "openai_privacy_filter",
    "aria",    "aria_text", "qwen3_vl_moe", "qwen3_vl_moe_text"};
// Of these, those that ModelOpt writes as one stack.
constexpr std::string_view kStackedModels[] = {"gpt_oss", "llama4", "llama4_text"};
// Gate and up rows alternate, with biases that would have to be split too.
constexpr std::string_view kInterleavedModels[] = {"gpt_oss", "openai_privacy_filter"};

template <class List>
bool is_one_of(const List& list, std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

std::string_view leaf_of(std::string_view name) { return name.substr(name.rfind('.') + 1); }

// True for [E, in, out], false for [E, out, in]; none where it cannot be told. `hidden` is the
// input of gate and up and the output of down.
std::optional<bool> is_transposed(const io::SafetensorsEntry& entry, const ModelShape& model) {
  const bool down = leaf_of(entry.name) == "down_proj";
  const bool middle = entry.shape[1] == model.hidden_size;
  const bool last = entry.shape[2] == model.hidden_size;
  if (model.hidden_size > 0 && middle != last) return down ? last : middle;
  if (is_one_of(kTransposedModels, model.model_type)) return true;
  return std::nullopt;
}

MatrixSource expert_matrix(const TensorRef& tensor, std::int64_t expert, bool transposed) {
  const auto& shape = tensor.entry->shape;
  MatrixSource source;
  source.tensor = tensor;
  source.dtype = *io::computed_dtype(tensor.entry->dtype);
  source.first = expert * shape[1] * shape[2];
  source.rows = transposed ? shape[2] : shape[1];
  source.columns = transposed ? shape[1] : shape[2];
  source.row_stride = transposed ? 1 : shape[2];
  source.column_stride = transposed ? shape[2] : 1;
  return source;
}

// One layer an expert; gate_up becomes gate (the first half of the rows) and up.
void split_expert(const TensorRef& tensor, std::int64_t expert, bool transposed,
                  std::vector<StackMatrix>& out) {
  const std::string& name = tensor.entry->name;
  const std::string_view leaf = leaf_of(name);
  const std::string prefix =
      name.substr(0, name.size() - leaf.size()) + std::to_string(expert) + ".";
  const MatrixSource whole = expert_matrix(tensor, expert, transposed);
  if (leaf != "gate_up_proj") {
    out.push_back({prefix + std::string(leaf), whole, 0});
    return;
  }
  MatrixSource half = whole;
  half.rows = whole.rows / 2;
  out.push_back({prefix + "gate_proj", half, 0});
  half.first += half.rows * whole.row_stride;
  out.push_back({prefix + "up_proj", half, 0});
}

}  // namespace

Result<StackPlan> plan_stack(const TensorRef& tensor, const std::string& place,
                             const ModelShape& model, Convention convention,
                             formats::Format format) {
  const auto& shape = tensor.entry->shape;
  const std::string got = io::short_shape(shape) + " and model_type '" + model.model_type + "'";
  const auto refuse = [&](const std::string& expected) {
    return base::unsupported(place + "stacked experts: expected " + expected + ", got " + got +
                             " (--ignore leaves them as they are)");
  };
  const std::optional<bool> transposed = is_transposed(*tensor.entry, model);
  if (!transposed) {
    return refuse("a shape in which config.json's hidden_size (" +
                  std::to_string(model.hidden_size) + ") tells the input axis");
  }
  const std::int64_t columns = *transposed ? shape[1] : shape[2];
  const std::int64_t rows = *transposed ? shape[2] : shape[1];
  const int block = formats::block_elements(format);
  if (columns % block != 0 || columns == 0 || rows == 0 || shape[0] == 0) {
    return refuse("an input axis that is a multiple of " + std::to_string(block));
  }
  StackPlan plan;
  const bool interleaved = is_one_of(kInterleavedModels, model.model_type);
  if (convention == Convention::kGptOss) {
    if (!interleaved || !*transposed) return refuse("a gpt-oss model for convention gpt-oss");
    plan.packing = Packing::kBlocks;
  } else if (convention == Convention::kModelOpt && *transposed &&
             is_one_of(kStackedModels, model.model_type)) {
    plan.packing = Packing::kTransposed;
  } else if (interleaved) {
    return refuse("convention gpt-oss (mxfp4) or modelopt (nvfp4) for a gpt-oss model");
  } else if (leaf_of(tensor.entry->name) == "gate_up_proj" && rows % 2 != 0) {
    return refuse("an even number of gate and up rows");
  }
  for (std::int64_t expert = 0; expert < shape[0]; ++expert) {
    if (plan.packing == Packing::kRows) {
      split_expert(tensor, expert, *transposed, plan.matrices);
    } else {
      plan.matrices.push_back(
          {tensor.entry->name, expert_matrix(tensor, expert, *transposed), expert});
    }
  }
  return plan;
}

std::vector<StackMatrix> split_stack(const TensorRef& tensor, const ModelShape& model) {
  std::vector<StackMatrix> matrices;
  const std::optional<bool> transposed = is_transposed(*tensor.entry, model);
  if (!transposed || is_one_of(kInterleavedModels, model.model_type)) return matrices;
  for (std::int64_t expert = 0; expert < tensor.entry->shape[0]; ++expert) {
    split_expert(tensor, expert, *transposed, matrices);
  }
  return matrices;
}

}  // namespace halfbyte::checkpoint
