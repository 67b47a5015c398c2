// The quantized weights of a checkpoint, found by the names and types of its tensors, whatever the
// configuration says; and their values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/base/tensor_view.h"
#include "halfbyte/checkpoint/conventions.h"
#include "halfbyte/checkpoint/expert_stacks.h"
#include "halfbyte/checkpoint/model_files.h"
#include "halfbyte/formats/packed_tensor.h"

namespace halfbyte::checkpoint {

// NVFP4 and MXFP4 in every form of conventions.h and expert_stacks.h; FP8 with one scale a tensor
// or a row (`weight` E4M3 and `weight_scale`, decode).
struct StoredWeight {
  std::string name;    // of what it decodes to: "<module>.weight", or that of a stack
  std::string module;  // a stack's is its name
  formats::Format format = formats::Format::kNvfp4;
  Convention convention = Convention::kModelOpt;
  Packing packing = Packing::kRows;
  TensorRef codes, scales, global_scale, input_scale;  // absent where there is none
  std::int64_t matrices = 1;                           // experts of a stack
  std::int64_t rows = 0;                               // N, of each
  std::int64_t columns = 0;                            // K

  bool is_stack() const { return packing != Packing::kRows; }
  // What transformers expects: [N, K]; of a stack [E, K, N].
  std::vector<std::int64_t> decoded_shape() const;
  formats::ScaleKind scale_kind() const;
};

struct StoredCheckpoint {
  std::vector<StoredWeight> weights;  // in the order of their codes
  std::vector<TensorRef> plain;       // tensors that belong to none of them
  const StoredWeight* find(std::string_view name) const;
};

// True for a tensor that only a quantized checkpoint has.
bool is_quantized_tensor(const io::SafetensorsEntry& tensor);

// Errors: kData for a weight whose scales are missing or have another shape or type than the codes
// ask for; kUnsupported for quantized tensors of another kind (FP8 blocks, INT4, ..), naming them.
base::Result<StoredCheckpoint> find_stored_weights(const ModelFiles& files);

// The fp32 scale of a matrix, as stored; of FP8 of a row. Tensors of one element serve all.
float stored_scale(const TensorRef& scale, std::int64_t index);

struct DecodeScratch {
  std::vector<std::uint8_t> codes, scales;
  std::vector<float> values, row_scales;
};

// Rows [begin, begin + out's rows) of a matrix to `out`, [rows, K], dense fp32, fp16 or bf16. One
// thread.
base::Status decode_rows(const StoredWeight& weight, std::int64_t matrix, std::int64_t begin,
                         const base::TensorView& out, DecodeScratch& scratch);

// Gives the pages of those rows of codes and scales back to the system.
void release_stored(const StoredWeight& weight, std::int64_t matrix, std::int64_t begin,
                    std::int64_t count);

}  // namespace halfbyte::checkpoint
