// What a checkpoint holds, and what about it is suspicious. Headers, declarations and fp32 scales
// are read whole; block scales and codes in samples, so that size hardly matters.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "halfbyte/base/status.h"
#include "halfbyte/checkpoint/declaration.h"
#include "halfbyte/checkpoint/stored_weights.h"

namespace halfbyte::checkpoint {

// Block scales of a weight and their codes, over the sampled blocks.
struct ScaleStatistics {
  std::int64_t blocks = 0;
  std::int64_t zero = 0;             // scale 0 (E4M3)
  std::int64_t zero_with_codes = 0;  // of these: a code that is not 0
  std::int64_t nan = 0;
  std::int64_t negative = 0;         // E4M3 with the sign bit
  std::int64_t saturated = 0;        // 448
  std::int64_t zero_blocks = 0;      // every byte 0, codes and scale
  int min_byte = 255, max_byte = 0;  // of the scales that are neither zero nor NaN

  ScaleStatistics& operator+=(const ScaleStatistics& other);
};

struct InspectedWeight {
  std::string name;
  formats::Format format = formats::Format::kNvfp4;
  Convention convention = Convention::kModelOpt;
  std::vector<std::int64_t> shape;  // decoded
  bool has_global_scale = false;
  float global_scale = 0;  // as stored; the first of several
  bool has_input_scale = false;
  float input_scale = 0;
  ScaleStatistics scales;
};

enum class Severity { kNote, kWarning };

// One kind of finding, with all the tensors it was found in.
struct Finding {
  std::string kind;  // "nan_scale", "inverted_global_scale", ..; stable
  Severity severity = Severity::kWarning;
  std::string message;
  std::vector<std::string> tensors;
};

struct FormatTotals {
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;
};

struct InspectReport {
  std::int64_t shards = 0;
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;
  ReadDeclaration declaration;
  std::map<std::string, FormatTotals> formats;  // "nvfp4 modelopt", "BF16", ..
  std::vector<InspectedWeight> weights;
  std::vector<Finding> findings;
  std::int64_t sampled_blocks = 0;
  std::int64_t total_blocks = 0;
};

struct InspectOptions {
  bool full = false;  // every block instead of samples
};

// The kinds of findings:
//   nan_scale, negative_scale, zero_scale (its codes are not), uninitialised (all bytes zero, or
//   exponents all over the range), bad_global_scale (zero, negative, NaN, Inf),
//   inverted_global_scale (an encode scale where a decode scale belongs, or the other way round),
//   fused_scales_differ, activation_scale_missing, activation_scale_unused, undeclared,
//   declaration_differs, not_in_ignore, ignored_but_quantized, block_alignment (K not a multiple of
//   64), tensor_parallel (note: per-rank K not a multiple of 64 at 2, 4 or 8 ranks)
//
// Errors: kIo, kData (find_stored_weights), kUnsupported.
base::Result<InspectReport> inspect_checkpoint(const std::filesystem::path& path,
                                               const InspectOptions& options);

}  // namespace halfbyte::checkpoint
