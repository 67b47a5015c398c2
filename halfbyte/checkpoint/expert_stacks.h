// Stacks of experts: all weights of a layer's experts in one 3-D tensor. Which axis is the input,
// and how engines expect the quantized form.
//
//   Llama 4, gpt-oss, ..    [E, in, out]   ModelOpt: one stack, quantized along `in`, stored in the
//                                          same orientation; one fp32 scale a stack
//   gpt-oss, MXFP4          [E, in, out]   <name>_blocks and <name>_scales, [E, out, ..]
//   Qwen, GLM, Mixtral, ..  [E, out, in]   one 2-D layer an expert:
//   experts.<e>.{gate,up,down}_proj,
//                                          as ModelOpt and llm-compressor write them
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/conventions.h"
#include "halfbyte/checkpoint/declaration.h"
#include "halfbyte/checkpoint/matrix_source.h"

namespace halfbyte::checkpoint {

enum class Packing {
  kRows,        // codes [N, K/2] of one matrix
  kTransposed,  // [E, K/2, N], scales [E, K/16, N]: ModelOpt's stacks
  kBlocks,      // [E, N, K/32, 16], scales [E, N, K/32]: gpt-oss
};

struct StackMatrix {
  std::string module;  // "<..>.experts.3.gate_proj"; of a stack that stays one: its name
  MatrixSource source;
  std::int64_t matrix = 0;  // its place in a stack that stays one
};

struct StackPlan {
  Packing packing = Packing::kRows;  // kRows: one layer an expert
  std::vector<StackMatrix> matrices;
};

// Errors (kUnsupported, naming tensor and remedy): neither the shape nor the model type tells which
// axis is the input; blocks do not fill it; the convention has no form that engines load.
base::Result<StackPlan> plan_stack(const TensorRef& tensor, const std::string& place,
                                   const ModelShape& model, Convention convention,
                                   formats::Format format);

// The matrices of a stack as one 2-D layer an expert: how `compare` finds them. Empty where the
// orientation is not known.
std::vector<StackMatrix> split_stack(const TensorRef& tensor, const ModelShape& model);

}  // namespace halfbyte::checkpoint
