// Reads and encodes one matrix of a plan, piece by piece; pieces may run on any threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/quantize_plan.h"
#include "halfbyte/io/safetensors_shard_writer.h"

namespace halfbyte::checkpoint {

// Buffers of one thread, kept between pieces.
struct EncodeScratch {
  std::vector<float> input;  // elements of the source's type, aligned for any
  std::vector<float> original, restored;
  std::vector<std::uint8_t> codes, scales, transposed;
};

struct RowRange {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

// The pieces of a matrix: about 2 MiB of rows, or all of one that does not lie row by row.
std::vector<RowRange> pieces_of(const MatrixSource& source);

// The largest magnitude of a piece; NaN if any element is.
base::Result<float> piece_amax(const MatrixSource& source, RowRange rows, EncodeScratch& scratch);

// Encodes a piece and writes its codes and scales; the error is that of what a reader of the file
// gets. `family` is the layer's.
base::Result<TensorError> encode_piece(const PlannedLayer& layer, const Family& family,
                                       const QuantizationDeclaration& declaration, RowRange rows,
                                       EncodeScratch& scratch,
                                       const io::SafetensorsShardWriter& writer);

// Writes the fp32 scales of a layer (the first matrix of a stack does it for all).
base::Status write_scalars(const PlannedLayer& layer, const Family& family, Convention convention,
                           const io::SafetensorsShardWriter& writer);

}  // namespace halfbyte::checkpoint
